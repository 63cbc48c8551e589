"""The same builds in the same order as Hugging Face `kernels`, so that both load the same.

On simulated machines, with our five plugins, for every name in a large grid.
"""

from __future__ import annotations

import itertools
import random

import pytest

from kernels_core.hookspecs import Detection
from kernels_core.host import HostInfo, TorchInfo
from kernels_core.plugins import Backend, registry
from kernels_core.variants.fit import decide_builds

hf_kernels = pytest.importorskip(
    "kernels.variants", reason="needs Hugging Face kernels: pip install kernels"
)
hf_backends = pytest.importorskip("kernels.backends")
Version = pytest.importorskip("packaging.version").Version
for _name in ("cpu", "cuda", "mps", "rocm", "xpu"):
    pytest.importorskip(f"kernels_backend_{_name}", reason="needs the five backends")

FRAMEWORKS = [
    *(f"torch{xy}{abi}" for xy in ("29", "210", "213") for abi in ("", "-cxx11", "-cxx98")),
    *(f"torch-stable-abi{xy}" for xy in ("29", "210", "212", "213", "214")),
    *(f"tvm-ffi{xy}" for xy in ("01", "02", "010")),
]
TAGS = [
    "cpu",
    "metal",
    *("cu118", "cu126", "cu128", "cu129", "cu1210", "cu130", "cu132", "cu1310"),
    *("rocm64", "rocm71", "rocm72", "rocm710"),
    *("xpu20252", "xpu20253", "xpu202510", "xpu20260"),
]
MACHINES = [("x86_64", "linux"), ("aarch64", "linux"), ("aarch64", "darwin"), ("x86_64", "windows")]
NOARCH = ["cpu", "cuda", "metal", "npu", "rocm", "universal", "xpu"]
NAMES = [
    *("-".join(parts) for parts in itertools.product(FRAMEWORKS, TAGS, map("-".join, MACHINES))),
    *(f"torch-{name}" for name in NOARCH),
]

BACKENDS = [
    ("cpu", None, hf_backends.CPU()),
    ("mps", "26.1", hf_backends.Metal()),
    *(
        ("cuda", version, hf_backends.CUDA(Version(version)))
        for version in ("11.8", "12.6", "12.8", "12.10", "13.0", "13.2")
    ),
    *(("rocm", version, hf_backends.ROCm(Version(version))) for version in ("7.1", "7.2", "7.10")),
    *(
        ("xpu", version, hf_backends.XPU(Version(version)))
        for version in ("2025.3", "2025.10", "2026.0")
    ),
]


@pytest.mark.parametrize("torch", [(2, 9), (2, 13)])
@pytest.mark.parametrize(("cpu", "os"), MACHINES)
@pytest.mark.parametrize(("name", "runtime", "hf_backend"), BACKENDS)
def test_the_order_is_that_of_hf_kernels(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    runtime: str | None,
    hf_backend: object,
    cpu: str,
    os: str,
    torch: tuple[int, int],
) -> None:
    monkeypatch.setattr(Backend, "detection", lambda self: Detection(1, runtime))
    abi = True if os == "linux" else None
    host = HostInfo(
        os=os,
        cpu=cpu,
        os_version="26.1",
        python=(3, 12),
        free_threaded=False,
        torch=TorchInfo(version=f"{torch[0]}.{torch[1]}.0", release=torch, cxx11_abi=abi),
        tvm_ffi=(0, 10),
    )
    names = random.Random(0).sample(NAMES, len(NAMES))
    decisions = decide_builds(
        names, backend=registry().backend(name), host=host, parse_tag=registry().parse_tag
    )
    ours = [decision.name for decision in decisions if decision.accepted]
    theirs, _ = hf_kernels._resolve_variant_for_system(
        variants=[hf_kernels.parse_variant(name) for name in names],
        selected_backend=hf_backend,
        cpu=cpu,
        os=os,
        torch_version=Version(f"{torch[0]}.{torch[1]}"),
        torch_cxx11_abi=abi,
        tvm_ffi_version=Version("0.10"),
        macos_version=Version("26.1"),
    )
    accepted_there = {variant.variant_str for variant in theirs}
    # It reads cu1210 as 121.0, so it never takes a CUDA build with a minor version of two digits.
    assert {n for n in ours if "-cu1210-" not in n and "-cu1310-" not in n} == accepted_there
    both = [
        hf_kernels.VariantAccepted(hf_kernels.parse_variant(n)) for n in ours if n in accepted_there
    ]
    # Its sort is stable, so an order that it leaves alone is its own, ties apart.
    assert hf_kernels._sort_variants(both) == both
    assert theirs[0].variant_str == both[0].variant.variant_str
