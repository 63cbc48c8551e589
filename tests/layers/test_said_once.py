"""What kernelize says, once per process: what is mapped and not used, and what to do."""

import logging
import subprocess
import sys
import warnings

import pytest
from layers.models import Scale
from torch import nn

from kernels_core import (
    KernelizeFallback,
    LocalLayerRepository,
    Mode,
    bundled_mapping,
    kernelize,
    notices,
    replace_kernel_forward_from_hub,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
)

MISSING = LocalLayerRepository("/no/such/repository", layer_name="Absent")


@use_kernel_forward_from_hub("Gate")
class Gate(nn.Module):
    def forward(self, x):
        return x


@use_kernel_forward_from_hub("Norm")
class Norm(nn.Module):
    def forward(self, x):
        return x


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(notices, "_said", {})


def said_by(model, mapping, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kernelize(model, **{"mode": Mode.INFERENCE, "mapping": mapping, **arguments})
    assert all(warning.filename == __file__ for warning in caught)
    assert len(caught) <= 1, "one warning per call"
    return str(caught[0].message) if caught else ""


def test_nothing_is_said_where_every_layer_has_a_kernel(scaled):
    assert said_by(nn.Sequential(Scale(), nn.ReLU()), {"Scale": {"cpu": scaled("Times10")}}) == ""
    assert said_by(nn.Linear(1, 1), {}) == "", "no extensible layers"


def test_names_that_no_mapping_knows_are_one_line(scaled, caplog):
    mapping = {"Scale": {"cpu": scaled("Times10")}}
    model = nn.Sequential(Scale(), Gate(), Norm(), Gate())
    with caplog.at_level(logging.WARNING, "kernels_core"):
        text = said_by(model, mapping)
    assert text.startswith("kernelize(Sequential):\n- no mapping has a layer 'Gate' or 'Norm': ")
    assert [record.getMessage() for record in caplog.records] == [text]
    assert said_by(model, mapping) == ""
    assert said_by(nn.Sequential(Scale(), Gate()), mapping) == ""


@use_kernel_forward_from_hub("RMSNorm")
class RMSNorm(nn.Linear):
    pass


def test_bundled_kernels_are_advised_where_they_would_be_used():
    model = nn.Sequential(RMSNorm(1, 1), Gate())
    text = said_by(model, {})
    assert "no mapping has a layer 'RMSNorm' or 'Gate': add it with register_kernel_mapping" in text
    assert "or pass bundled=True: installed backends provide 'RMSNorm'" in text


@pytest.mark.parametrize("mapping", [{}, bundled_mapping()])
def test_bundled_kernels_are_not_advised_where_they_are_used(mapping):
    text = said_by(Gate(), mapping, device="cpu", bundled=True if not mapping else None)
    assert "no mapping has a layer 'Gate': add it with register_kernel_mapping\n" in text
    assert "bundled" not in text


def test_bundled_kernels_are_not_advised_where_the_mapping_hides_them():
    with use_kernel_mapping({}, inherit_mapping=False):
        text = said_by(RMSNorm(1, 1), None, bundled=True)
    assert "no mapping has a layer 'RMSNorm'" in text
    assert "bundled" not in text


def test_a_call_that_replaced_nothing_gives_every_reason(scaled, make_kernel, monkeypatch):
    metal = make_kernel("class Norm(nn.Module): pass", variant="torch-metal", name="metal")
    mapping = {"Scale": {"cuda": scaled("Times10")}, "Norm": {"cpu": metal("Norm")}}
    text = said_by(model := nn.Sequential(Scale(), Norm(), Gate()), mapping)
    assert text.startswith("kernelize replaced none of the 3 extensible layers of Sequential:")
    for reason in ("for cuda, not for cpu", "torch-metal", "no mapping has a layer 'Gate'"):
        assert reason in text
    assert said_by(model, mapping) == ""
    other = {"Scale": {"cpu": {Mode.TRAINING: scaled("Times10")}}}
    text = said_by(model, other, mode=Mode.INFERENCE | Mode.TORCH_COMPILE)
    assert "no entry serves INFERENCE|TORCH_COMPILE" in text, "another reason is said"
    monkeypatch.setenv("DISABLE_KERNEL_MAPPING", "1")
    assert said_by(Gate(), {}, device="cpu") == "", "the user wants that"


def test_a_mapped_layer_without_a_build_is_said_although_others_have_kernels(scaled, make_kernel):
    metal = make_kernel("class Norm(nn.Module): pass", variant="torch-metal", name="metal")
    mapping = {"Scale": {"cpu": scaled("Times10")}, "Norm": {"cpu": metal("Norm")}}
    text = said_by(nn.Sequential(Scale(), Norm()), mapping)
    assert "Norm on cpu keeps its forward: No build in " in text
    assert "torch-metal: made for backend 'metal'" in text
    assert said_by(nn.Sequential(Scale(), Norm()), mapping) == ""


def test_what_needs_no_action_is_not_said(scaled):
    class Wanted(Scale):
        pass

    replace_kernel_forward_from_hub(Wanted, "Scale", lambda module: False)
    mapping = {
        "Scale": {"cpu": scaled("Times10")},
        "Gate": {"cuda": MISSING},
        "Norm": {"cpu": {Mode.INFERENCE: MISSING}},
    }
    model = nn.Sequential(Scale(), Wanted(), Gate(), Norm())
    assert said_by(model, mapping, mode=Mode.TRAINING) == ""


def test_many_reasons_are_cut_short():
    classes = [
        use_kernel_forward_from_hub(f"L{n}")(type("L", (nn.Module,), {"forward": Gate.forward}))
        for n in range(15)
    ]
    mapping = {f"L{n}": {"cpu": MISSING} for n in range(15)}
    model = nn.Sequential(nn.Linear(1, 1), *(cls() for cls in classes))
    text = said_by(model, mapping, use_fallback=KernelizeFallback.ALL)
    assert text.count("no/such/repository") == 10
    assert "\n- ... and 5 more\n" in text


def test_a_filter_that_makes_errors_of_warnings_leaves_the_model_as_it_was(scaled):
    model = nn.Sequential(Scale(), Gate())
    mapping = {"Scale": {"cpu": scaled("Times10")}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="Gate"):
            kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
    assert type(model[0]) is Scale


PROGRAM = """
import kernels_core
from torch import nn

@kernels_core.use_kernel_forward_from_hub("Gate")
class Gate(nn.Module):
    def forward(self, x):
        return x

for _ in range(3):
    kernels_core.kernelize(Gate(), mode=kernels_core.Mode.INFERENCE, device="cpu")
"""


def test_a_program_without_logging_sees_it_once():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("no mapping has a layer 'Gate'") == 1
    assert done.stdout == ""
