"""The benchmark of loading from a Hub runs, and its figures are those of the Hub's log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kernels", reason="needs Hugging Face kernels: pip install kernels")
pytest.importorskip("torch", reason="the benchmark kernelizes modules of torch")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import hub  # type: ignore[import-not-found, unused-ignore] # found by the line above

    return hub


def test_every_scenario_names_the_commits_in_its_own_way(benchmark: Any, tmp_path: Path) -> None:
    commits = {f"bench/kernel-{number}": str(number) * 40 for number in range(benchmark.KERNELS)}
    made = {}
    for scenario in benchmark.SCENARIOS:
        references = benchmark.references(scenario, commits, tmp_path / "kernels.lock")
        assert len(references) == (1 if scenario.what == "one" else benchmark.KERNELS)
        made[scenario.name] = references
    assert len(made) == len(benchmark.SCENARIOS)


@pytest.mark.parametrize("who", ["ours", "hf_kernels"])
def test_it_counts_the_requests_of_an_implementation(benchmark: Any, who: str) -> None:
    scenario = benchmark.Scenario("all", "commit", {"cold": 7})
    figures = benchmark.measure(scenario, benchmark.PACKAGES[who])
    assert tuple(figures) == benchmark.STEPS
    cold = figures["cold"]
    assert cold["requests"] >= 3 * benchmark.KERNELS, "three files of each kernel"
    assert cold["chain"] <= cold["requests"]
    # Each link of a chain took a latency, and waiting is a part of the whole time.
    assert cold["chain"] <= cold["round_trips"] <= cold["ms"] / 1000 / benchmark.LATENCY
    assert figures["again in the process"]["requests"] == 0


def test_the_table_has_both_and_says_whether_targets_are_met(benchmark: Any) -> None:
    scenario = benchmark.SCENARIOS[0]
    run = {"requests": 6, "round_trips": 3.2, "chain": 3, "ms": 200.0}
    slow = {"requests": 10, "round_trips": 8.4, "chain": 8, "ms": 450.0}
    rows = [
        benchmark._row(scenario, "cold", {"ours": [run, slow, run], "hf_kernels": [slow]}),
        benchmark._row(scenario, "again in the process", {"ours": [run]}),
    ]
    assert [row["met"] for row in rows] == [True, False]
    table = benchmark.describe(rows, 3)
    cold, again = table.splitlines()[-2:]
    assert " ".join(cold.split()).endswith("cold 6 3.2 200 10 8.4 450 at most 5 met")
    assert again.endswith("no request  not met")


def test_every_scenario_gets_a_row_per_step(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"requests": 6, "round_trips": 3.2, "chain": 3, "ms": 200.0}
    measured = []

    def measure(scenario: Any, package: str) -> dict[str, Any]:
        measured.append((scenario.name, package))
        return dict.fromkeys(benchmark.STEPS, figures)

    monkeypatch.setattr(benchmark, "measure", measure)
    rows = benchmark.measure_all(2)
    names = [scenario.name for scenario in benchmark.SCENARIOS]
    assert [row["scenario"] for row in rows] == [name for name in names for _ in benchmark.STEPS]
    assert all(measured.count((name, "kernels_core")) == 2 for name in names)
    compared = {scenario.name for scenario in benchmark.SCENARIOS if scenario.compared}
    assert {row["scenario"] for row in rows if "hf_kernels" in row} == compared
