"""The only code of this backend that asks the machine. What comes back is raw."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen
class Processor:
    """What archspec and torch tell about the host's processor.

    Attributes:
        microarchitecture: archspec's name of the best microarchitecture that it satisfies.
        flags: the features that the operating system lists, and those that the microarchitecture
            implies, by the names that Linux uses.
        torch: what torch found out, by torch's own names; empty without torch, or where torch is
            too old to tell.
    """

    microarchitecture: str
    flags: frozenset[str]
    torch: Mapping[str, object]


def processor() -> Processor:
    """Ask archspec and torch."""
    from archspec.cpu import Microarchitecture, host  # type: ignore[import-untyped]
    from archspec.cpu.detect import detected_info  # type: ignore[import-untyped]

    found: Microarchitecture = host()
    # `host` knows only what its name for the processor stands for. A virtual machine that hides one
    # feature makes that an old name, so take in what the operating system lists beside it.
    flags = {*found.features, *detected_info().features}
    flags.update(alias for alias in Microarchitecture.feature_aliases if alias in found)
    return Processor(found.name, frozenset(flags), _torch_capabilities())


def _torch_capabilities() -> Mapping[str, object]:
    try:
        import torch
    except ModuleNotFoundError:
        return {}
    get_capabilities = getattr(torch.cpu, "get_capabilities", dict)
    return dict(get_capabilities())
