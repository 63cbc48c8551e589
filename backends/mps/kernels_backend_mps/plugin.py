"""The hooks of the MPS backend."""

from __future__ import annotations

from packaging.version import Version

from kernels_backend_mps import _probe
from kernels_backend_mps.facts import MPSFacts, chip_family, metal_version
from kernels_core.device import MinimumVersions
from kernels_core.hookspecs import BackendInfo, BackendTag, Detection, Match, hookimpl
from kernels_core.host import HostInfo
from kernels_core.matching import match_minimum_versions

# Tags contain no Metal version. Current builds use Metal 4, which needs this macOS.
_OLDEST_MACOS = "26.0"


@hookimpl
def kernels_backend() -> BackendInfo:
    """Declare the backend."""
    return BackendInfo(
        name="mps",
        api_version=1,
        torch_device_type="mps",
        noarch_name="metal",
        facts=MPSFacts,
        properties=(MinimumVersions,),
        priority=100,
    )


@hookimpl
def kernels_detect(host: HostInfo) -> Detection:
    """Detect whether torch can use the GPU of this Mac, or why not."""
    if (host.os, host.cpu) != ("darwin", "aarch64"):
        found = f"this Python runs on {host.os} {host.cpu}"
        return Detection(0, reason=f"MPS needs macOS on Apple silicon, and {found}")
    if host.torch is None:
        return Detection(0, reason="torch is not installed")
    support = _probe.support()
    if not support.built:
        return Detection(0, reason=f"torch {host.torch.version} was built without MPS")
    macos = _probe.mac().macos
    if not support.available:
        reason = (
            f"macOS {macos} is present, 0 devices: torch {host.torch.version} finds no Metal "
            f"device that it supports; macOS may be too old for it, or a sandbox hides the GPU"
        )
        return Detection(0, runtime_version=macos, reason=reason)
    return Detection(1, runtime_version=macos)


@hookimpl
def kernels_device_facts(index: int) -> MPSFacts:
    """Describe the GPU."""
    mac = _probe.mac()
    return MPSFacts(
        index=index,
        name=mac.processor,
        chip=chip_family(mac.processor),
        macos=mac.macos,
        metal=metal_version(mac.macos),
    )


@hookimpl
def kernels_parse_tag(text: str) -> BackendTag | None:
    """Parse the tag `metal`."""
    return BackendTag("mps", "metal") if text == "metal" else None


@hookimpl
def kernels_match_tag(tag: BackendTag, detection: Detection) -> Match:
    """Accept builds if macOS is new enough for them."""
    macos = detection.runtime_version
    if macos is None:
        return Match.no(f"{tag} builds need macOS {_OLDEST_MACOS} on Apple silicon")
    if Version(macos) < Version(_OLDEST_MACOS):
        return Match.no(f"{tag} builds need macOS {_OLDEST_MACOS} or newer, and this is {macos}")
    return Match.yes()


@hookimpl
def kernels_match_device(required: MinimumVersions, facts: MPSFacts) -> Match:
    """Accept devices whose macOS (`macos`) and Metal (`metal`) are new enough."""
    return match_minimum_versions(required, {"metal": facts.metal, "macos": facts.macos})
