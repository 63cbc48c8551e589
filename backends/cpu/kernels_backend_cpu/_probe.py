"""The only module of this backend that queries the machine. It returns raw values."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from kernels_core.host import import_torch


@attrs.frozen
class Processor:
    """What archspec and torch say about the host's processor.

    Attributes:
        microarchitecture: archspec's name of the best microarchitecture that it satisfies.
        flags: the features that the operating system lists, and those that the microarchitecture
            implies, by their names on Linux.
        torch: the features that torch detected, by torch's names; empty without torch, or if torch
            is too old.
    """

    microarchitecture: str
    flags: frozenset[str]
    torch: Mapping[str, object]


def processor() -> Processor:
    """Query archspec and torch."""
    # Not at the top: archspec reads its tables when it is imported, which takes 20 ms.
    from archspec.cpu import Microarchitecture, host  # type: ignore[import-untyped]
    from archspec.cpu.detect import detected_info  # type: ignore[import-untyped]

    found: Microarchitecture = host()
    # `host` has only the features of the microarchitecture that it names. In a virtual machine that
    # hides one feature, that is an old one: add what the operating system lists.
    flags = {*found.features, *detected_info().features}
    flags.update(alias for alias in Microarchitecture.feature_aliases if alias in found)
    return Processor(found.name, frozenset(flags), _torch_capabilities())


def _torch_capabilities() -> Mapping[str, object]:
    torch = import_torch()
    if torch is None:
        return {}
    get_capabilities = getattr(torch.cpu, "get_capabilities", dict)
    return dict(get_capabilities())
