"""Each bundled kernel on its own, for the benchmark on a GPU.

Device time is that of a CUDA graph of many calls over inputs that do not fit into the cache,
divided by the number of calls. It is compared with the larger of two limits: the time to move the
necessary bytes at the bandwidth of a large copy, and the time of an empty kernel in such a graph.
Time with launch is that of a loop of calls in Python, including the work of the device.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from kernels_bundled_triton import bundled_mapping
from kernels_core import get_local_kernel

SIZE, INTERMEDIATE, CLASSES = 2048, 8192, 32000
HEADS, KEY_HEADS, HEAD_SIZE = 32, 8, 64
DTYPE = torch.bfloat16
ROWS = (1, 16, 256, 4096, 65536)
CACHE_BYTES = 160e6  # well beyond any L2
CALLS = 64

Case = tuple[int, Callable[[int], tuple[Any, ...]], Callable[..., Any], Callable[..., Any]]


def kernel() -> Any:
    """The bundled kernels, as functions."""
    repository = bundled_mapping("cuda")["RMSNorm"]["cuda"].repo_path
    return get_local_kernel(repository, backend="cuda")


def _rms_eager(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
    return weight * wide.to(x.dtype)


def _rotary_eager(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        return (x * cos) + (torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin)

    return rotate(q), rotate(k)


def cases(ours: Any) -> dict[str, Case]:
    """By name: bytes to move per row, a function that makes inputs, ours, and eager."""
    device = torch.device("cuda")
    weight, bias = torch.rand(2, SIZE, device=device, dtype=DTYPE)

    def rows_of(*sizes: int) -> Callable[[int], tuple[torch.Tensor, ...]]:
        def make(rows: int) -> tuple[torch.Tensor, ...]:
            return tuple(torch.randn(rows, size, device=device, dtype=DTYPE) for size in sizes)

        return make

    def heads(rows: int) -> tuple[torch.Tensor, ...]:
        # As in attention: a view of the projection's output with the heads in front.
        def project(count: int) -> torch.Tensor:
            flat = torch.randn(1, rows, count, HEAD_SIZE, device=device, dtype=DTYPE)
            return flat.transpose(1, 2)

        angle = torch.rand(1, rows, HEAD_SIZE, device=device, dtype=DTYPE)
        return project(HEADS), project(KEY_HEADS), angle.cos(), angle.sin()

    def logits(rows: int) -> tuple[torch.Tensor, ...]:
        target = torch.randint(0, CLASSES, (rows,), device=device)
        return (torch.randn(rows, CLASSES, device=device, dtype=DTYPE), target)

    item = DTYPE.itemsize
    return {
        "rms_norm": (
            2 * SIZE * item,
            rows_of(SIZE),
            lambda x: ours.rms_norm(x, weight, 1e-5),
            lambda x: _rms_eager(x, weight),
        ),
        "add_rms_norm": (
            4 * SIZE * item,
            rows_of(SIZE, SIZE),
            lambda x, y: ours.add_rms_norm(x, y, weight, 1e-5),
            lambda x, y: _rms_eager(x + y, weight),
        ),
        "layer_norm": (
            2 * SIZE * item,
            rows_of(SIZE),
            lambda x: ours.layer_norm(x, weight, bias, 1e-5),
            lambda x: functional.layer_norm(x, (SIZE,), weight, bias, 1e-5),
        ),
        "gated silu": (
            3 * INTERMEDIATE * item,
            rows_of(INTERMEDIATE, INTERMEDIATE),
            lambda gate, up: ours.gated(gate, up, "silu"),
            lambda gate, up: functional.silu(gate) * up,
        ),
        "packed_gated gelu": (
            3 * INTERMEDIATE * item,
            rows_of(2 * INTERMEDIATE),
            lambda x: ours.packed_gated(x, "gelu"),
            lambda x: functional.gelu(x[..., :INTERMEDIATE]) * x[..., INTERMEDIATE:],
        ),
        "packed_gated gelu_tanh": (
            3 * INTERMEDIATE * item,
            rows_of(2 * INTERMEDIATE),
            lambda x: ours.packed_gated(x, "gelu_tanh"),
            lambda x: (
                functional.gelu(x[..., :INTERMEDIATE], approximate="tanh") * x[..., INTERMEDIATE:]
            ),
        ),
        "rotary": (
            2 * (HEADS + KEY_HEADS + 1) * HEAD_SIZE * item,
            heads,
            ours.apply_rotary_pos_emb,
            _rotary_eager,
        ),
        "cross_entropy": (
            CLASSES * item,
            logits,
            ours.cross_entropy,
            functional.cross_entropy,
        ),
    }


def events() -> tuple[Any, Any]:
    """Two events that record when the device reaches them."""
    cuda: Any = torch.cuda
    return cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)


def device_ms(call: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> float:
    """Milliseconds of device time per call, from a graph over all the inputs."""
    cuda: Any = torch.cuda
    with torch.cuda.stream(cuda.Stream()):
        for one in inputs[:2]:
            call(*one)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    calls = max(len(inputs), min(CALLS, 8 * len(inputs)))
    with torch.cuda.graph(graph):
        for number in range(calls):
            call(*inputs[number % len(inputs)])
    times: list[float] = []
    for _ in range(7):
        start, end = events()
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / calls)
    return statistics.median(times[1:])


def launched_us(call: Callable[..., Any], inputs: tuple[Any, ...], calls: int) -> float:
    """Microseconds per call of a loop in Python, including the work of the device."""
    for _ in range(10):
        call(*inputs)
    times = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call(*inputs)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / calls * 1e6)
    return statistics.median(times)


def copied_bytes_per_ms() -> float:
    """Bytes read and written per millisecond by a copy of a large tensor, without a graph."""
    source = torch.randn(2**31, device="cuda", dtype=DTYPE)
    target = torch.empty_like(source)
    target.copy_(source)
    times: list[float] = []
    for _ in range(7):
        start, end = events()
        start.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return 2 * source.nbytes / statistics.median(times)


def empty_ms() -> float:
    """Milliseconds of a kernel that does almost nothing."""
    one = torch.zeros(1, device="cuda")
    return device_ms(lambda: one.add_(1), [()] * CALLS)


def norm_against_copy(ours: Any) -> dict[str, float]:
    """Device time of the norm of (8192, 2048), and of a copy of that tensor, in microseconds."""
    weight = torch.rand(SIZE, device="cuda", dtype=DTYPE)
    inputs = [(torch.randn(8192, SIZE, device="cuda", dtype=DTYPE),) for _ in range(8)]
    return {
        "ours_us": 1e3 * device_ms(lambda x: ours.rms_norm(x, weight, 1e-5), inputs),
        "copy_us": 1e3 * device_ms(lambda x: x.clone(), inputs),
    }


@torch.no_grad()
def measure() -> dict[str, Any]:
    """All kernels at all sizes."""
    ours = kernel()
    bandwidth, least = copied_bytes_per_ms(), empty_ms()
    rows_found = []
    for name, (row_bytes, make, call, eager) in cases(ours).items():
        for rows in ROWS:
            count = max(1, min(CALLS, int(CACHE_BYTES // (row_bytes * rows))))
            inputs = [make(rows) for _ in range(count)]
            limit = max(row_bytes * rows / bandwidth, least)
            calls = 1000 if rows <= 256 else 50
            found: dict[str, Any] = {
                "kernel": name,
                "rows": rows,
                "limit_us": limit * 1e3,
                "ours_us": device_ms(call, inputs) * 1e3,
                "eager_us": device_ms(eager, inputs) * 1e3,
                "ours_launched_us": launched_us(call, inputs[0], calls),
                "eager_launched_us": launched_us(eager, inputs[0], calls),
            }
            found["times_limit"] = found["ours_us"] / found["limit_us"]
            rows_found.append(found)
            del inputs
            torch.cuda.empty_cache()
    return {
        "copy_tb_per_s": bandwidth / 1e9,
        "empty_kernel_us": least * 1e3,
        "norm_8192x2048": norm_against_copy(ours),
        "kernels": rows_found,
    }
