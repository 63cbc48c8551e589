"""The demo's proof can fail: it notices a layer that does not run its kernel."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the demo needs transformers")

# A small Llama with random weights, made extensible and kernelized as in the demo, and after that
# robbed of two kernels. In a process of its own, since the demo marks transformers' classes.
ROBBED = """
import json, sys
import torch
sys.path.insert(0, sys.argv[1])
import smollm2
from transformers import LlamaConfig, LlamaForCausalLM
import kernels_core

smollm2.make_extensible()
sizes = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).eval()
kernels_core.register_kernel_mapping(kernels_core.bundled_mapping())
kernels_core.kernelize(model, mode=kernels_core.Mode.INFERENCE, device="cpu")
prompt = torch.arange(4)[None]
whole = smollm2.count_kernel_calls(model, prompt)
kernels_core.unkernelize(model.model.norm)
mlp = model.model.layers[0].mlp
mlp.forward = lambda x: x
robbed = smollm2.count_kernel_calls(model, prompt)
print(json.dumps([whole, robbed]))
"""


@pytest.fixture(scope="module")
def demo(repository: Path) -> Any:
    spec = importlib.util.spec_from_file_location("demo", repository / "examples" / "smollm2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def layer(**changes: object) -> dict[str, object]:
    return {"layer_name": "SwiGLUMLP", "kernel": "SwiGLUMLP", "reason": "", **changes}


def test_nothing_failed_when_all_ran_their_kernel(demo: Any) -> None:
    calls = demo.KernelCalls("SwiGLUMLP", instances=30, instances_run=30, calls=30)
    assert demo.failures([layer()], [calls], tokens_identical=True) == []


def test_a_layer_that_was_not_replaced_is_a_failure(demo: Any) -> None:
    kept = layer(kernel=None, reason="its condition is False")
    (failure,) = demo.failures([kept], [], tokens_identical=True)
    assert failure == "SwiGLUMLP was not replaced: its condition is False"


@pytest.mark.parametrize(("instances", "run"), [(30, 29), (0, 0)])
def test_an_instance_that_did_not_run_its_kernel_is_a_failure(
    demo: Any, instances: int, run: int
) -> None:
    calls = demo.KernelCalls("SwiGLUMLP", instances=instances, instances_run=run, calls=run)
    (failure,) = demo.failures([layer()], [calls], tokens_identical=True)
    assert f"only {run} of {instances} SwiGLUMLP" in failure


def test_other_tokens_are_a_failure(demo: Any) -> None:
    (failure,) = demo.failures([layer()], [], tokens_identical=False)
    assert "differ" in failure


def test_calls_are_counted_where_they_happen(repository: Path) -> None:
    command = [sys.executable, "-c", ROBBED, str(repository / "examples")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    whole, robbed = json.loads(run.stdout)
    # layer, instances, instances that ran a kernel, calls
    assert whole == [
        ["RMSNorm", 5, 5, 5],
        ["SwiGLUMLP", 2, 2, 2],
        ["rotary_pos_emb", 1, 1, 2],
    ]
    assert robbed == [
        ["RMSNorm", 5, 4, 4],
        ["SwiGLUMLP", 2, 1, 1],
        ["rotary_pos_emb", 1, 1, 2],
    ]
