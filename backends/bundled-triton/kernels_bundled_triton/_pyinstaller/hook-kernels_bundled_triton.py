"""Collect the kernels in this package."""

from kernels_core._pyinstaller import collect_kernels

datas, hiddenimports = collect_kernels("kernels_bundled_triton")
