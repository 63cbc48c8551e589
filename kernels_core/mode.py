"""`Mode`: what a layer is about to be used for, and which registered modes serve a request."""

from __future__ import annotations

from enum import Flag

from kernels_core.errors import InvalidModeError


class Mode(Flag):
    """What a kernel is used for. Modes combine with `|`.

    `INFERENCE | TRAINING` raises, and so does `FALLBACK` combined with anything. `FALLBACK` is for
    mappings only: it marks the entry that is used when no other mode fits.

    Raises:
        InvalidModeError: the combination has no meaning.

    Example:
        >>> Mode.TORCH_COMPILE in (Mode.TRAINING | Mode.TORCH_COMPILE)
        True
    """

    FALLBACK = 1
    TRAINING = 2
    INFERENCE = 4
    TORCH_COMPILE = 8

    @classmethod
    def _missing_(cls, value: object) -> Mode:
        # Every operator makes its combinations here, on all Python versions.
        if isinstance(value, int):
            if value & 2 and value & 4:
                raise InvalidModeError(
                    "Mode.INFERENCE | Mode.TRAINING is not a mode: choose one of the two."
                )
            if value & 1 and value != 1:
                raise InvalidModeError("Mode.FALLBACK does not combine with other modes.")
        mode: Mode = super()._missing_(value)
        return mode

    def __str__(self) -> str:
        return "|".join(mode.name for mode in _NAMED if mode.name and mode in self) or "no mode"


_NAMED = (Mode.FALLBACK, Mode.INFERENCE, Mode.TRAINING, Mode.TORCH_COMPILE)

_SERVING: dict[Mode, tuple[Mode, ...]] = {
    Mode.INFERENCE: (
        Mode.INFERENCE,
        Mode.INFERENCE | Mode.TORCH_COMPILE,
        Mode.TRAINING,
        Mode.TRAINING | Mode.TORCH_COMPILE,
        Mode.FALLBACK,
    ),
    Mode.INFERENCE | Mode.TORCH_COMPILE: (
        Mode.INFERENCE | Mode.TORCH_COMPILE,
        Mode.TRAINING | Mode.TORCH_COMPILE,
        Mode.FALLBACK,
    ),
    Mode.TRAINING: (
        Mode.TRAINING,
        Mode.TRAINING | Mode.TORCH_COMPILE,
        Mode.FALLBACK,
    ),
    Mode.TRAINING | Mode.TORCH_COMPILE: (
        Mode.TRAINING | Mode.TORCH_COMPILE,
        Mode.FALLBACK,
    ),
}


def serving_modes(requested: Mode) -> tuple[Mode, ...]:
    """The registered modes that can serve a requested one, best first."""
    order = _SERVING.get(requested)
    if order is None:
        raise InvalidModeError(
            f"kernelize cannot use mode {requested}: it needs Mode.INFERENCE or Mode.TRAINING, "
            f"optionally with | Mode.TORCH_COMPILE. Mode.FALLBACK is for mappings only."
        )
    return order
