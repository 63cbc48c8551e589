"""Use kernels in models of transformers as its documentation says; prints what happened as JSON.

A program of its own, run with `import kernels` answered by kernels-core. Arguments: a folder to
save models in, a kernel repository with the layer "Norm" for "RMSNorm", then the architectures.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import kernels_core.compat

kernels_core.compat.activate()

import kernels  # noqa: E402
import torch  # noqa: E402  after the activation, as in a program
import transformers  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, KernelConfig  # noqa: E402

import kernels_core  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}
DECODER = {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
SIZES: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "gemma3_text": {**SMALL, **DECODER, "sliding_window": 16},
    "gpt_oss": {**SMALL, **DECODER, **EXPERTS, "sliding_window": 16},
    "llama": {**SMALL, **DECODER},
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 8,
        "state_size": 8,
        "n_groups": 1,
        "vocab_size": 50,
        "chunk_size": 8,
        "pad_token_id": 0,
    },
    "mixtral": {**SMALL, **DECODER, **EXPERTS},
    "qwen3": {**SMALL, **DECODER},
}


def saved(architecture: str, folder: Path) -> Path:
    torch.manual_seed(0)
    auto: Any = AutoModel if architecture == "bert" else AutoModelForCausalLM
    config = AutoConfig.for_model(architecture, **SIZES[architecture])
    auto.from_config(config).save_pretrained(folder / architecture)
    return folder / architecture


def load(architecture: str, path: Path, **arguments: Any) -> Any:
    auto = AutoModel if architecture == "bert" else AutoModelForCausalLM
    return auto.from_pretrained(path, **arguments)


def rows(model: Any) -> dict[str, int]:
    """How many modules of each layer got a kernel."""
    return {row.layer_name: row.count for row in kernels_core.report(model).rows if row.kernel}


def equal(model: Any, tokens: torch.Tensor, expected: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.allclose(model(tokens)[0], expected, rtol=1e-4, atol=1e-4)


def without_gradient(model: Any, tokens: torch.Tensor) -> int:
    """Take a training step; how many weights it leaves without a gradient."""
    model.train()
    model(tokens)[0].float().pow(2).mean().backward()
    count = sum(p.grad is None for p in model.parameters() if p.requires_grad)
    model.zero_grad()
    model.eval()
    return count


def mapping_of(repository: str) -> dict[str, Any]:
    layer = kernels.LocalLayerRepository(Path(repository), layer_name="Norm")
    modes = (kernels.Mode.INFERENCE, kernels.Mode.TRAINING)
    return {"RMSNorm": {DEVICE: dict.fromkeys(modes, layer)}}


def outcome(architecture: str, folder: Path, repository: str) -> dict[str, Any]:
    path = saved(architecture, folder)
    tokens = torch.randint(1, 50, (2, 8), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    plain = load(architecture, path).to(DEVICE)
    with torch.no_grad():
        expected = plain(tokens)[0]

    # The mapping of transformers itself.
    model = load(architecture, path, use_kernels=True, device_map=DEVICE)
    found: dict[str, Any] = {
        "default": equal(model, tokens, expected),
        "default report": bool(kernels_core.report(model).rows),
    }
    # Kernels of the user's own in the place of norms, where the model has norms of that kind.
    with kernels.use_kernel_mapping(mapping_of(repository), inherit_mapping=False):
        kernels.kernelize(model, mode=kernels.Mode.INFERENCE, device=DEVICE)
        found["kernels"] = rows(model)
        found["own"] = equal(model, tokens, expected)
        found["without gradient"] = without_gradient(model, tokens)
        found["after training"] = equal(model, tokens, expected)
    if DEVICE == "cuda" and found["kernels"]:
        make_config: Any = KernelConfig  # which has no types
        config = make_config({"RMSNorm": f"{repository}:Norm"}, use_local_kernel=True)
        configured = load(architecture, path, device_map=DEVICE)
        configured.set_use_kernels(True, config)
        found["configured"] = rows(configured) == found["kernels"]
        found["configured"] &= equal(configured, tokens, expected)
    found["without gradient"] -= without_gradient(plain, tokens)
    found["copied"] = equal(copy.deepcopy(model), tokens, expected)
    found["pickled"] = equal(pickle.loads(pickle.dumps(model)), tokens, expected)
    if architecture != "bert":
        generated = model.generate(tokens, max_new_tokens=4, do_sample=False)
        found["generated"] = torch.equal(
            generated, plain.generate(tokens, max_new_tokens=4, do_sample=False)
        )
    return found


if __name__ == "__main__":
    folder, repository, *architectures = sys.argv[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = {name: outcome(name, Path(folder), repository) for name in architectures}
    print(json.dumps({"version": transformers.__version__, "models": results}))
