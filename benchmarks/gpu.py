"""Benchmark of the bundled kernels on a GPU: a Llama in several implementations, and each kernel.

Needs torch with Triton, transformers and our packages; no network. Liger-Kernel and
Hugging Face `kernels` are measured where they are installed. Prints tables and, as the last line,
the same as JSON; with `--json` only JSON goes to standard output. The figures do not change the
exit code.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from tables import aligned, spread

ROUNDS = 7
PREFILL = (4, 2048)
TRAINING = (2, 2048)

Figures = dict[str, dict[str, float]]


def progress(text: str) -> None:
    """Print progress to standard error; standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread."""
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in figures.items()}


def wall_ms(call: Callable[[], Any], repeats: int) -> float:
    """Milliseconds per call, including the work of the device."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats * 1e3


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> Figures:
    """Measure calls in turn, so that changes of the machine's speed affect all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        wall_ms(call, 3)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times[name].append(wall_ms(call, repeats))
    return {name: summary(values) for name, values in times.items()}


def inference(found: dict[str, tuple[Any, Any]], device: torch.device) -> dict[str, Any]:
    """Times of prefill and of one token for every implementation, and how far logits differ."""
    from gpu_models import CONFIG, rotation

    generator = torch.Generator(device).manual_seed(0)
    prompt = torch.randint(0, CONFIG.vocab_size, PREFILL, generator=generator, device=device)
    token = prompt[:1, :1].clone()

    def forward(model: Any, function: Any, ids: torch.Tensor) -> Any:
        with torch.no_grad(), rotation(function):
            return model(ids, use_cache=False, logits_to_keep=1).logits

    def calls(ids: torch.Tensor) -> dict[str, Callable[[], Any]]:
        def one(model: Any, function: Any) -> Callable[[], Any]:
            return lambda: forward(model, function, ids)

        return {name: one(*pair) for name, pair in found.items()}

    progress("Measuring one token")
    one_token = in_turn(calls(token), 20)
    progress("Measuring prefill")
    prefill = in_turn(calls(prompt), 2)
    expected = forward(*found["eager"], prompt).float()
    apart = {
        name: ((forward(*pair, prompt).float() - expected).norm() / expected.norm()).item()
        for name, pair in found.items()
    }
    return {"prefill_ms": prefill, "one_token_ms": one_token, "logits_apart": apart}


def graphs(model: Any, function: Any, device: torch.device) -> dict[str, Any]:
    """One token of ours captured into a CUDA graph."""
    from gpu_models import rotation

    ids = torch.tensor([[7]], device=device)
    with torch.no_grad(), rotation(function):
        expected = model(ids, use_cache=False).logits
        cuda: Any = torch.cuda
        with torch.cuda.stream(cuda.Stream()):
            for _ in range(3):
                model(ids, use_cache=False)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = model(ids, use_cache=False).logits
    graph.replay()
    torch.cuda.synchronize()
    equal = bool(torch.equal(logits, expected))
    return {"equal": equal, "ms": round(wall_ms(graph.replay, 50), 3)}


def training(found: dict[str, tuple[Any, Any]], device: torch.device) -> dict[str, Any]:
    """Time of a forward and backward pass, and its memory beyond the weights."""
    from gpu_models import CONFIG, rotation

    ids = torch.randint(0, CONFIG.vocab_size, TRAINING, device=device)

    def step(model: Any, function: Any) -> None:
        with rotation(function):
            model(ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    def one(model: Any, function: Any) -> Callable[[], None]:
        return lambda: step(model, function)

    calls = {name: one(*pair) for name, pair in found.items()}
    times = in_turn(calls, 1)
    memory = {}
    for name, call in calls.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        memory[name] = round((torch.cuda.max_memory_allocated() - before) / 2**20)
    return {"step_ms": times, "peak_mib": memory}


def installed_version(package: str) -> str:
    """The version of a package, or "none"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def measure(what: list[str]) -> dict[str, Any]:
    """Measure what the command line asks for."""
    device = torch.device("cuda", 0)
    packages = ("torch", "triton", "transformers", "kernels-core", "kernels", "liger-kernel")
    result: dict[str, Any] = {
        "environment": {
            "gpu": torch.cuda.get_device_name(device),
            **{name: installed_version(name) for name in packages},
        }
    }
    if "kernels" in what:
        import gpu_kernels

        progress("Measuring each kernel")
        result |= gpu_kernels.measure()
    if "models" in what:
        from gpu_models import implementations

        progress("Building the models")
        found = implementations(device)
        result |= inference(found, device)
        result["cuda_graph"] = graphs(*found["ours"], device)
        progress("Measuring training")
        result["training"] = training(
            {name: pair for name, pair in found.items() if "compile" not in name}, device
        )
    return result


def models_table(result: dict[str, Any]) -> list[str]:
    """One line per implementation."""
    eager = {key: result[key]["eager"]["median"] for key in ("prefill_ms", "one_token_ms")}
    steps = result["training"]
    lines = [
        ("", "prefill", "faster", "one token", "faster", "logits apart", "training", "peak memory")
    ]
    for name in result["prefill_ms"]:
        cells = [name]
        for key in ("prefill_ms", "one_token_ms"):
            cells.append(spread(result[key][name], " ms"))
            cells.append(f"{eager[key] / result[key][name]['median']:.2f}")
        cells.append(f"{result['logits_apart'][name]:.4f}")
        trained = name in steps["step_ms"]
        cells.append(spread(steps["step_ms"][name], " ms") if trained else "")
        cells.append(f"{steps['peak_mib'][name]} MiB" if trained else "")
        lines.append(tuple(cells))
    return aligned(lines)


def kernels_table(result: dict[str, Any]) -> list[str]:
    """One line per kernel and number of rows."""
    lines = [
        ("kernel", "rows", "limit us", "ours us", "times", "eager us", "launched", "eager launched")
    ]
    for row in result["kernels"]:
        keys = ("limit_us", "ours_us", "times_limit", "eager_us")
        launched = ("ours_launched_us", "eager_launched_us")
        lines.append(
            (
                row["kernel"],
                f"{row['rows']:,}",
                *(f"{row[key]:.2f}" for key in keys),
                *(f"{row[key]:.1f}" for key in launched),
            )
        )
    return aligned(lines)


def describe(result: dict[str, Any]) -> str:
    """The result as tables for people."""
    about = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    parts = [about]
    if "kernels" in result:
        norm = result["norm_8192x2048"]
        parts += [
            "",
            f"a copy moves {result['copy_tb_per_s']:.2f} TB/s; an empty kernel takes "
            f"{result['empty_kernel_us']:.2f} us; RMSNorm of (8192, 2048) "
            f"{norm['ours_us']:.1f} us, a copy of it {norm['copy_us']:.1f} us",
            "",
            *kernels_table(result),
        ]
    if "training" in result:
        graph = result["cuda_graph"]
        parts += [
            "",
            f"Llama, 16 layers, hidden 2048, bfloat16; prefill of {PREFILL[0]} x {PREFILL[1]} "
            f"tokens, training on {TRAINING[0]} x {TRAINING[1]}; median of {ROUNDS} in turn",
            *models_table(result),
            f"one token of ours in a CUDA graph: {graph['ms']} ms, "
            f"{'equal to' if graph['equal'] else 'NOT equal to'} the same without",
        ]
    return "\n".join(parts)


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="only JSON on standard output")
    parser.add_argument("--only", choices=("kernels", "models"), help="measure only one of the two")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("This benchmark needs a GPU that torch can use, and torch finds none.")
    result = measure([arguments.only] if arguments.only else ["kernels", "models"])
    if not arguments.json:
        print(describe(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
