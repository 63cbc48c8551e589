"""In which order a mapping's repositories are tried: lists, levels, and bundled kernels below."""

import contextlib
import contextvars
import warnings

import pytest
import torch
from layers.models import Scale
from layers.test_bundled import RMSNorm
from torch import nn

import kernels_core
from kernels_core import (
    KernelizeFallback,
    LocalLayerRepository,
    Mode,
    bundled_mapping,
    errors,
    kernelize,
    kernelized,
    notices,
    plan,
    plugins,
    register_kernel_mapping,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
)
from kernels_core.layers import mapping

MISSING = LocalLayerRepository("/no/such/repository", layer_name="Absent")
X = torch.ones(3)


@pytest.fixture(autouse=True)
def _new_process(monkeypatch):
    """Nothing is registered, and nothing was said."""
    monkeypatch.setattr(mapping, "_base", mapping.Levels(({},)))
    monkeypatch.setattr(notices, "_said", {})
    monkeypatch.delenv("KERNELS_BUNDLED", raising=False)


@pytest.fixture
def outside():
    """Run a function outside of the `use_kernel_mapping` that surrounds every test here."""
    return lambda work: contextvars.Context().run(work)


def row(model):
    return kernels_core.report(model).rows[0]


def kernel(**arguments):
    """What a norm runs: the name of a layer, or None."""
    model = nn.Sequential(RMSNorm())
    return row(kernelize(model, **{"mode": Mode.INFERENCE, **arguments})).kernel


@pytest.fixture
def norm(make_kernel):
    """Layers that serve RMSNorm."""
    source = "\n".join(
        f"class {name}(nn.Module):\n    def forward(self, x): return x\n" for name in ("A", "B")
    )
    return make_kernel(source)


# Lists


def test_a_reason_is_reported_once_for_a_repository_at_several_levels(scaled):
    model = Scale()
    with (
        use_kernel_mapping({"Scale": {"cpu": [MISSING, scaled("Times10")]}}),
        use_kernel_mapping({"Scale": {"cpu": [MISSING, MISSING]}}),
        pytest.warns(RuntimeWarning, match="no kernel repository at /no/such"),
    ):
        kernelize(model, mode=Mode.INFERENCE)
    assert row(model).kernel == "Times10"
    assert len(row(model).passed_over) == 1


def test_the_first_repository_of_a_list_that_can_be_used_serves(scaled, make_kernel):
    elsewhere = make_kernel("class Times10(nn.Module): pass", variant="torch-metal", name="metal")
    broken = make_kernel("raise OSError('libgomp.so.1 not found')", name="broken")
    entries = [
        MISSING,
        elsewhere("Times10"),
        broken("Times10"),
        scaled("TwoArguments"),
        scaled("InferenceOnly"),
        scaled("Times10"),
        scaled("Times100"),
    ]
    model = nn.Sequential(Scale())
    mapping = {"Scale": {"cpu": entries}}
    assert plan(model, mode=Mode.TRAINING, mapping=mapping).rows[0].candidates[-1].endswith("K)")
    with pytest.warns(RuntimeWarning, match="Scale on cpu gets Times10 from") as said:
        kernelize(model, mode=Mode.TRAINING, mapping=mapping, use_fallback=False)
    assert row(model).kernel == "Times10"
    passed_over = row(model).passed_over
    for reason, text in zip(
        passed_over,
        ["no/such", "torch-metal", "libgomp", "2 parameters", "not support backward"],
        strict=True,
    ):
        assert text in reason
        assert "\n" not in str(kernels_core.report(model)).partition("\n")[2]
    assert "passed over: " in str(kernels_core.report(model))
    assert kernels_core.report(model).to_dict()["layers"][0]["passed_over"] == passed_over
    assert len(said) == 1
    for text in ("no/such", "torch-metal", "libgomp", "2 parameters"):
        assert text in str(said[0].message)
    assert "support backward" not in str(said[0].message), "nothing that the user must know"


def test_a_list_may_stand_for_one_mode(scaled):
    by_mode = {
        Mode.TRAINING: [MISSING, scaled("Times10")],
        Mode.FALLBACK: (scaled("Times100"),),
    }
    for mode, expected in ((Mode.TRAINING, "Times10"), (Mode.INFERENCE, "Times10")):
        with pytest.warns(RuntimeWarning) if mode is Mode.TRAINING else no_warnings():
            model = kernelize(Scale(), mode=mode, mapping={"Scale": {"cpu": by_mode}})
        assert row(model).kernel == expected
    by_mode[Mode.TRAINING] = [MISSING]
    assert row(kernelize(Scale(), mode=Mode.TRAINING, mapping={"Scale": {"cpu": by_mode}})).kernel


@contextlib.contextmanager
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_modules_that_a_kernel_does_not_fit_get_the_next_one(make_kernel):
    layers = make_kernel(
        """
        from typing import Annotated


        class Half(nn.Module):
            weight: Annotated[torch.Tensor, torch.float16]

            def forward(self, x): return x


        class Any(nn.Module):
            def forward(self, x): return x + 1
        """
    )
    model = nn.Sequential(RMSNorm().half(), RMSNorm())
    mapping = {"RMSNorm": {"cpu": [layers("Half"), layers("Any")]}}
    with no_warnings():
        kernelize(model, mode=Mode.INFERENCE, mapping=mapping, use_fallback=False)
    assert [(one.kernel, one.count) for one in kernels_core.report(model).rows] == [
        ("Half", 1),
        ("Any", 1),
    ]
    assert "torch.float16 is required" in kernels_core.report(model).rows[1].passed_over[0]


def test_when_no_repository_of_a_list_is_left_the_policy_decides(scaled):
    mapping = {"Scale": {"cpu": [scaled("TwoArguments"), MISSING]}}
    model = Scale()
    with pytest.raises(errors.SignatureMismatchError):
        kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
    assert type(model) is Scale
    with pytest.warns(RuntimeWarning, match="replaced none"):
        kernelize(model, mode=Mode.INFERENCE, mapping=mapping, use_fallback=KernelizeFallback.ALL)
    assert "2 parameters" in row(model).reason
    assert "no/such" in row(model).reason


# Levels


def test_the_context_comes_first_then_what_is_around_it_then_what_is_registered(norm, outside):
    def work():
        register_kernel_mapping({"RMSNorm": {"cpu": norm("A")}})
        assert kernel() == "A"
        with use_kernel_mapping({"RMSNorm": {"cpu": norm("B")}}):
            assert kernel() == "B"
            with use_kernel_mapping({"RMSNorm": {"cpu": MISSING}}), pytest.warns(RuntimeWarning):
                assert kernel() == "B"
            with use_kernel_mapping({"RMSNorm": {"cuda": MISSING}}):
                assert kernel() == "B"
        with use_kernel_mapping({"RMSNorm": {"cpu": {Mode.TRAINING: norm("B")}}}):
            assert kernel(mode=Mode.TRAINING) == "B"
            assert kernel(mode=Mode.INFERENCE) == "B", "the context's entries, whatever the mode"
            assert kernel(mode=Mode.TRAINING | Mode.TORCH_COMPILE) is None
        with (
            use_kernel_mapping({"RMSNorm": {"cpu": MISSING}}, inherit_mapping=False),
            pytest.raises(errors.RepositoryNotFoundError),
        ):
            kernel()
        assert kernel() == "A"

    outside(work)


def test_registering_again_replaces_and_does_not_add(norm, outside):
    def work():
        register_kernel_mapping({"RMSNorm": {"cpu": norm("A")}})
        register_kernel_mapping({"RMSNorm": {"cpu": MISSING}})
        with pytest.raises(errors.RepositoryNotFoundError):
            kernel()

    outside(work)


def test_no_policy_is_asked_while_a_later_level_serves(norm, outside):
    def work():
        register_kernel_mapping({"RMSNorm": {"cpu": norm("A")}})
        with use_kernel_mapping({"RMSNorm": {"cpu": MISSING}}), pytest.warns(RuntimeWarning):
            assert kernel(use_fallback=False) == "A"

    outside(work)


# Bundled kernels


def test_bundled_kernels_stand_below_the_mapping_where_they_are_switched_on(norm, monkeypatch):
    entry = {"RMSNorm": {"cpu": norm("A")}}
    assert kernel(mapping={}) is None
    assert kernel(mapping={}, bundled=True) == "RMSNorm"
    assert kernel(mapping=entry, bundled=True) == "A"
    with pytest.warns(RuntimeWarning, match="no/such/repository"):
        assert kernel(mapping={"RMSNorm": {"cpu": MISSING}}, bundled=True) == "RMSNorm"
    for value, serving in (
        ("off", None),
        ("fallback", "RMSNorm"),
        ("FIRST", "RMSNorm"),
        ("", None),
    ):
        monkeypatch.setenv("KERNELS_BUNDLED", value)
        assert kernel(mapping={}) == serving
        assert kernel(mapping={}, bundled=False) is None
        assert kernel(mapping={}, bundled=True) == "RMSNorm"
        assert kernel(mapping=entry) == ("RMSNorm" if value == "FIRST" else "A")


def test_first_asks_no_other_repository_where_a_bundled_layer_serves(monkeypatch):
    class Never:
        def load(self):
            raise AssertionError("asked for a build")

    monkeypatch.setenv("KERNELS_BUNDLED", "first")
    assert kernel(mapping={"RMSNorm": {"cpu": Never()}}) == "RMSNorm"
    with kernelized(nn.Sequential(RMSNorm()), mode=Mode.INFERENCE, bundled=False) as model:
        assert row(model).kernel is None


def test_not_inheriting_hides_bundled_kernels(norm, outside, monkeypatch):
    def work():
        assert kernel() == "RMSNorm"
        with use_kernel_mapping({}, inherit_mapping=False):
            assert kernel() is None
            with use_kernel_mapping({}):
                assert kernel() is None
            register_kernel_mapping({"RMSNorm": {"cpu": norm("A")}})
            assert kernel() == "A"
        with use_kernel_mapping({}):
            assert kernel() == "RMSNorm"
            register_kernel_mapping({}, inherit_mapping=False)
            assert kernel() is None
        register_kernel_mapping({}, inherit_mapping=False)
        assert kernel() is None
        register_kernel_mapping(bundled_mapping())
        assert kernel() == "RMSNorm"

    for value in ("fallback", "first"):
        monkeypatch.setenv("KERNELS_BUNDLED", value)
        monkeypatch.setattr(mapping, "_base", mapping.Levels(({},)))
        outside(work)


def test_a_wrong_value_names_the_variable(monkeypatch):
    monkeypatch.setenv("KERNELS_BUNDLED", "last")
    with pytest.raises(ValueError, match="KERNELS_BUNDLED='last' is not one of off, fallback, fir"):
        kernel()
    with pytest.raises(TypeError, match="bundled must be True, False or None, got 'first'"):
        kernel(bundled="first", use_fallback=KernelizeFallback.ALL)
    with pytest.warns(RuntimeWarning, match="KERNELS_BUNDLED='last'"):
        assert kernel(use_fallback=KernelizeFallback.ALL) is None


def test_a_plugin_that_bundles_nonsense_is_left_out(monkeypatch):
    from kernels_backend_cuda import plugin
    from kernels_core import hookimpl

    @hookimpl
    def kernels_bundled():
        return {"RMSNorm": {"cuda": "org/norm"}}

    monkeypatch.setattr(plugin, "kernels_bundled", kernels_bundled)
    plugins.reset()
    with pytest.warns(RuntimeWarning, match="kernels-backend-cuda .*'org/norm' is not a kernel"):
        assert kernel(bundled=True, mapping={}) == "RMSNorm"
    monkeypatch.undo()
    plugins.reset()


def test_a_layer_that_only_backends_know_is_in_the_plan():
    @use_kernel_forward_from_hub("SwiGLUMLP")
    class MLP(nn.Linear):
        def forward(self, x):
            return x

    planned = plan(MLP(2, 2), mode=Mode.INFERENCE, mapping={}, bundled=True)
    assert len(planned.rows[0].candidates) == 1
