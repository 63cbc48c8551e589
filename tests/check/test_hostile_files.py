"""Whatever a file contains, `check` returns a report: no crash, no hang, no unbounded memory."""

from __future__ import annotations

import gc
import json
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from check import native_files as files
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_core.check import Report, check

# Each breaks a rule, so that a part of it never passes for a compliant file.
MACHO = files.macho(
    [files.for_release(99), files.command(files.RPATH, text="/opt/lib")],
    {
        files.CHAINED_FIXUPS: files.chained_fixups(["_PyFrame_GetBack", "_puts"], 3),
        files.EXPORTS_TRIE: files.exports_trie("_PyInit_activation"),
    },
)
PE = files.pe({"KERNEL32.dll": ["Sleep"]}, delayed={"python311.dll": ["PyFrame_GetBack"]})
METADATA = {
    "name": "Activation",
    "id": "1",
    "version": -1,
    "python-depends": ["einops"],
    "backend": {"type": "cpu", "archs": ["8.0"]},
    "digest": {"algorithm": "sha256", "files": {"a.py": "YQ=="}},
    "kernel-depends": [{"repo-id": "org/other", "version": 1}],
}
PYTHON = """
import numpy
class Layer(__import__("torch").nn.Module):
    def forward(self, x: int | None, *args, **kwargs): return [y for y in x if (z := y)]
"""


def elf() -> bytes:
    """The smallest library for Linux: a header, two segments, and what the loader needs."""
    names = b"\0libz.so.1\0PyFrame_GetBack\0"
    symbols = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0) + struct.pack("<IBBHQQ", 11, 16, 0, 0, 0, 0)
    start = 64 + 2 * 56
    at = {"symbols": start, "names": start + len(symbols)}
    at["hash"] = at["names"] + len(names) + -len(names) % 8
    at["dynamic"] = at["hash"] + 24
    tags = [(1, 1), (5, at["names"]), (10, len(names)), (6, at["symbols"]), (11, 24)]
    tags += [(4, at["hash"]), (29, 1), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    size = at["dynamic"] + len(dynamic)
    header = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, size, size, 4096)
    place = at["dynamic"]
    pointer = struct.pack("<IIQQQQQQ", 2, 4, place, place, place, len(dynamic), len(dynamic), 8)
    table = struct.pack("<IIIIII", 1, 2, 1, 0, 0, 0)
    return (header + load + pointer + symbols + names).ljust(at["hash"], b"\0") + table + dynamic


# By the name of the file: the variant that it lies in, and what it holds.
FILES = {
    "elf.so": ("torch213-cxx11-cpu-x86_64-linux", elf()),
    "macho.so": ("torch213-cpu-aarch64-darwin", MACHO),
    "universal.so": (
        "torch213-cpu-aarch64-darwin",
        files.universal({files.X86_64: MACHO, files.ARM64: MACHO}),
    ),
    "pe.pyd": ("torch213-cpu-x86_64-windows", PE),
    "__init__.py": ("torch-cpu", PYTHON.encode()),
    "metadata.json": ("torch-cpu", json.dumps(METADATA).encode()),
}
EVERY = pytest.mark.parametrize("name", FILES)
NATIVE = pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".so", ".pyd"))])

Judge = Callable[[str, bytes], Report]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Check a repository with one file with this content."""
    root = tmp_path_factory.mktemp("hostile")
    families = ("native", "elf", "macho", "pe", "abi3", "python", "metadata")

    def judge(name: str, content: bytes) -> Report:
        file = root / name / "build" / FILES[name][0] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return check(root / name, select=families)

    return judge


def rules(report: Report) -> set[str]:
    return {finding.rule.id for finding in report.findings}


@EVERY
def test_the_whole_file_is_read(judge: Judge, name: str) -> None:
    found = rules(judge(name, FILES[name][1]))
    assert found
    assert not found & {"native-readable", "python-syntax"}


@pytest.fixture(autouse=True, scope="module")
def only_new_objects_are_collected() -> Iterator[None]:
    """Spare objects of other tests: pefile collects garbage for each file that it rejects."""
    gc.freeze()
    yield
    gc.unfreeze()


@EVERY
def test_a_file_that_ends_early(judge: Judge, name: str) -> None:
    content = FILES[name][1]
    for size in range(len(content)):
        report = judge(name, content[:size])
        # The beginning of a source file may well be a file that complies.
        assert report.findings or name == "__init__.py", f"of {size} bytes"


@EVERY
@settings(max_examples=150, deadline=5000)
@given(data=st.data())
def test_flipped_bits(judge: Judge, name: str, data: st.DataObject) -> None:
    content = bytearray(FILES[name][1])
    for bit in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=8)):
        content[bit // 8] ^= 1 << bit % 8
    judge(name, bytes(content))


@NATIVE
@settings(max_examples=150, deadline=5000)
@given(data=st.data())
def test_numbers_out_of_all_bounds(judge: Judge, name: str, data: st.DataObject) -> None:
    content = bytearray(FILES[name][1])
    size = data.draw(st.sampled_from([2, 4, 8]))
    at = data.draw(st.integers(0, (len(content) - size) // 2)) * 2
    top = 1 << 8 * size
    number = data.draw(st.sampled_from([0, 1, top - 1, top // 2, top // 2 - 1, len(content), at]))
    content[at : at + size] = number.to_bytes(size, "little")
    judge(name, bytes(content))


@EVERY
@settings(max_examples=100, deadline=5000)
@given(tail=st.binary(max_size=300))
def test_nonsense_after_the_beginning(judge: Judge, name: str, tail: bytes) -> None:
    judge(name, FILES[name][1][:4] + tail)


def elf_with(place: int, offset: int) -> bytes:
    """The library for Linux with another offset in its header."""
    return elf()[:place] + struct.pack("<Q", offset) + elf()[place + 8 :]


def symbols_at(address: int) -> tuple[bytes, bytes]:
    """The dynamic tag of the table of symbols: as it is, and with this address."""
    return struct.pack("<QQ", 6, 64 + 2 * 56), struct.pack("<QQ", 6, address)


def leb(number: int, size: int) -> bytes:
    """A number of variable length, with the given number of bytes."""
    parts = [number >> 7 * place & 0x7F | 0x80 for place in range(size)]
    return bytes([*parts[:-1], parts[-1] & 0x7F])


def trie(content: bytes) -> bytes:
    return files.macho([], {files.EXPORTS_TRIE: content})


def growing_names() -> bytes:
    """Each name is the beginning of the next: together they would have gigabytes."""
    edge = b"\0\1" + b"a" * 990 + b"\0"
    return trie(b"".join(edge + leb(1000 * step, 7) for step in range(1, 3001)) + b"\1\0\0")


def shared_names() -> bytes:
    imports = struct.pack("<7I", 0, 28, 28, 28 + 4 * 2**20, 2**20, 1, 0) + bytes(4 * 2**20)
    return files.macho([], {files.CHAINED_FIXUPS: imports + b"a" * 2**20 + b"\0"})


def endless_imports() -> bytes:
    return files.macho(
        [], {files.CHAINED_FIXUPS: struct.pack("<7I", 0, 0, 28, 28, 2**32 - 1, 1, 0)}
    )


def endless_exports() -> bytes:
    content = files.pe({})
    at = content.rindex(struct.pack("<II", 1, 1))
    return content[:at] + b"\xff" * 8 + content[at + 8 :]


def compressed_imports() -> bytes:
    table = struct.pack("<7I", 0, 28, 28, 28, 0, 1, 1)
    return files.macho([], {files.CHAINED_FIXUPS: table})


def program(*commands: bytes) -> bytes:
    return files.macho(commands)


def info_beyond_the_end() -> bytes:
    return program(files.command(files.DYLD_INFO_ONLY, *[2**32 - 1] * 10))


def symbols_beyond_the_end() -> bytes:
    return program(files.command(files.SYMTAB, 0, 2**32 - 1, 0, 9))


def empty_command() -> bytes:
    return struct.pack("<II", files.RPATH, 0)


def named_at(place: int) -> bytes:
    return files.command(files.DYLIB, place, 0, 0, 0)


def deep_indentation() -> bytes:
    return b"".join(b" " * level + b"if x:\n" for level in range(2000))


# What lies in which file, and what is said of it; "" where nothing needs to be found.
HOSTILE: list[tuple[str, str, Callable[[], bytes], str]] = [
    # The first of these was found by a fuzzer.
    (
        "elf.so",
        "segments where no file ends",
        lambda: elf_with(32, 2**64 - 4096),
        "but the file has",
    ),
    ("elf.so", "sections where no file ends", lambda: elf_with(40, 2**64 - 4096), ""),
    (
        "elf.so",
        "symbols where no file ends",
        lambda: elf().replace(*symbols_at(2**64 - 8)),
        "is not in",
    ),
    ("macho.so", "a tree that is a ring", lambda: trie(b"\0\1a\0\0"), "not a tree"),
    ("macho.so", "branches that meet", lambda: trie(b"\0\2a\0\7b\0\7\1\0\0"), "not a tree"),
    ("macho.so", "names that grow", growing_names, "more than 1000000 symbols"),
    ("macho.so", "a number without an end", lambda: trie(b"\xff" * 2**22), "does not end"),
    ("macho.so", "names that share a megabyte", shared_names, "more than 1000000 symbols"),
    ("macho.so", "imports without an end", endless_imports, "outside the table"),
    ("macho.so", "compressed imports", compressed_imports, "unknown format"),
    ("macho.so", "tables beyond the end", info_beyond_the_end, "beyond the end"),
    ("macho.so", "symbols beyond the end", symbols_beyond_the_end, "beyond the end"),
    ("macho.so", "an empty load command", lambda: program(empty_command()), "has 0 bytes"),
    ("macho.so", "a name after its command", lambda: program(named_at(2**31)), "is outside"),
    ("macho.so", "a name before its command", lambda: program(named_at(4)), "is outside"),
    (
        "macho.so",
        "endless commands",
        lambda: MACHO[:16] + b"\xff" * 4 + MACHO[20:],
        "limit of 10000",
    ),
    (
        "macho.so",
        "many CPUs",
        lambda: files.universal(dict.fromkeys(range(17), b"")),
        "limit of 16",
    ),
    ("pe.pyd", "imports without an end", lambda: files.pe({"a.dll": [7] * 2**20}), "more than"),
    ("pe.pyd", "a name without an end", lambda: files.pe({"a" * 20_000: ["f"]}), "does not end"),
    ("pe.pyd", "80 MB of names", lambda: files.pe({}, exports=["x" * 4000] * 20_000), "more than"),
    ("pe.pyd", "exports without an end", endless_exports, "but the file has"),
    ("pe.pyd", "no sections", lambda: PE[:70] + b"\0\0" + PE[72:], "0 of 0 sections"),
    ("metadata.json", "lists in lists", lambda: b"[" * 100_000 + b"]" * 100_000, "nested"),
    ("metadata.json", "objects in objects", lambda: b'{"a":' * 100_000 + b"}" * 100_000, ""),
    ("metadata.json", "an endless number", lambda: b'{"version": ' + b"9" * 2**20 + b"}", ""),
    ("__init__.py", "parentheses", lambda: b"(" * 100_000 + b")" * 100_000, ""),
    ("__init__.py", "few parentheses", lambda: b"(" * 150 + b")" * 150, ""),
    ("__init__.py", "calls in calls", lambda: b"f(" * 100_000 + b")" * 100_000, ""),
    ("__init__.py", "minus minus", lambda: b"-" * 100_000 + b"1", ""),
    ("__init__.py", "functions in functions", lambda: b"lambda:" * 100_000 + b"1", ""),
    ("__init__.py", "a long sum", lambda: b"x=1" + b"+1" * 200_000, ""),
    ("__init__.py", "attributes of attributes", lambda: b"x" + b".x" * 200_000, ""),
    ("__init__.py", "an endless number", lambda: b"x = " + b"9" * 2**20, ""),
    ("__init__.py", "a zero byte", lambda: b"x = 1\0\n", ""),
    ("__init__.py", "an unknown encoding", lambda: b"# coding: nonsense\n", ""),
    ("__init__.py", "half of a character", lambda: b"x = '\xe2\x82'", ""),
    ("__init__.py", "deep indentation", deep_indentation, ""),
]


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [(name, make, expected) for name, _, make, expected in HOSTILE],
    ids=[f"{name}: {what}" for name, what, _, _ in HOSTILE],
)
def test_hostile_content(judge: Judge, name: str, make: Callable[[], bytes], expected: str) -> None:
    content = make()
    begin = time.monotonic()
    tracemalloc.start()
    try:
        report = judge(name, content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300 * 2**20
    assert time.monotonic() - begin < 60
    if expected:
        assert any(expected in each.problem.message for each in report.findings), report.findings


@NATIVE
def test_memory_of_large_libraries(judge: Judge, tmp_path: Path, name: str) -> None:
    variant, content = FILES[name]
    file = tmp_path / "activation" / "build" / variant / name
    file.parent.mkdir(parents=True)
    with file.open("wb") as stream:
        stream.write(content)
        stream.truncate(500 * 2**20)
    script = f"""
from pathlib import Path
from kernels_core.check import check
findings = check({str(tmp_path / "activation")!r}, select=["native", "abi3"]).findings
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
print(len(findings), peak.split()[1])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    count, kilobytes = map(int, done.stdout.split())
    assert count == len(
        [each for each in judge(name, content).findings if each.rule.family in ("native", "abi3")]
    )
    assert kilobytes < 300 * 1024
