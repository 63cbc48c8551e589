"""The benchmark runs, and its baseline does what it is documented to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import MethodType
from typing import Any

import pytest

pytest.importorskip("kernels", reason="needs Hugging Face kernels: pip install kernels")


@pytest.fixture
def trees(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import trees  # type: ignore[import-not-found, unused-ignore] # found by the line above

    return trees


def test_the_baseline_binds_a_function_to_every_extensible_layer(trees: Any) -> None:
    classes: list[Any] = [type(f"Layer{number}", (trees.OwnTensor,), {}) for number in range(5)]
    tree = trees.Tree(classes, 20)
    tree.model.append(tree.model[0])  # a block twice in the tree
    functions = {cls: lambda module, x: (type(module), x) for cls in classes}
    trees.bind(tree.model, functions)
    layers = [module for module in tree.model.modules() if type(module) in functions]
    assert len(layers) == 20
    for layer in layers:
        assert isinstance(layer.__dict__["forward"], MethodType)
        assert layer(1) == (type(layer), 1)
    assert all("forward" not in block.__dict__ for block in tree.model)


def test_a_change_adds_one_layer_moves_one_and_wraps_one(trees: Any) -> None:
    classes = [type(f"Layer{number}", (trees.OwnTensor,), {}) for number in range(5)]
    tree = trees.Tree(classes, 20)
    tree.change()
    layers = [module for module in tree.model.modules() if isinstance(module, trees.OwnTensor)]
    assert len(layers) == 21
    assert [layer.weight.device.type for layer in layers].count("meta") == 1
    assert sum("forward" in layer.__dict__ for layer in layers) == 1


def test_it_measures_both_implementations_and_prints_json(repository: Path) -> None:
    script = repository / "benchmarks" / "kernelize.py"
    command = [sys.executable, str(script), "--json", "--processes", "1", "--layers", "100"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    steps = [(row["device_from"], row["step"]) for row in result["kernelize"]]
    assert steps == [
        (device_from, step)
        for device_from in ("own tensors", "subtree", "device=", "own, condition")
        for step in ("first", "second", "changed")
    ]
    for row in result["kernelize"]:
        assert row["ours_ms"]["median"] > 0
        assert row["hf_kernels_ms"]["median"] > 0
    assert result["import"]["ours_imports_heavy"] == []
    assert set(result["call"]) == {"ours", "hf_kernels", "target_ns", "met"}
    assert list(result["choosing"]) == [
        "builds",
        "mapping",
        "ranges",
        "first load",
        "first load in a process",
    ]
    for row in result["choosing"].values():
        assert set(row) == {"ours", "hf_kernels", "target_ms", "met"}
    assert "times baseline" in run.stderr
