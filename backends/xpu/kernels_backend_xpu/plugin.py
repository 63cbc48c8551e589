"""The hooks of the XPU backend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kernels_backend_xpu import _probe
from kernels_backend_xpu.facts import XPUFacts, architecture_name
from kernels_bundled_triton import bundled_mapping
from kernels_core.device import Architectures
from kernels_core.hookspecs import BackendInfo, BackendTag, Detection, Match, hookimpl
from kernels_core.host import HostInfo
from kernels_core.matching import match_architectures, match_same_version

# Versions are years: `xpu20252` is 2025.2.
_FIRST_MAJOR = 2000


@hookimpl
def kernels_backend() -> BackendInfo:
    """Declare the backend."""
    return BackendInfo(
        name="xpu",
        api_version=1,
        torch_device_type="xpu",
        noarch_name="xpu",
        facts=XPUFacts,
        properties=(Architectures,),
        priority=100,
    )


@hookimpl
def kernels_detect(host: HostInfo) -> Detection:
    """Detect whether torch can use Intel GPUs here, or why not."""
    if host.torch is None:
        return Detection(0, reason="torch is not installed")
    runtime = _probe.runtime()
    if runtime.xpu is None:
        return Detection(0, reason=f"torch {host.torch.version} was built without XPU support")
    version = _year_and_release(runtime.xpu)
    if runtime.device_count == 0:
        reason = (
            f"XPU {version or runtime.xpu} runtime is present, 0 devices: is the Intel GPU driver "
            f"(Level Zero) installed, or does ZE_AFFINITY_MASK hide them?"
        )
        return Detection(0, runtime_version=version, reason=reason)
    return Detection(runtime.device_count, runtime_version=version)


def _year_and_release(version: str) -> str | None:
    # torch writes 2025.3.2 as 20250302.
    match = re.fullmatch(r"([0-9]{4})([0-9]{2})[0-9]{2}", version)
    return f"{match[1]}.{int(match[2])}" if match else None


@hookimpl
def kernels_device_facts(index: int) -> XPUFacts:
    """Describe one GPU."""
    gpu = _probe.gpu(index)
    return XPUFacts(
        index=index,
        name=gpu.name,
        architecture=architecture_name(gpu.architecture),
        device_id=gpu.device_id,
    )


@hookimpl
def kernels_parse_tag(text: str) -> BackendTag | None:
    """Parse tags such as `xpu20252` (2025.2) and `xpu202510` (2025.10)."""
    return BackendTag.parse(text, backend="xpu", prefix="xpu", first_major=_FIRST_MAJOR)


@hookimpl
def kernels_match_tag(tag: BackendTag, detection: Detection) -> Match:
    """Accept builds for exactly the runtime's version."""
    return match_same_version(tag, detection)


@hookimpl
def kernels_match_device(required: Architectures, facts: XPUFacts) -> Match:
    """Accept devices by device id (`0xe20b`), architecture (`bmg-g21`) or family (`bmg`)."""
    return match_architectures(required, facts.architectures)


@hookimpl
def kernels_bundled() -> Mapping[str, Mapping[Any, Any]]:
    """The kernels of kernels-bundled-triton."""
    return bundled_mapping("xpu")
