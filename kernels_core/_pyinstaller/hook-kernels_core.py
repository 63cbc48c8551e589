"""Collect the backend plugins that are installed, with the kernels in their packages."""

from importlib.metadata import entry_points

from PyInstaller.utils.hooks import collect_entry_point, collect_submodules, copy_metadata

from kernels_core._pyinstaller import collect_kernels

GROUP = "kernels_core.backends"
LEFT_OUT = ("kernels_core._pyinstaller", "kernels_core.testing")

datas, hiddenimports = collect_entry_point(GROUP)
datas += copy_metadata("kernels-core")
# Public names are imported when they are first used.
hiddenimports += collect_submodules(
    "kernels_core", filter=lambda name: not name.startswith(LEFT_OUT)
)
for package in sorted({entry.module.partition(".")[0] for entry in entry_points(group=GROUP)}):
    hiddenimports += collect_submodules(package)
    files, imported = collect_kernels(package)
    datas += files
    hiddenimports += imported
