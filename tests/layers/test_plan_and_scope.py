"""Planning without loading, kernelizing inside a `with` block, and an explicit mapping."""

import copy
import logging
import weakref

import pytest
import torch
from layers.models import Scale
from torch import nn

import kernels_core
from kernels_core import (
    KernelizeFallback,
    LayerRepository,
    LocalLayerRepository,
    Mode,
    errors,
    get_loaded_kernels,
    kernelize,
    kernelized,
    plan,
    register_kernel_mapping,
)

X = torch.ones(3)


def value(module):
    return module(X)[0].item()


def test_a_plan_loads_and_changes_nothing(scaled):
    repository = scaled("Times10")
    register_kernel_mapping({"Scale": {"cpu": repository, "cuda": LayerRepository("a/b", "C")}})
    model = nn.Sequential(Scale(), Scale())
    planned = plan(model, mode=Mode.INFERENCE)
    (row,) = planned.rows
    assert (row.count, row.kernel, row.backend) == (2, None, "cpu")
    assert (row.reason, row.note) == ("", "")
    assert row.candidates == (f"{repository} (FALLBACK)",)
    assert "to try:" in str(planned)
    assert planned.to_dict()["layers"][0]["candidates"]
    assert type(model[0]) is Scale
    loaded = [kernel.repository for kernel in get_loaded_kernels()]
    assert str(repository.repo_path) not in loaded
    report = planned.apply()
    assert value(model[0]) == 20
    assert report is kernels_core.report(model)
    assert report.rows[0].kernel == "Times10"
    assert report.rows[0].candidates == ()


def test_a_plan_says_why_a_layer_will_keep_its_forward():
    planned = plan(Scale(), mode=Mode.INFERENCE)
    assert "the mapping has no layer 'Scale'" in str(planned)


def test_the_same_input_gives_the_same_plan(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    model = nn.Sequential(Scale(), Scale())
    assert plan(model, mode=Mode.INFERENCE).rows == plan(model, mode=Mode.INFERENCE).rows


@pytest.mark.parametrize("device", ["cpu", "nowhere"])
def test_a_plan_keeps_nothing_alive_but_its_model(scaled, device):
    class Conditional(Scale):
        pass

    def raising(module):
        raise ValueError("no") from RuntimeError("unknown")

    condition = raising if device == "cpu" else None
    kernels_core.replace_kernel_forward_from_hub(Conditional, "Scale", condition)

    def make_and_keep():
        other = nn.Linear(2, 2)
        others.append(weakref.ref(other))
        mapping = {"Scale": {device: scaled("Times10")}}
        fallback = KernelizeFallback.ALL
        return plan(
            Conditional(),
            mode=Mode.INFERENCE,
            mapping=mapping,
            device=device,
            use_fallback=fallback,
        )

    others = []
    kept = make_and_keep()
    assert kept.rows[0].kernel is None
    assert others[0]() is None


def test_a_plan_of_a_model_that_changed_is_refused(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    model = nn.Sequential(Scale(), Scale())
    planned = plan(model, mode=Mode.INFERENCE)
    kernelize(model[1], mode=Mode.INFERENCE, mapping={"Scale": {"cpu": scaled("Times100")}})
    with pytest.raises(
        errors.StalePlanError, match=r"^The class of a Scale was .* Call plan again\.$"
    ) as caught:
        planned.apply()
    assert caught.value.layer == "Scale"
    assert [value(module) for module in model] == [2, 200]


def test_an_explicit_mapping_is_used_alone(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    module = Scale()
    kernelize(module, mode=Mode.INFERENCE, mapping={"Scale": {"cpu": scaled("Times100")}})
    assert value(module) == 200
    kernelize(module, mode=Mode.INFERENCE, mapping={})
    assert value(module) == 2
    kernelize(module, mode=Mode.INFERENCE)
    assert value(module) == 20
    with pytest.raises(TypeError, match="A kernel mapping must be a dict"):
        kernelize(module, mode=Mode.INFERENCE, mapping=[])


def fail_inside(model):
    with kernelized(model, mode=Mode.INFERENCE, mapping={}):
        assert value(model[0]) == 2
        raise RuntimeError("inside")


def test_kernelized_inside_a_with_block(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    model = kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE)
    report = kernels_core.report(model)
    other = {"Scale": {"cpu": scaled("Times100")}}
    with kernelized(model, mode=Mode.TRAINING, mapping=other) as inside:
        assert inside is model
        assert value(model[0]) == 200
        with pytest.raises(RuntimeError, match="inside"):
            fail_inside(model)
        assert value(model[0]) == 200
        kernelize(model, mode=Mode.INFERENCE, mapping={})
    assert value(model[0]) == 20
    assert kernels_core.report(model) is report


def test_a_with_block_that_cannot_be_entered_changes_nothing(tmp_path):
    missing = LocalLayerRepository(tmp_path / "missing", layer_name="Scale")
    module = Scale()
    with (
        pytest.raises(FileNotFoundError),
        kernelized(module, mode=Mode.INFERENCE, mapping={"Scale": {"cpu": missing}}),
    ):
        raise AssertionError("not reached")
    assert type(module) is Scale
    with pytest.raises(LookupError, match="has not been kernelized"):
        kernels_core.report(module)


# The report


def test_the_report_covers_every_module(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    model = nn.Sequential(Scale(), nn.Linear(3, 3), Scale())
    kernelize(model, mode=Mode.INFERENCE)
    report = kernels_core.report(model)
    assert [(name, row.kernel) for name, row in report.modules()] == [
        ("0", "Times10"),
        ("2", "Times10"),
    ]
    (row,) = report.rows
    assert (row.variant, row.mode, row.reason) == ("torch-cpu", "FALLBACK", "")
    assert row.repository.endswith("kernel")
    assert str(report).splitlines() == [
        "count  layer  class  device  decision",
        f"2      Scale  Scale  cpu     Times10, from {row.repository}, variant torch-cpu",
    ]
    assert report.to_dict() == {
        "mode": "INFERENCE",
        "layers": [
            {
                "layer_name": "Scale",
                "class_name": "Scale",
                "device": "cpu",
                "count": 2,
                "backend": "cpu",
                "kernel": "Times10",
                "repository": row.repository,
                "variant": "torch-cpu",
                "commit": None,
                "mode": "FALLBACK",
                "candidates": (),
                "reason": "",
                "passed_over": (),
                "note": "",
                "decision": row.decision,
            }
        ],
    }


def test_reports_belong_to_one_object(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    model = kernelize(nn.Sequential(Scale()), mode=Mode.INFERENCE)
    report = kernels_core.report(model)
    for other in (copy.deepcopy(model), model[0], nn.Linear(1, 1)):
        text = f"no report for this {type(other).__name__}: it has not been kernelized"
        with pytest.raises(LookupError, match=text):
            kernels_core.report(other)
    kernels_core.unkernelize(model)
    with pytest.raises(LookupError, match="has not been kernelized"):
        kernels_core.report(model)
    del model
    assert list(report.modules()) == []


def test_a_report_is_a_table_in_a_terminal(scaled):
    console = pytest.importorskip("rich.console").Console(width=200, force_terminal=True)
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    model = kernelize(Scale(), mode=Mode.INFERENCE)
    with console.capture() as capture:
        console.print(kernels_core.report(model))
    assert "Times10" in capture.get()
    assert "─" in capture.get() or "━" in capture.get()


def test_what_was_done_is_logged_and_nothing_is_printed(scaled, caplog, capsys):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    with caplog.at_level("INFO", logger="kernels_core"):
        kernelize(Scale(), mode=Mode.INFERENCE)
    (record,) = caplog.records
    assert record.name == "kernels_core"
    assert record.args, "the text is only made when a handler formats it"
    assert "Times10" in caplog.text
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger("kernels_core").handlers == []
