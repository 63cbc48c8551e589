"""`KernelizeFallback`: the cases in which a layer may keep its original forward."""

from __future__ import annotations

from enum import Flag

import attrs


class KernelizeFallback(Flag):
    """The cases in which `kernelize` keeps a layer's original forward instead of raising.

    Attributes:
        NONE: never; every layer must get a kernel.
        NO_LAYER: the mapping has no entry for the layer.
        NO_DEVICE: the mapping has no entry for the layer's type of device.
        NO_COMPATIBLE_PROPERTIES: none of these entries fits the device's properties.
        NO_COMPATIBLE_MODE: none of the entries that fit can serve the requested mode.
        NO_BUILD: the repository exists, but none of its builds fits this machine.
        CANNOT_LOAD: everything else that can go wrong from resolving to validating.
        DEFAULT: all but `CANNOT_LOAD`; what `use_fallback=True` means.
        ALL: every case, and also what raises under every other policy: a device that no backend
            serves, a backend that fails, an entry for a mode that its layer does not support.
            Only malformed arguments raise.

    Example:
        >>> KernelizeFallback.NO_BUILD in KernelizeFallback.DEFAULT
        True
    """

    NONE = 0
    NO_LAYER = 1
    NO_DEVICE = 2
    NO_COMPATIBLE_PROPERTIES = 4
    NO_COMPATIBLE_MODE = 8
    NO_BUILD = 16
    CANNOT_LOAD = 32
    DEFAULT = NO_LAYER | NO_DEVICE | NO_COMPATIBLE_PROPERTIES | NO_COMPATIBLE_MODE | NO_BUILD
    ALL = DEFAULT | CANNOT_LOAD


@attrs.frozen(eq=False)
class Obstacle:
    """Why a layer, or one candidate for it, cannot be used, and which case of fallback that is."""

    case: KernelizeFallback
    reason: str
    error: Exception | None = None


def allowed_cases(use_fallback: bool | KernelizeFallback) -> KernelizeFallback:
    """The cases that a `use_fallback` argument allows; TypeError where it is none."""
    if use_fallback is True:
        return KernelizeFallback.DEFAULT
    if use_fallback is False:
        return KernelizeFallback.NONE
    if not isinstance(use_fallback, KernelizeFallback):
        raise TypeError(
            f"use_fallback must be a bool or a KernelizeFallback, got {use_fallback!r}."
        )
    return use_fallback
