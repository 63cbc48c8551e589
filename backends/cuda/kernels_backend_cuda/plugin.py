"""The hooks of the CUDA backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernels_backend_cuda import _probe
from kernels_backend_cuda._archs import covers
from kernels_backend_cuda.facts import CUDAFacts
from kernels_bundled_triton import bundled_mapping
from kernels_core.device import CUDAProperties
from kernels_core.hookspecs import BackendInfo, BackendTag, Detection, Match, hookimpl
from kernels_core.host import HostInfo
from kernels_core.matching import match_capability

# Major versions have two digits: torch 2 was never built for a CUDA older than 11.
_FIRST_MAJOR = 10


@hookimpl
def kernels_backend() -> BackendInfo:
    """Declare the backend."""
    return BackendInfo(
        name="cuda",
        api_version=1,
        torch_device_type="cuda",
        noarch_name="cuda",
        facts=CUDAFacts,
        properties=(CUDAProperties,),
        priority=100,
    )


@hookimpl
def kernels_detect(host: HostInfo) -> Detection:
    """Detect whether torch can use NVIDIA GPUs here, or why not."""
    if host.torch is None:
        return Detection(0, reason="torch is not installed")
    runtime = _probe.runtime()
    if runtime.cuda is None:
        return Detection(0, reason=f"torch {host.torch.version} was built without CUDA")
    obstacle = _obstacle(runtime)
    if obstacle:
        reason = f"CUDA {runtime.cuda} runtime is present, {obstacle}"
        return Detection(0, runtime_version=runtime.cuda, reason=reason)
    return Detection(runtime.device_count, runtime_version=runtime.cuda)


def _obstacle(runtime: _probe.Runtime) -> str:
    """Why torch cannot use any device although it was built with CUDA; "" if it can."""
    assert runtime.cuda is not None
    count = f"{runtime.device_count} device{'' if runtime.device_count == 1 else 's'}"
    if runtime.driver is None:
        return "" if runtime.device_count else f"{count}: no NVIDIA driver was found"
    supported = f"the NVIDIA driver supports CUDA {runtime.driver[0]}.{runtime.driver[1]}"
    # NVML also counts devices that the runtime cannot use: the driver's major must not be older.
    if runtime.driver[0] < _release(runtime.cuda)[0]:
        return f"{count}: {supported} at most, update it"
    if not runtime.device_count:
        return f"{count}: {supported}, does CUDA_VISIBLE_DEVICES hide them?"
    return ""


@hookimpl
def kernels_device_facts(index: int) -> CUDAFacts:
    """Describe one GPU."""
    gpu = _probe.gpu(index)
    return CUDAFacts(
        index=index,
        name=gpu.name,
        capability=(gpu.major, gpu.minor),
        total_memory=gpu.total_memory,
    )


@hookimpl
def kernels_parse_tag(text: str) -> BackendTag | None:
    """Parse tags such as `cu128` (12.8) and `cu1210` (12.10)."""
    return BackendTag.parse(text, backend="cuda", prefix="cu", first_major=_FIRST_MAJOR)


@hookimpl
def kernels_match_tag(tag: BackendTag, detection: Detection) -> Match:
    """Accept builds for the major version of the runtime, but not for a newer minor one."""
    built_for = f"built for CUDA {tag.version[0]}.{tag.version[1]}"
    if detection.runtime_version is None:
        return Match.no(f"{built_for}, and there is no CUDA runtime")
    major, minor = _release(detection.runtime_version)
    if tag.version[0] == major and tag.version[1] <= minor:
        return Match.yes(tag.version[1])
    return Match.no(f"{built_for}, and the runtime is {detection.runtime_version}")


@hookimpl
def kernels_match_device(required: CUDAProperties, facts: CUDAFacts) -> Match:
    """Accept devices in the range of capabilities."""
    return match_capability(required, facts.capability)


@hookimpl
def kernels_match_archs(archs: Sequence[str], facts: CUDAFacts) -> Match:
    """Accept builds with code for the device.

    If no entry can be parsed, the metadata is newer than this plugin, and the build is accepted.
    """
    answers = [covers(arch, facts) for arch in archs]
    if any(answers) or all(answer is None for answer in answers):
        return Match.yes()
    major, minor = facts.capability
    return Match.no(f"built for {', '.join(archs)}, and the device has capability {major}.{minor}")


@hookimpl
def kernels_bundled() -> Mapping[str, Mapping[Any, Any]]:
    """The kernels of kernels-bundled-triton."""
    return bundled_mapping("cuda")


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
