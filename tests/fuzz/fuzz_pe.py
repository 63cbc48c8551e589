"""Fuzz the reader of libraries for Windows."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import fuzz

sys.path.insert(0, str(Path(__file__).parents[1]))
from check import native_files as files


def seeds() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        yield files.Zig(Path(directory)).windows().read_bytes()
    yield files.pe(
        {"python3.dll": ["PyModule_Create2", 7], "KERNEL32.dll": ["Sleep"]},
        delayed={"python311.dll": ["PyFrame_GetBack"]},
    )


fuzz("torch213-cpu-x86_64-windows", "activation.pyd", seeds())
