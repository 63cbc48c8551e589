"""Hook calls about recorded machines, whose results must be the same in every process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from kernels_core.device import DeviceFacts, DeviceProperties
from kernels_core.errors import PluginError
from kernels_core.hookspecs import BackendTag, Candidate, Detection, Match, SelectionRequest
from kernels_core.mode import Mode
from kernels_core.plugins.backend import Backend, Hooks

MODES = (Mode.INFERENCE, Mode.TRAINING | Mode.TORCH_COMPILE, Mode.FALLBACK)


@attrs.frozen
class Question:
    """One call of a hook."""

    hook: str
    arguments: tuple[Any, ...]


def about_tags(tags: Iterable[BackendTag], detection: Detection) -> Iterator[Question]:
    """Whether builds with these tags run on what was detected."""
    for tag in tags:
        yield Question("kernels_match_tag", (tag, detection))


def about_device(
    facts: DeviceFacts,
    requirements: Sequence[DeviceProperties],
    archs: Iterable[Sequence[str]],
) -> Iterator[Question]:
    """Whether a device fits requirements and builds, and how candidates for it are ordered."""
    for required in requirements:
        yield Question("kernels_match_device", (required, facts))
    for declared in archs:
        yield Question("kernels_match_archs", (declared, facts))
    for mode in MODES[:2]:
        request = SelectionRequest("Layer", mode, facts)
        yield Question("kernels_select", (request, candidates(requirements)))


def candidates(requirements: Sequence[DeviceProperties]) -> tuple[Candidate, ...]:
    """Candidates as a mapping could have them: several modes, with and without requirements."""
    return tuple(
        Candidate(f"repository {number}", mode, properties)
        for number, (properties, mode) in enumerate(
            (properties, mode) for properties in (*requirements, None) for mode in MODES
        )
    )


def ask(backend: Backend, hooks: Hooks, question: Question) -> object:
    """The result of a call, in a form that can be compared across processes."""
    try:
        if question.hook == "kernels_match_tag":
            # Not through the facade, which would use the detection of this machine.
            return hooks.call(question.hook, Match, *question.arguments)
        if question.hook == "kernels_select":
            request, given = question.arguments
            return [given.index(candidate) for candidate in backend.select(request, given)]
        return getattr(backend, question.hook.removeprefix("kernels_"))(*question.arguments)
    except PluginError:
        return (
            "an error"  # its text may contain sets, whose order differs; other rules are about it
        )
