"""Fuzz the reader of libraries for Linux."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import fuzz

SOURCE = """
extern void *PyModule_Create2(void *, int);
extern void __attribute__((weak)) *PyFrame_GetBack(void *);
extern int puts(const char *);
void *PyInit_activation(void) { puts("x"); return PyModule_Create2(PyFrame_GetBack(0), 1013); }
"""


def seeds() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        source, library = Path(directory, "a.c"), Path(directory, "a.so")
        source.write_text(SOURCE)
        for flags in ([], ["-s"], ["-Wl,--hash-style=sysv", "-Wl,-rpath,$ORIGIN"]):
            command = ["gcc", "-shared", "-fPIC", *flags, "-o", str(library), str(source)]
            subprocess.run(command, check=True)
            yield library.read_bytes()


fuzz("torch213-cxx11-cpu-x86_64-linux", "activation.abi3.so", seeds())
