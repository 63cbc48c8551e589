"""`Mode`: what a layer is about to be used for, and which modes stand in for each other."""

from __future__ import annotations

from enum import Flag

from kernels_core.errors import InvalidModeError


class Mode(Flag):
    """What a kernel is used for. Modes combine with `|`.

    `INFERENCE | TRAINING` is refused, however it is built, and so is `FALLBACK` combined with
    anything. `FALLBACK` is for mappings only: the entry that serves when no mode fits better.

    Raises:
        InvalidModeError: for a combination that means nothing.

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
        # Every combination is made here, whichever operator asks for it, on all Python versions.
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

_STAND_INS: dict[Mode, tuple[Mode, ...]] = {
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


def stand_ins(requested: Mode) -> tuple[Mode, ...]:
    """The registered modes that can serve a requested one, best first.

    Args:
        requested: the mode given to `kernelize`.

    Raises:
        InvalidModeError: the mode is `FALLBACK`, or has neither `INFERENCE` nor `TRAINING`.

    Example:
        >>> [str(mode) for mode in stand_ins(Mode.TRAINING)]
        ['TRAINING', 'TRAINING|TORCH_COMPILE', 'FALLBACK']
    """
    order = _STAND_INS.get(requested)
    if order is None:
        raise InvalidModeError(
            f"kernelize cannot use mode {requested}: it needs Mode.INFERENCE or Mode.TRAINING, "
            f"optionally with | Mode.TORCH_COMPILE. Mode.FALLBACK is for mappings only."
        )
    return order
