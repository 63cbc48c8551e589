"""A Llama in several implementations, for the benchmark on a GPU.

Each implementation has its own model, with the same weights. The rotation of queries and keys is a
function in transformers' module, so a context manager replaces it while an implementation runs.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import kernels_core
from kernels_core import Mode

# With Hugging Face `kernels` installed, transformers would mark its function for all of them.
os.environ["USE_HUB_KERNELS"] = "NO"

from transformers import LlamaConfig
from transformers.models.llama import modeling_llama as llama

CONFIG = LlamaConfig(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
)
DTYPE = torch.bfloat16

EAGER_ROTARY = llama.apply_rotary_pos_emb
MODES = Mode.INFERENCE | Mode.TORCH_COMPILE


# Makes Llama's layers extensible, for kernels-core and for Hugging Face `kernels`.
ROTARY = kernels_core.use_kernel_forward_from_hub("rotary_pos_emb")(EAGER_ROTARY)
RMS_NORM, MLP = llama.LlamaRMSNorm, llama.LlamaMLP
kernels_core.replace_kernel_forward_from_hub(RMS_NORM, "RMSNorm")
kernels_core.replace_kernel_forward_from_hub(MLP, "SwiGLUMLP")
kernels_core.use_kernelized_func(ROTARY)(llama.LlamaAttention)


def build(device: torch.device, weights: dict[str, Any] | None = None) -> Any:
    """The model, with random or given weights."""
    make: Any = llama.LlamaForCausalLM  # typed in some versions of transformers only
    with torch.device(device):
        model = make(CONFIG)
    model = model.to(DTYPE).eval()
    if weights is not None:
        model.load_state_dict(weights)
    return model


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def with_ours(model: Any, mode: Mode = Mode.INFERENCE) -> Any:
    """Kernelize with the kernels of the backend, and check that every layer gets one."""
    mapping = kernels_core.bundled_mapping()
    kernels_core.kernelize(model, mode=mode, mapping=mapping)
    found = {row.layer_name: row for row in kernels_core.report(model).rows}
    for name in ("RMSNorm", "SwiGLUMLP", "rotary_pos_emb"):
        if not found[name].kernel:
            raise RuntimeError(f"{name} got no kernel: {found[name].reason}")
    return model


class LigerRMSNorm(nn.Module):
    """Liger's RMSNorm as a kernel layer."""

    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalize with Liger's function, as its own module for Llama does."""
        from liger_kernel.ops import rms_norm

        result: torch.Tensor = rms_norm.LigerRMSNormFunction.apply(
            hidden_states, self.weight, self.variance_epsilon, 0.0, "llama", True
        )
        return result


class LigerSwiGLUMLP(nn.Module):
    """Liger's SwiGLU as a kernel layer."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute with Liger's function, as its own module does."""
        from liger_kernel.ops import swiglu

        result: torch.Tensor = self.down_proj(
            swiglu.LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x))
        )
        return result


class _InMemory:
    """A repository for Hugging Face `kernels` that holds its layer in memory."""

    def __init__(self, layer: type[nn.Module]) -> None:
        self.layer = layer

    def load(self) -> type[nn.Module]:
        return self.layer


def with_hf_kernels(model: Any) -> Any:
    """Kernelize with Hugging Face `kernels`, and Liger's RMSNorm and SwiGLU."""
    import kernels

    mapping: Any = {
        "RMSNorm": {"cuda": _InMemory(LigerRMSNorm)},
        "SwiGLUMLP": {"cuda": _InMemory(LigerSwiGLUMLP)},
    }
    # It logs for each layer that it has no kernel for the rotation.
    logging.getLogger("kernels.layer.layer").setLevel(logging.ERROR)
    with kernels.use_kernel_mapping(mapping, inherit_mapping=False):
        kernels.kernelize(model, mode=kernels.Mode.INFERENCE, use_fallback=True)
    for module in model.modules():
        if type(module) in (RMS_NORM, MLP) and "forward" not in vars(module):
            raise RuntimeError(f"Hugging Face kernels did not replace {type(module).__name__}")
    return model


def with_liger(model: Any) -> Any:
    """Patch with Liger's own function for models; it replaces the rotation in the module."""
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama(
        rope=False,
        swiglu=True,
        rms_norm=True,
        cross_entropy=False,
        fused_linear_cross_entropy=False,
        model=model,
    )
    # It also replaced the classes in the module, which later models would use.
    vars(llama).update(LlamaRMSNorm=RMS_NORM, LlamaMLP=MLP)
    return model


@contextmanager
def rotation(function: Callable[..., Any]) -> Iterator[None]:
    """Let Llama's attention rotate with a function."""
    before = llama.apply_rotary_pos_emb
    llama.apply_rotary_pos_emb = function
    try:
        yield
    finally:
        llama.apply_rotary_pos_emb = before


def implementations(device: torch.device) -> dict[str, tuple[Any, Callable[..., Any]]]:
    """Every implementation that is installed: a model, and the rotation that it runs with."""
    eager = build(device)
    weights = eager.state_dict()
    found: dict[str, tuple[Any, Callable[..., Any]]] = {
        "eager": (eager, EAGER_ROTARY),
        "ours": (with_ours(build(device, weights)), ROTARY),
    }
    if installed("kernels") and installed("liger_kernel"):
        found["HF kernels with Liger"] = (with_hf_kernels(build(device, weights)), EAGER_ROTARY)
    if installed("liger_kernel"):
        from liger_kernel.transformers.rope import liger_rotary_pos_emb

        found["Liger"] = (with_liger(build(device, weights)), liger_rotary_pos_emb)
    compiled = torch.compile(build(device, weights), dynamic=False)
    found["torch.compile"] = (compiled, EAGER_ROTARY)
    ours = torch.compile(with_ours(build(device, weights), MODES), dynamic=False)
    found["ours, torch.compile"] = (ours, ROTARY)
    return found
