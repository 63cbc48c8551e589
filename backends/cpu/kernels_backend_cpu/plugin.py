"""The hooks of the CPU backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernels_backend_cpu import _probe
from kernels_backend_cpu.bundled import bundled_mapping
from kernels_backend_cpu.facts import CPUFacts, known_features
from kernels_core.device import Features
from kernels_core.hookspecs import BackendInfo, BackendTag, Detection, Match, hookimpl
from kernels_core.host import HostInfo
from kernels_core.matching import match_features


@hookimpl
def kernels_backend() -> BackendInfo:
    """Declare the backend."""
    return BackendInfo(
        name="cpu",
        api_version=1,
        torch_device_type="cpu",
        noarch_name="cpu",
        facts=CPUFacts,
        properties=(Features,),
        priority=0,
    )


@hookimpl
def kernels_detect(host: HostInfo) -> Detection:
    """Every machine has a processor, which is one device for torch."""
    return Detection(1)


@hookimpl
def kernels_device_facts(index: int) -> CPUFacts:
    """Describe the processor."""
    processor = _probe.processor()
    return CPUFacts(
        index=index,
        name=str(processor.torch.get("cpu_name", processor.microarchitecture)),
        microarchitecture=processor.microarchitecture,
        features=known_features(processor.flags, processor.torch),
    )


@hookimpl
def kernels_parse_tag(text: str) -> BackendTag | None:
    """Parse the tag `cpu`."""
    return BackendTag("cpu", "cpu") if text == "cpu" else None


@hookimpl
def kernels_match_tag(tag: BackendTag, detection: Detection) -> Match:
    """Accept every build: the tag does not depend on the processor."""
    return Match.yes()


@hookimpl
def kernels_match_device(required: Features, facts: CPUFacts) -> Match:
    """Accept processors that have all required features."""
    return match_features(required, facts.features)


@hookimpl
def kernels_bundled() -> Mapping[str, Mapping[Any, Any]]:
    """The kernels in this package."""
    return bundled_mapping()
