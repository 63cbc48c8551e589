"""The hooks of the ROCm backend."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kernels_backend_rocm import _probe
from kernels_backend_rocm.facts import ROCMFacts
from kernels_bundled_triton import bundled_mapping
from kernels_core.device import Architectures, ROCMProperties
from kernels_core.hookspecs import BackendInfo, BackendTag, Detection, Match, hookimpl
from kernels_core.host import HostInfo
from kernels_core.matching import match_architectures, match_capability, match_same_version

# `rocm71` is 7.1 and `rocm101` is 10.1: torch 2 was never built for a ROCm older than 5.
_FIRST_MAJOR = 5


@hookimpl
def kernels_backend() -> BackendInfo:
    """Declare the backend."""
    return BackendInfo(
        name="rocm",
        api_version=1,
        torch_device_type="cuda",
        noarch_name="rocm",
        facts=ROCMFacts,
        properties=(Architectures, ROCMProperties),
        priority=100,
    )


@hookimpl
def kernels_detect(host: HostInfo) -> Detection:
    """Detect whether torch can use AMD GPUs here, or why not."""
    if host.torch is None:
        return Detection(0, reason="torch is not installed")
    runtime = _probe.runtime()
    if runtime.hip is None:
        return Detection(0, reason=f"torch {host.torch.version} was built without ROCm")
    version = _major_minor(runtime.rocm or runtime.hip)
    if runtime.device_count == 0:
        reason = (
            f"ROCm {version or 'of unknown version'} runtime is present, 0 devices: is the amdgpu "
            f"driver loaded, or does HIP_VISIBLE_DEVICES hide them?"
        )
        return Detection(0, runtime_version=version, reason=reason)
    return Detection(runtime.device_count, runtime_version=version)


def _major_minor(version: str) -> str | None:
    match = re.match(r"([0-9]+)\.([0-9]+)", version)
    return f"{match[1]}.{match[2]}" if match else None


@hookimpl
def kernels_device_facts(index: int) -> ROCMFacts:
    """Describe one GPU."""
    gpu = _probe.gpu(index)
    return ROCMFacts(
        index=index,
        name=gpu.name,
        gcn_arch_name=gpu.gcn_arch_name,
        capability=(gpu.major, gpu.minor),
    )


@hookimpl
def kernels_parse_tag(text: str) -> BackendTag | None:
    """Parse tags such as `rocm71` (7.1) and `rocm710` (7.10)."""
    return BackendTag.parse(text, backend="rocm", prefix="rocm", first_major=_FIRST_MAJOR)


@hookimpl
def kernels_match_tag(tag: BackendTag, detection: Detection) -> Match:
    """Accept builds for exactly the runtime's version."""
    return match_same_version(tag, detection)


@hookimpl
def kernels_match_device(required: Architectures | ROCMProperties, facts: ROCMFacts) -> Match:
    """Accept devices by the names of their architecture, or by torch's capability numbers."""
    if isinstance(required, Architectures):
        return match_architectures(required, facts.architectures)
    return match_capability(required, facts.capability)


@hookimpl
def kernels_match_archs(archs: Sequence[str], facts: ROCMFacts) -> Match:
    """Accept builds with code for the device's architecture or for its family."""
    if set(archs).intersection(facts.architectures):
        return Match.yes()
    return Match.no(f"built for {', '.join(archs)}, and the device is {facts.gcn_arch_name}")


@hookimpl
def kernels_bundled() -> Mapping[str, Mapping[Any, Any]]:
    """The kernels of kernels-bundled-triton."""
    return bundled_mapping("rocm")
