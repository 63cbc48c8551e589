"""Where transformers loads kernels without `use_kernels`; prints what came of it as JSON.

A program of its own, run with `import kernels` answered by kernels-core and the loopback Hub.
For each place: True where a kernel was loaded, False where the program goes on without one, or the
name of the exception that reaches the caller.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import kernels_core.compat

kernels_core.compat.activate()

import torch  # noqa: E402  after the activation, as in a program
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402
from transformers.integrations import finegrained_fp8, hub_kernels  # noqa: E402
from transformers.integrations.gguf.kernels import get_gguf_kernel  # noqa: E402
from transformers.models.sam3_video import modeling_sam3_video as sam3  # noqa: E402
from transformers.utils.import_utils import (  # noqa: E402
    is_flash_attn_2_available,
    is_kernels_available,
)

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "pad_token_id": 0,
}


def plain_model() -> bool:
    """A model that asks for no kernel at all."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SMALL))
    model(torch.ones(1, 4, dtype=torch.long))
    return False


def flash_attention_model() -> bool:
    config = AutoConfig.for_model("llama", **SMALL)
    AutoModelForCausalLM.from_config(config, attn_implementation="flash_attention_2")
    return True


def video_model() -> bool:
    sam3._load_cv_utils_kernel_once()
    return bool(sam3.cv_utils_kernel)


def experts() -> bool:
    finegrained_fp8.load_finegrained_fp8_kernel()
    return True


def by_revision() -> bool:
    return bool(hub_kernels.get_kernel("kernels-community/flash-attn2", revision="main"))


PLACES: dict[str, Callable[[], object]] = {
    "plain model": plain_model,
    **{
        f"lazy {name}": lambda name=name: hub_kernels.lazy_load_kernel(name)
        for name in hub_kernels._HUB_KERNEL_MAPPING
    },
    "flash attention available": lambda: is_flash_attn_2_available(kernels_fallback_ok=True),
    "video": video_model,
    "gguf": get_gguf_kernel,
    "experts": experts,
    "attention": lambda: hub_kernels.load_and_register_attn_kernel("kernels-community/flash-attn2"),
    "flash attention model": flash_attention_model,
    "get_kernel": by_revision,
}


def outcome(place: Callable[[], object]) -> bool | str:
    try:
        return bool(place())
    except Exception as error:  # what the caller would see
        return type(error).__name__


assert is_kernels_available()
print(json.dumps({name: outcome(place) for name, place in PLACES.items()}))
