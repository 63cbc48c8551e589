"""Acme's accelerator as a backend of kernels-core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from kernels_core import DeviceFacts, DeviceProperties, LocalLayerRepository, hookimpl
from kernels_core.hookspecs import (
    BackendInfo,
    BackendTag,
    Candidate,
    Detection,
    Match,
    SelectionRequest,
)
from kernels_core.host import HostInfo

_KERNELS = Path(__file__).parent / "kernels"


@attrs.frozen
class AcmeFacts(DeviceFacts):
    """One accelerator, and how many lanes it has."""

    lanes: int


@attrs.frozen
class Lanes(DeviceProperties):
    """At least this many lanes."""

    device_type: ClassVar[str | None] = "acme"
    at_least: int = attrs.field(validator=attrs.validators.gt(0))


@hookimpl
def kernels_backend() -> BackendInfo:
    """Declare the backend."""
    return BackendInfo(
        name="acme",
        api_version=1,
        torch_device_type="acme",
        noarch_name="acme",
        facts=AcmeFacts,
        properties=(Lanes,),
    )


@hookimpl
def kernels_detect(host: HostInfo) -> Detection:
    """Query the torch extension, which counts devices without opening one."""
    if host.torch is None:
        return Detection(0, reason="torch is not installed")
    import torch

    extension = getattr(torch, "acme", None)
    if extension is None:
        return Detection(0, reason="Acme's extension of torch is not loaded")
    count = extension.device_count()
    reason = "" if count else "Acme's runtime is present, 0 devices: is one plugged in?"
    return Detection(count, extension.runtime_version(), reason)


@hookimpl
def kernels_device_facts(index: int) -> AcmeFacts:
    """Describe one accelerator."""
    import torch

    device = torch.get_device_module("acme").get_device_properties(index)
    return AcmeFacts(index, device.name, device.lanes)


@hookimpl
def kernels_parse_tag(text: str) -> BackendTag | None:
    """Parse tags such as `acme12` (runtime 1.2)."""
    return BackendTag.parse(text, backend="acme", prefix="acme", first_major=1)


@hookimpl
def kernels_match_tag(tag: BackendTag, detection: Detection) -> Match:
    """Accept builds for this runtime and for older ones of its major version, newest first."""
    if detection.runtime_version is None:
        return Match.no(f"there is no runtime: {detection.reason}")
    runtime = tuple(map(int, detection.runtime_version.split(".")))
    if tag.version[0] == runtime[0] and tag.version <= runtime:
        return Match.yes(*tag.version)
    return Match.no(f"{tag} does not run on runtime {detection.runtime_version}")


@hookimpl
def kernels_match_device(required: Lanes, facts: AcmeFacts) -> Match:
    """Accept devices with enough lanes; requiring more is more specific."""
    if facts.lanes >= required.at_least:
        return Match.yes(required.at_least)
    return Match.no(f"it has {facts.lanes} lanes, and {required.at_least} are required")


@hookimpl
def kernels_select(
    request: SelectionRequest, candidates: Sequence[Candidate]
) -> Sequence[Candidate]:
    """Prefer kernels for exactly this mode, which matters more than lanes on acme."""
    return sorted(candidates, key=lambda candidate: candidate.mode != request.mode)


@hookimpl
def kernels_bundled() -> Mapping[str, Mapping[Any, Any]]:
    """The kernels in this package."""
    return {"RMSNorm": {"acme": LocalLayerRepository(_KERNELS, layer_name="RMSNorm")}}
