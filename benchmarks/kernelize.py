"""Benchmark of kernelize, of finding kernels, of the import, and of calling a kernelized layer.

Measures kernels-core and Hugging Face `kernels` in turn, each time in a fresh process. Prints a
table and, as the last line, the same as JSON; with `--json` only JSON goes to standard output.
Whether a target was met does not change the exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tables import describe
from trees import write_repository

PACKAGES = {"ours": "kernels_core", "hf_kernels": "kernels"}
LAYERS = (100, 1_000, 10_000, 50_000)
PROCESSES = 5

# In multiples of the baseline, by what determines a layer's device.
SCALE_TARGETS = {"own tensors": 2.0, "subtree": 2.5, "device=": 2.0, "own, condition": 3.0}
if sys.version_info >= (3, 12):
    SCALE_TARGETS |= {"own tensors": 2.5, "device=": 2.5}
SCALE_TARGET_LAYERS = 10_000
# In milliseconds; None: as long as Hugging Face `kernels` takes.
CHOOSING_TARGETS = {
    "builds": 2.0,
    "mapping": 0.05,
    "ranges": 2.0,
    "first load": None,
    "first load in a process": None,
}
IMPORT_TARGET = 1 / 3
CALL_TARGET_NS = 60 if sys.version_info < (3, 12) else 300

IMPORT = """
import sys, time
start = time.perf_counter()
from {package} import kernelize, Mode, Device, LayerRepository, use_kernel_forward_from_hub
elapsed = time.perf_counter() - start
heavy = [name for name in ("torch", "huggingface_hub") if name in sys.modules]
import json
print(json.dumps({{"ms": elapsed * 1000, "heavy": heavy}}))
"""


def run_python(*arguments: str) -> Any:
    """Run a fresh Python and read the JSON that it prints last."""
    command = [sys.executable, *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def in_turn(processes: int, what: str, measure: Callable[[str], Any]) -> dict[str, list[Any]]:
    """Measure both implementations in turn, so many processes each; results by implementation."""
    said: dict[str, list[Any]] = {who: [] for who in PACKAGES}
    for number in range(processes):
        print(f"Measuring {what}, {number + 1} of {processes}", file=sys.stderr, flush=True)
        for who, package in PACKAGES.items():
            said[who].append(measure(package))
    return said


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread over processes."""
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in figures.items()}


def worker(what: str, package: str, repository: Path, *layers: int) -> Any:
    """Run the worker in a process of its own."""
    script = Path(__file__).with_name("worker.py")
    return run_python(str(script), what, package, str(repository), *map(str, layers))


def scale(processes: int, repository: Path, layers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Run kernelize over trees of all sizes, in milliseconds and in multiples of the baseline.

    The multiple is computed within each process, from a baseline measured right before.
    """
    said = in_turn(processes, "kernelize", lambda of: worker("scale", of, repository, *layers))
    found: dict[tuple[Any, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for who, runs in said.items():
        for figures in (figures for run in runs for figures in run):
            values = found[figures["layers"], figures["device_from"], figures["step"]]
            values["baseline_ms"].append(figures["baseline_ms"])
            values[f"{who}_ms"].append(figures["ms"])
            values[f"{who}_times"].append(figures["times"])
    rows = []
    for (count, device_from, step), values in found.items():
        row: dict[str, Any] = {"layers": count, "device_from": device_from, "step": step}
        row |= {name: summary(figures) for name, figures in values.items()}
        if count >= SCALE_TARGET_LAYERS and step != "first":
            row["target_times"] = SCALE_TARGETS[device_from]
            row["met"] = row["ours_times"]["median"] <= row["target_times"]
        rows.append(row)
    return rows


def imports(processes: int) -> dict[str, Any]:
    """Import time of the names that a declaration needs."""

    def measure(package: str) -> Any:
        return run_python("-c", IMPORT.format(package=package))

    in_turn(1, "import, to warm up", measure)
    said = in_turn(processes, "import", measure)
    result: dict[str, Any] = {who: summary([run["ms"] for run in said[who]]) for who in said}
    result["ours_imports_heavy"] = sorted({name for run in said["ours"] for name in run["heavy"]})
    result["target_ms"] = round(result["hf_kernels"]["median"] * IMPORT_TARGET, 3)
    result["met"] = (
        result["ours"]["median"] <= result["target_ms"] and not result["ours_imports_heavy"]
    )
    return result


def calls(processes: int, repository: Path) -> dict[str, Any]:
    """Nanoseconds per call beyond the same function as a plain forward."""
    said = in_turn(processes, "calls", lambda package: worker("call", package, repository))
    result: dict[str, Any] = {who: summary(values) for who, values in said.items()}
    result["target_ns"] = CALL_TARGET_NS
    result["met"] = result["ours"]["median"] <= CALL_TARGET_NS
    return result


def choosing(processes: int, repository: Path) -> dict[str, Any]:
    """Milliseconds for what does not depend on the size of the model: finding the kernels."""
    said = in_turn(processes, "choosing", lambda package: worker("choosing", package, repository))
    result: dict[str, Any] = {}
    for name, target in CHOOSING_TARGETS.items():
        row: dict[str, Any] = {who: summary([run[name] for run in said[who]]) for who in said}
        row["target_ms"] = row["hf_kernels"]["median"] if target is None else target
        row["met"] = row["ours"]["median"] <= row["target_ms"]
        result[name] = row
    return result


def environment() -> dict[str, Any]:
    """What the figures hold for."""
    packages = {name: version(name) for name in ("kernels-core", "kernels", "torch")}
    return {"python": platform.python_version(), "cpus": os.cpu_count(), **packages}


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="only JSON on standard output")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="fresh processes each")
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS, help="sizes of trees")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder, "bench")
        write_repository(repository)
        result = {
            "environment": environment(),
            "import": imports(arguments.processes),
            "call": calls(arguments.processes, repository),
            "choosing": choosing(arguments.processes, repository),
            "kernelize": scale(arguments.processes, repository, tuple(arguments.layers)),
        }
    table = describe(result, arguments.processes)
    print(table, file=sys.stderr if arguments.json else sys.stdout)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
