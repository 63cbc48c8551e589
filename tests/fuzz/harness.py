"""What all fuzzers share: a repository with one file that the fuzzer generates."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kernels_core", "elftools", "macholib", "pefile"]):
    from kernels_core.check import check
    from kernels_core.check.native import elf, macho, pe  # noqa: F401  so that they are instrumented

# What a user would consider a hang, and more memory than any check may use.
_LIMITS = ["-timeout=20", "-rss_limit_mb=700", "-max_len=65536"]


def fuzz(variant: str, name: str, seeds: Iterable[bytes]) -> None:
    """Check a repository repeatedly, with one file that the fuzzer generates from `seeds`.

    Whatever the file contains, `check` returns a report: an exception ends the fuzzer.
    """
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        file = root / "activation" / "build" / variant / name
        file.parent.mkdir(parents=True)
        corpus = root / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)

        def judge(data: bytes) -> None:
            file.write_bytes(data)
            check(root / "activation")

        atheris.Setup([*sys.argv, *_LIMITS, str(corpus)], judge)
        atheris.Fuzz()
