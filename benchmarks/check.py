"""Benchmark of `check`: a repository with many builds, and libraries of hundreds of megabytes.

Needs torch and gcc; no network. `kernel-abi-check`, which checks native code only, is measured on
the same files where it is installed. Each measurement has its own process, whose peak of resident
memory is reported. Prints a table and, as the last line, the same as JSON; with `--json` only JSON
goes to standard output. Whether a target was met does not change the exit code.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tables import aligned, spread, verdict

ROOT = Path(__file__).parents[1]
ROUNDS = 3
BUILDS = 100
SYMBOLS = 5_000  # beside those of the native test kernel
LARGE_SYMBOLS = 200_000
LARGE_BYTES = 500 * 2**20
TARGET_SECONDS = 30
TARGET_MB = 300

MEASURED = r"""
import json, re, sys, time
start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
# What getrusage says begins with the peak of the process that started this one.
peak = int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({{"seconds": seconds, "mb": peak, "modules": modules}}))
"""
OURS = """
from kernels_core.check import check
modules = check(sys.argv[1], select={select!r}).native_modules
"""
KERNEL_ABI_CHECK = """
import os
from kernel_abi_check import ObjectFile
modules = 0
inside = [os.path.join(at, name) for at, _, names in os.walk(sys.argv[1]) for name in names]
for file in inside or [sys.argv[1]]:
    if file.endswith(".so"):
        library = ObjectFile(file)
        library.check_python_abi("3.9")
        library.check_manylinux("manylinux_2_28")
        modules += 1
"""


def progress(text: str) -> None:
    """Print progress to standard error; standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


def write_library(target: Path, symbols: int, bytes_of_data: int = 0) -> None:
    """Link a library that exports many symbols and imports half as many."""
    lines = [".text", "base: ret", ".data"]
    for number in range(symbols):
        name = f"_ZN6kernel6detail12instantiatedILi{number}EEEvPKfPfl"
        lines += [f".globl {name}", f".set {name}, base"]
    lines += [f".quad _ZN5torch8imported{number}Ev" for number in range(symbols // 2)]
    lines += ['.section .note.GNU-stack,"",@progbits']
    assembly = target.with_suffix(".s")
    assembly.write_text("\n".join(lines) + "\n")
    data = target.with_suffix(".c")
    data.write_text(f"char data[{bytes_of_data or 1}] = {{1}};")
    command = ["gcc", "-shared", "-fPIC", "-nostdlib", "-s", str(assembly), str(data)]
    subprocess.run([*command, "-o", str(target)], check=True)
    for source in (assembly, data):
        source.unlink()


def write_repository(directory: Path) -> None:
    """Build the native test kernel, and copy it into many variants with another library beside."""
    file = ROOT / "tests" / "native" / "build.py"
    specification = importlib.util.spec_from_file_location("build_native", file)
    assert specification is not None
    assert specification.loader is not None
    native = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(native)
    first = native.build(directory)
    write_library(first / "instantiated.so", SYMBOLS)
    for number in range(BUILDS - 1):
        # The name of no build that exists: two digits of torch, two of the backend.
        name = f"torch2{number // 10}-cxx11-cu12{number % 10}-{platform.machine()}-linux"
        shutil.copytree(first, directory / "build" / name)


def measure(code: str, path: Path) -> dict[str, Any]:
    """Run code, which sets `modules`, in fresh processes: seconds, peak of memory, modules."""
    command = [sys.executable, "-c", MEASURED.format(code=code), str(path)]
    results = []
    for _ in range(ROUNDS):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    seconds = [each["seconds"] for each in results]
    figures = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
    return {
        "seconds": {name: round(value, 3) for name, value in figures.items()},
        "mb": round(max(each["mb"] for each in results)),
        "modules": results[0]["modules"],
    }


def rows(directory: Path, compare: bool) -> list[dict[str, Any]]:
    """Measure everything; writes half a gigabyte into the directory."""
    import torch

    progress(f"writing a repository with {BUILDS} builds")
    repository, large = directory / "repository", directory / "large.so"
    write_repository(repository)
    progress(f"linking a library of {LARGE_BYTES // 2**20} MiB")
    write_library(large, LARGE_SYMBOLS, LARGE_BYTES)
    # There need not be a file of this name, with other builds of torch.
    torch_library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    cases = [
        (f"a repository with {BUILDS} builds, all rules", repository, []),
        ("the same, rules for native code", repository, ["native", "elf", "abi3", "torch"]),
        (f"a library of {large.stat().st_size // 2**20} MiB", large, []),
    ]
    if torch_library.is_file():
        size = torch_library.stat().st_size // 2**20
        cases.append((f"torch's largest library, {size} MiB", torch_library, []))
    found = []
    for name, path, select in cases:
        progress(f"measuring {name}")
        ours = measure(OURS.format(select=select), path)
        quick, small = ours["seconds"]["max"] <= TARGET_SECONDS, ours["mb"] <= TARGET_MB
        row = {"what": name, "ours": ours, "met": quick and small}
        if compare and (select or path.is_file()):
            row["kernel_abi_check"] = measure(KERNEL_ABI_CHECK, path)
        found.append(row)
    return found


def describe(result: dict[str, Any]) -> str:
    """The result as a text table."""
    lines = [("", "modules", "ours s", "ours MB", "kernel-abi-check s", "MB", "")]
    for row in result["check"]:
        cells = [row["what"], str(row["ours"]["modules"])]
        for who in ("ours", "kernel_abi_check"):
            measured = row.get(who)
            cells.append(spread(measured["seconds"]) if measured else "-")
            cells.append(str(measured["mb"]) if measured else "-")
        lines.append((*cells, verdict(row)))
    about = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    return "\n".join(
        [
            f"{about}; median (min to max) of {ROUNDS} processes each, and the highest peak",
            f"targets: at most {TARGET_SECONDS} s and {TARGET_MB} MB",
            "",
            *aligned(lines),
        ]
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print nothing but JSON")
    arguments = parser.parse_args()
    compare = importlib.util.find_spec("kernel_abi_check") is not None
    environment = {
        "Python": platform.python_version(),
        "processors": os.cpu_count(),
        "kernels-core": version("kernels-core"),
        **({"kernel-abi-check": version("kernel-abi-check")} if compare else {}),
    }
    with tempfile.TemporaryDirectory() as directory:
        result = {"environment": environment, "check": rows(Path(directory), compare)}
    if not arguments.json:
        print(describe(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
