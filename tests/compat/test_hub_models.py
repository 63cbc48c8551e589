"""Models of transformers with kernels from a Hub: online, offline, without a Hub, beside others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from compat.norm import NORM
from hub_server import Hub, kernel_files

Run = Callable[..., str]

MODEL = """
import json
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import kernels
import kernels_core

torch.manual_seed(0)
config = AutoConfig.for_model(
    "llama", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    vocab_size=50, pad_token_id=0,
)
model = AutoModelForCausalLM.from_config(config).eval()
tokens = torch.arange(1, 9)[None]
with torch.no_grad():
    expected = model(tokens).logits
layer = kernels.LayerRepository("acme/norms", layer_name="Norm", version=1)
with kernels.use_kernel_mapping({"RMSNorm": {"cpu": {kernels.Mode.INFERENCE: layer}}}):
    model.set_use_kernels(True)
(row,) = (row for row in kernels_core.report(model).rows if row.layer_name == "RMSNorm")
with torch.no_grad():
    same = torch.allclose(model(tokens).logits, expected, atol=1e-5)
reason = "; ".join([*row.passed_over, row.reason])
print(json.dumps([row.kernel, row.count, same, reason]))
"""


@pytest.fixture
def published(hub: Hub) -> Hub:
    pytest.importorskip("transformers")
    files = kernel_files("norms", variant="torch-universal", source=NORM)
    hub.add("acme/norms", files, branch="v1", publisher_trusted=True)
    return hub


def outcome(run: Run, **variables: str) -> list[Any]:
    found: list[Any] = json.loads(run(MODEL, **variables).splitlines()[-1])
    return found


HUB, BUNDLED = "Norm", "RMSNorm"


def test_a_model_uses_kernels_from_the_hub_and_then_from_the_cache(
    published: Hub, run: Run
) -> None:
    assert outcome(run) == [HUB, 5, True, ""]
    assert outcome(run, HF_HUB_OFFLINE="1") == [HUB, 5, True, ""]
    published.stop()
    assert outcome(run) == [HUB, 5, True, ""]


def test_a_model_uses_bundled_kernels_where_the_hub_is_out_of_reach(
    published: Hub, run: Run
) -> None:
    *found, reason = outcome(run, HF_HUB_OFFLINE="1")
    assert found == [BUNDLED, 5, True]
    assert "HF_HUB_OFFLINE is set" in reason
    published.stop()
    *found, reason = outcome(run, KERNELS_BUNDLED="off")
    assert found == [None, 5, True]
    assert "acme/norms" in reason


def test_a_model_asks_no_hub_where_bundled_kernels_come_first(published: Hub, run: Run) -> None:
    assert outcome(run, KERNELS_BUNDLED="first") == [BUNDLED, 5, True, ""]
    assert not [request for request in published.requests if "norms" in request.path]


@pytest.mark.parametrize(("bundled", "kernel"), [("fallback", BUNDLED), ("off", None)])
def test_a_model_never_uses_a_kernel_of_a_publisher_that_is_not_trusted(
    hub: Hub, run: Run, bundled: str, kernel: str | None
) -> None:
    pytest.importorskip("transformers")
    files = kernel_files("norms", variant="torch-universal", source=NORM)
    hub.add("acme/norms", files, branch="v1", publisher_trusted=False)
    *found, reason = outcome(run, KERNELS_BUNDLED=bundled)
    assert found == [kernel, 5, True]
    assert "trusted" in reason


TOGETHER = (
    MODEL
    + """
# As diffusers calls it.
attention = kernels.get_kernel(
    "acme/attention", version=0, user_agent={"framework": "diffusers"}, trust_remote_code=False
)
assert attention.answer() == "attention with helper"
loaded = kernels.get_loaded_kernels()
print(json.dumps([kernel.repo_info.repo_id for kernel in loaded if kernel.repo_info]))
"""
)
ATTENTION = """
from kernels import get_kernel_dep

helper = get_kernel_dep("acme/helper")


def answer():
    return f"attention with {helper.name}"
"""


def test_programs_of_several_libraries_share_a_process(published: Hub, run: Run) -> None:
    helper = kernel_files("helper", variant="torch-universal", source="name = 'helper'\n")
    published.add("acme/helper", helper, branch="v2", publisher_trusted=True)
    needs = [{"repo-id": "acme/helper", "version": 2}]
    attention = kernel_files(
        "attention", variant="torch-universal", source=ATTENTION, kernel_depends=needs
    )
    published.add("acme/attention", attention, branch="v0", publisher_trusted=True)
    *_, model, loaded = run(TOGETHER).splitlines()
    assert json.loads(model) == [HUB, 5, True, ""]
    assert json.loads(loaded) == ["acme/norms", "acme/helper", "acme/attention"]
