"""Modes: what combines, what is refused, and which modes serve a requested one."""

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_core import KernelsError, Mode
from kernels_core.mode import serving_modes

VALID = {0, 1, 2, 4, 8, 2 | 8, 4 | 8}


def test_modes_combine_with_compile():
    mode = Mode.INFERENCE | Mode.TORCH_COMPILE
    assert Mode.INFERENCE in mode
    assert Mode.TORCH_COMPILE in mode
    assert Mode.TRAINING not in mode


@given(st.integers(min_value=0, max_value=15))
def test_every_way_to_build_an_invalid_mode_is_refused(value):
    if value in VALID:
        assert Mode(value).value == value
        return
    with pytest.raises(ValueError, match="Mode"):
        Mode(value)


@pytest.mark.parametrize("combine", [operator.or_, operator.xor])
def test_operators_refuse_invalid_modes_too(combine):
    with pytest.raises(ValueError, match="choose one of the two"):
        combine(Mode.INFERENCE, Mode.TRAINING)
    with pytest.raises(KernelsError, match="FALLBACK does not combine"):
        combine(Mode.FALLBACK, Mode.TORCH_COMPILE)


def test_a_complement_is_refused():
    with pytest.raises(ValueError, match="Mode"):
        operator.invert(Mode.TORCH_COMPILE)


ORDER = {
    Mode.INFERENCE: [
        Mode.INFERENCE,
        Mode.INFERENCE | Mode.TORCH_COMPILE,
        Mode.TRAINING,
        Mode.TRAINING | Mode.TORCH_COMPILE,
        Mode.FALLBACK,
    ],
    Mode.INFERENCE | Mode.TORCH_COMPILE: [
        Mode.INFERENCE | Mode.TORCH_COMPILE,
        Mode.TRAINING | Mode.TORCH_COMPILE,
        Mode.FALLBACK,
    ],
    Mode.TRAINING: [Mode.TRAINING, Mode.TRAINING | Mode.TORCH_COMPILE, Mode.FALLBACK],
    Mode.TRAINING | Mode.TORCH_COMPILE: [Mode.TRAINING | Mode.TORCH_COMPILE, Mode.FALLBACK],
}


@pytest.mark.parametrize("requested", ORDER, ids=str)
def test_the_order_of_serving_modes(requested):
    assert list(serving_modes(requested)) == ORDER[requested]


@pytest.mark.parametrize("mode", [Mode.FALLBACK, Mode.TORCH_COMPILE, Mode(0)], ids=str)
def test_modes_that_cannot_be_requested(mode):
    with pytest.raises(ValueError, match=r"needs Mode\.INFERENCE or Mode\.TRAINING"):
        serving_modes(mode)
