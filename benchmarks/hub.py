"""Benchmark of loading kernels from a Hub: requests, serial round trips and time.

A Hub on the loopback interface adds a latency to every answer. kernels-core and Hugging Face
`kernels` load the same kernels from it in turn: with an empty cache, in a new process, and once
more in that process. Publishers are trusted by the Hub only, and files are verified. The two differ
in what they import at once and what later, so the import is shown too; torch and the Hub client are
imported before. Prints a table and, as the last line, the same as JSON; with `--json` only JSON
goes to standard output. Whether a target was met does not change the exit code.
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
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
from tables import aligned, verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from hub_server import (
    Hub,
    client_environment,
    kernel_files,
    longest_chain,
    round_trips,
    settings,
)

PACKAGES = {"ours": "kernels_core", "hf_kernels": "kernels"}
KERNELS = 8
LATENCY = 0.05
PROCESSES = 3
STEPS = ("import", "cold", "warm, new process", "again in the process")
FIGURES = ("requests", "round_trips", "chain", "ms")


@attrs.frozen
class Scenario:
    """What a program loads, and how it names the commits.

    Attributes:
        what: "one" for one kernel through `get_kernel`, "all" for all of them through `kernelize`.
        by: "version", "specifier", "commit" or "lock".
        redirects: whether the Hub answers for small files with a redirect first.
        targets: by step, the most round trips that ours should take; 0 means no request.
        compared: whether Hugging Face `kernels` can do this.
    """

    what: str
    by: str
    targets: Mapping[str, float] = attrs.field(eq=False)
    redirects: bool = False
    compared: bool = True

    @property
    def name(self) -> str:
        """Its name in the table."""
        kernels = "one kernel" if self.what == "one" else f"{KERNELS} kernels"
        return f"{kernels} by {self.by}{', redirects' if self.redirects else ''}"


_, COLD, WARM, AGAIN = STEPS
SCENARIOS = (
    Scenario("one", "version", {COLD: 5, AGAIN: 0}),
    Scenario("one", "version", {COLD: 6, AGAIN: 0}, redirects=True),
    Scenario("all", "version", {COLD: 7, WARM: 1.5, AGAIN: 0}),
    Scenario("all", "version", {COLD: 8, WARM: 1.5, AGAIN: 0}, redirects=True),
    Scenario("all", "specifier", {COLD: 7, WARM: 1.5, AGAIN: 0}, compared=False),
    Scenario("all", "specifier", {COLD: 8, WARM: 1.5, AGAIN: 0}, redirects=True, compared=False),
    Scenario("all", "commit", {COLD: 7, WARM: 0, AGAIN: 0}),
    Scenario("all", "lock", {COLD: 7, WARM: 0, AGAIN: 0}),
)


def publish(hub: Hub) -> dict[str, str]:
    """Publish the kernels, and return the commit of each repository."""
    commits = {}
    for number in range(KERNELS):
        name = f"kernel-{number}"
        files = kernel_files(name, variant="torch-universal", digest=True)
        commits[f"bench/{name}"] = hub.add(f"bench/{name}", files, branch="v1", tag="v0.1.0")
    return commits


def references(
    scenario: Scenario, commits: Mapping[str, str], lockfile: Path
) -> list[dict[str, Any]]:
    """How the program names each kernel."""
    how: dict[str, Any] = {
        "version": lambda commit: {"version": 1},
        "specifier": lambda commit: {"version": ">=0.1,<0.2"},
        "commit": lambda commit: {"revision": commit},
        "lock": lambda commit: {"lockfile": str(lockfile)},
    }
    made = [{"repo_id": repo_id, **how[scenario.by](commit)} for repo_id, commit in commits.items()]
    return made[:1] if scenario.what == "one" else made


def write_lock(path: Path, commits: Mapping[str, str]) -> None:
    """Write a lock file that both implementations read."""
    locks = [
        {"dependency": {"repo-id": repo_id, "version": 1}, "lock": {"commit": commit}}
        for repo_id, commit in commits.items()
    ]
    path.write_text(json.dumps(locks), "utf-8")


def run_worker(hub: Hub, scenario: Scenario, package: str, folder: Path) -> list[dict[str, float]]:
    """Import and declare in a fresh process, load, and load once more: the figures of the three."""
    commits = publish(hub)
    lockfile = folder / "kernels.lock"
    write_lock(lockfile, commits)
    script = Path(__file__).with_name("hub_worker.py")
    arguments = [scenario.what, package, json.dumps(references(scenario, commits, lockfile))]
    # Bytecode is kept, as it is of installed packages; a checkout would be compiled each time.
    left_out = {*settings(os.environ), "PYTHONDONTWRITEBYTECODE"}
    environment = {name: os.environ[name] for name in set(os.environ) - left_out}
    environment |= client_environment(hub.endpoint, folder)
    # Without telemetry Hugging Face `kernels` sends a malformed header, which the client refuses.
    environment["HF_HUB_DISABLE_TELEMETRY"] = "0"
    hub.forget()
    run = subprocess.run(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    figures = []
    for start, end in json.loads(run.stdout.splitlines()[-1]):
        # The clock is the same for all processes of a machine.
        made = [request for request in hub.requests if start <= request.started <= end]
        figures.append(
            {
                "requests": len(made),
                "round_trips": round_trips(made, hub.latency),
                "chain": longest_chain(made),
                "ms": (end - start) * 1000,
            }
        )
    return figures


def measure(scenario: Scenario, package: str) -> dict[str, dict[str, float]]:
    """Load with an empty cache, then with the cache that this left, each in a fresh process."""
    with Hub() as hub, tempfile.TemporaryDirectory() as folder:
        hub.latency = LATENCY
        hub.redirects = scenario.redirects
        _, cold, _ = run_worker(hub, scenario, package, Path(folder))
        imported, warm, again = run_worker(hub, scenario, package, Path(folder))
    return dict(zip(STEPS, (imported, cold, warm, again), strict=True))


def measure_all(processes: int) -> list[dict[str, Any]]:
    """All scenarios, implementations in turn: a row of medians per scenario and step."""
    found: dict[tuple[Scenario, str], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for number in range(processes):
        for scenario in SCENARIOS:
            print(f"Measuring {scenario.name}, {number + 1} of {processes}", file=sys.stderr)
            for who, package in PACKAGES.items():
                if who == "ours" or scenario.compared:
                    for step, figures in measure(scenario, package).items():
                        found[scenario, step][who].append(figures)
    return [_row(scenario, step, said) for (scenario, step), said in found.items()]


def _row(scenario: Scenario, step: str, said: Mapping[str, list[Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"scenario": scenario.name, "step": step}
    for who, runs in said.items():
        row[who] = {
            name: round(statistics.median(run[name] for run in runs), 2) for name in FIGURES
        }
    if step in scenario.targets:
        row["target"] = scenario.targets[step]
        row["met"] = row["ours"]["round_trips"] <= row["target"]
    return row


def describe(rows: list[dict[str, Any]], processes: int) -> str:
    """The result as a text table."""
    heads = {"ours": "ours", "hf_kernels": "HF kernels"}
    figures = [
        f"{heads[who]}: {name}" for who in PACKAGES for name in ("requests", "round trips", "ms")
    ]
    lines = [("", "", *figures, "target", "")]
    for row in rows:
        cells = []
        for who in PACKAGES:
            of = row.get(who)
            cells += (
                [f"{of['requests']:.0f}", f"{of['round_trips']:.1f}", f"{of['ms']:.0f}"]
                if of
                else ["-"] * 3
            )
        target = ""
        if "target" in row:
            target = f"at most {row['target']}" if row["target"] else "no request"
        lines.append((row["scenario"], row["step"], *cells, target, verdict(row)))
    about = ", ".join(f"{name} {value}" for name, value in environment().items())
    return "\n".join(
        [
            f"{about}; {LATENCY * 1000:.0f} ms added to every answer; median of {processes}",
            "round trips: the time in which at least one answer was pending, in latencies",
            "",
            *aligned(lines),
        ]
    )


def environment() -> dict[str, Any]:
    """What the figures hold for."""
    names = ("kernels-core", "kernels", "huggingface_hub", "torch")
    packages = {name: version(name) for name in names}
    return {"python": platform.python_version(), "cpus": os.cpu_count(), **packages}


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="only JSON on standard output")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="how many times each")
    arguments = parser.parse_args()
    rows = measure_all(arguments.processes)
    print(describe(rows, arguments.processes), file=sys.stderr if arguments.json else sys.stdout)
    result = {"environment": environment(), "latency_ms": LATENCY * 1000, "hub": rows}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
