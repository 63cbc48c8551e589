"""Everything that transformers marks, with the layers in Triton."""

import os
from types import ModuleType

import pytest
import torch
from transformers_sweep import sweep

from kernels_bundled_triton import bundled_mapping

# They rotate the other way, and pairs of elements.
OTHER_ROTATIONS = {
    "nanochat.apply_rotary_pos_emb",
    "openai_privacy_filter.apply_rotary_pos_emb",
}


def test_what_transformers_marks_is_equal_or_refused(
    kernel: ModuleType, device: torch.device
) -> None:
    pytest.importorskip("transformers")
    # Also what a program may mark itself, which takes some minutes.
    marked_only = "SWEEP_ALL" not in os.environ
    outcomes = sweep(bundled_mapping(device.type), device.type, marked_only)
    assert {str(one): one.failures for one in outcomes if one.failures} == {}
    marked = [one for one in outcomes if one.implementation.marked]
    kept = {str(one.implementation): one.reason for one in marked if one.kernel is None}
    assert set(kept) <= OTHER_ROTATIONS
    assert all("does not meet the condition" in reason for reason in kept.values())
    assert {one.kernel for one in marked} - {None} == {"RMSNorm", "rotary_pos_emb"}
