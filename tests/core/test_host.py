"""torch that is missing, left over or broken, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_source import install_plugin

ASK = """
from kernels_core.host import host_info
try:
    print(host_info().torch)
except ImportError as error:
    print(f"{type(error).__name__}: {error}")
"""
ASK_BY_LOADING = """
import sys, kernels_core
try:
    kernels_core.get_local_kernel(sys.argv[1], backend="acme")
except ImportError as error:
    print(f"{type(error).__name__}: {error}")
"""
ASK_BY_KERNELIZE = """
try:
    kernels_core.kernelize(object(), mode=kernels_core.Mode.INFERENCE)
except ImportError as error:
    print(f"{type(error).__name__}: {error}")
"""
BROKEN = """
with open(__file__ + ".imported", "a") as file:
    print("once", file=file)
import torch.version
raise OSError("libcudart.so.12: cannot open shared object file")
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory in front of everything that is installed."""
    path = tmp_path / "site"
    path.mkdir()
    return path


def write(site: Path, init: str) -> Path:
    """A package `torch`; returns the file that each import of it adds a line to."""
    (site / "torch").mkdir()
    (site / "torch" / "version.py").write_text("")
    init_file = site / "torch" / "__init__.py"
    init_file.write_text(init)
    return init_file.with_name("__init__.py.imported")


def run(code: str, site: Path, *arguments: str) -> list[str]:
    """The lines that a program prints, which must end well."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout.splitlines()


def test_a_torch_that_cannot_be_imported_is_imported_once(site, make_repository):
    imported = write(site, BROKEN)
    install_plugin(site, "acme")
    repository = make_repository({"torch-universal": {"__init__.py": ""}})
    code = ASK + ASK + ASK_BY_LOADING + ASK_BY_LOADING + ASK_BY_KERNELIZE
    lines = run(code, site, str(repository))
    assert len(lines) == 5
    assert len(set(lines)) == 1
    assert lines[0].startswith(f"DependencyError: torch could not be imported from {site}")
    assert "OSError: libcudart.so.12: cannot open shared object file" in lines[0]
    assert imported.read_text() == "once\n"


def test_a_torch_that_ends_the_program_is_named(site):
    write(site, "import sys\nsys.exit('licence expired')\n")
    first, second = run(ASK + ASK, site)
    assert first == second
    assert first.startswith(f"DependencyError: torch could not be imported from {site}")
    assert "SystemExit: licence expired" in first


def test_the_first_failure_may_be_the_programs_own(site):
    imported = write(site, BROKEN)
    (line,) = run("try:\n    import torch\nexcept OSError:\n    pass\n" + ASK, site)
    assert "an earlier import of it in this process failed" in line
    assert imported.read_text() == "once\n"


def test_a_torch_that_the_program_imported_after_a_failure_counts(site):
    complete = "__version__ = '2.9.1'\ndef compiled_with_cxx11_abi():\n    return True\n"
    write(
        site,
        "import os\nif 'READY' not in os.environ:\n    raise OSError('no library')\n" + complete,
    )
    first, second = run(ASK + "import os\nos.environ['READY'] = '1'\nimport torch\n" + ASK, site)
    assert "no library" in first
    assert "version='2.9.1'" in second


@pytest.mark.parametrize(
    "before", ["", "import torch\n", "import sys\nsys.modules['torch'] = None\n"]
)
def test_a_leftover_directory_is_no_torch(site, before):
    (site / "torch" / "lib").mkdir(parents=True)
    # Without site-packages, so that there is no other torch; these are what the core needs.
    code = (
        "import sys, types\n"
        "sys.path[:] = [path for path in sys.path if not path.endswith('site-packages')]\n"
    )
    packages = {Path(p) for p in sys.path if p.endswith("site-packages")}
    for name in ("attr", "attrs", "packaging", "kernels_core"):
        found = [p / name for p in packages if (p / name).is_dir()]
        source = found[0] if found else Path(__file__).parents[2] / name
        (site / name).symlink_to(source)
    assert run(code + before + ASK, site) == ["None"]


@pytest.mark.parametrize("source", ["x = 1", "__version__ = 'mine'", "__version__ = '2.9.1'"])
def test_a_file_of_the_user_named_torch_is_named(site, source):
    (site / "torch.py").write_text(source)
    if sys.platform != "linux" and "2.9.1" in source:
        pytest.skip("only on Linux is torch asked for its C++ ABI")
    (line,) = run(ASK, site)
    assert line.startswith("DependencyError: What `import torch` imports")
    assert str(site / "torch.py") in line


def test_damaged_metadata_of_another_package_does_not_matter(site):
    (site / "apache_tvm_ffi-0.1.0.dist-info").mkdir()
    (site / "torch.py").write_text(
        "__version__ = '2.9.1'\ndef compiled_with_cxx11_abi():\n    return True\n"
    )
    (line,) = run(ASK, site)
    assert "version='2.9.1'" in line


def test_the_doctor_says_what_is_wrong_with_torch(site):
    imported = write(site, BROKEN)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "kernels_core", "doctor"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 1
    assert "libcudart.so.12: cannot open shared object file" in process.stdout.splitlines()[-1]
    assert process.stdout.count("Problem:") == 1
    assert imported.read_text() == "once\n"
