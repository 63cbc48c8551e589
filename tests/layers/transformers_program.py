"""Kernelize a model of transformers with random weights; prints what happened as JSON.

Run as a program of its own, since transformers decides when it is imported whether it marks its
layers with Hugging Face `kernels`. Arguments: a repository with kernels for layers for which the
CPU backend bundles none, then the architectures.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
)
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.mixtral.modeling_mixtral import MixtralRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

import kernels_core
from kernels_core import LocalLayerRepository, Mode

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}
DECODER = {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def make_model(architecture: str) -> Any:
    sizes = SMALL if architecture == "bert" else {**SMALL, **DECODER}
    sizes = {**sizes, **EXPERTS} if architecture == "mixtral" else sizes
    config = AutoConfig.for_model(architecture, **sizes)
    auto: Any = AutoModel if architecture == "bert" else AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)  # norms that multiply by one would hide a wrong kernel
    return model


def mark() -> None:
    # Where transformers has marked a class, marking it again changes nothing.
    for norm in (LlamaRMSNorm, Qwen3RMSNorm, MixtralRMSNorm):
        kernels_core.replace_kernel_forward_from_hub(norm, "RMSNorm")
    for mlp in (LlamaMLP, Qwen3MLP):
        kernels_core.replace_kernel_forward_from_hub(mlp, "SwiGLUMLP")
    kernels_core.replace_kernel_forward_from_hub(GemmaRMSNorm, "RMSNormPlusOne")
    kernels_core.replace_kernel_forward_from_hub(nn.LayerNorm, "LayerNorm")


def mapping_with(repository: str) -> dict[str, Any]:
    own = {
        name: {"cpu": LocalLayerRepository(repository, layer_name=name)}
        for name in ("RMSNormPlusOne", "LayerNorm")
    }
    return {**kernels_core.bundled_mapping(), **own}


def outcome(architecture: str, mapping: dict[str, Any]) -> dict[str, Any]:
    model = make_model(architecture)
    tokens = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(tokens)[0]
        kernels_core.kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
        report = kernels_core.report(model)
        after = model(tokens)[0]
        copied = copy.deepcopy(model)(tokens)[0]
        loaded = pickle.loads(pickle.dumps(model))
        kernels_core.kernelize(loaded, mode=Mode.INFERENCE, mapping=mapping)
        reloaded = loaded(tokens)[0]
        kernels_core.unkernelize(model)
        undone = model(tokens)[0]
    kernels_core.kernelize(model, mode=Mode.TRAINING, mapping=mapping)
    model(tokens)[0].sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    kernels_core.unkernelize(model)
    model(tokens)[0].sum().backward()
    pairs = zip(gradients, model.parameters(), strict=True)
    return {
        "rows": {row.class_name: [row.kernel, row.count] for row in report.rows if row.kernel},
        "difference": (after - before).abs().max().item(),
        "scale": before.abs().max().item(),
        "undone": torch.equal(undone, before),
        "copies": torch.equal(copied, after) and torch.equal(reloaded, after),
        "gradient_difference": max(
            ((mine - parameter.grad).norm() / (parameter.grad.norm() + 1e-30)).item()
            for mine, parameter in pairs
            if mine is not None
        ),
        "frozen": sum(
            (mine is None) != (parameter.grad is None)
            for mine, parameter in zip(gradients, model.parameters(), strict=True)
        ),
    }


if __name__ == "__main__":
    repository, *architectures = sys.argv[1:]
    mark()
    mapping = mapping_with(repository)
    print(json.dumps({name: outcome(name, mapping) for name in architectures}))
