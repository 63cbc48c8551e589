"""All or nothing: whatever is raised, wherever, every module and the report are as they were."""

import gc
import linecache
import logging
import sys

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from layers.models import Scale
from torch import nn

import kernels_core
from kernels_core import (
    Device,
    Features,
    KernelizeFallback,
    Mode,
    errors,
    kernelize,
    kernelized,
    plugins,
    register_kernel_mapping,
    unkernelize,
    use_kernel_forward_from_hub,
)

X = torch.ones(3)


@pytest.fixture(autouse=True)
def _freeze():
    """Leave the objects of other tests out of searches for captured forwards, which are many."""
    gc.freeze()
    yield
    gc.unfreeze()


@use_kernel_forward_from_hub("Other")
class Other(Scale):
    pass


def make_model():
    hooked = Scale()
    add_hook_to_module(hooked, ModelHook())
    return nn.Sequential(Scale(), Other(), hooked)


def state(model):
    """Everything about a model that `kernelize` might change."""
    try:
        report = kernels_core.report(model)
    except LookupError:
        report = None
    return [(type(module), dict(module.__dict__)) for module in model.modules()], report


class InterruptAtNewLine:
    """Raises KeyboardInterrupt at the first line of `layers` or `api` that is not yet in `seen`."""

    def __init__(self, seen):
        self.seen = seen
        self.is_done = False

    def __enter__(self):
        gc.disable()  # what is raised in a callback of the collector is lost
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_):
        sys.settrace(self._before)
        gc.enable()

    def _trace(self, frame, event, argument):
        path = frame.f_code.co_filename.replace("\\", "/")
        if "kernels_core/layers" not in path and "kernels_core/api" not in path:
            return None
        place = path, frame.f_lineno
        if event == "line" and not self.is_done and place not in self.seen:
            self.seen.add(place)
            # Python does not look for signals between the end of a block and its `__exit__`, to
            # which tracing counts the line of the `with`.
            if not linecache.getline(*place).lstrip().startswith("with "):
                self.is_done = True
                raise KeyboardInterrupt
        return self._trace


def interrupt_everywhere(action):
    """Run an action again and again, interrupted at another line each time, and then to its end."""
    seen = set()
    while True:
        try:
            with InterruptAtNewLine(seen):
                action()
        except KeyboardInterrupt:
            yield
        else:
            assert len(seen) > 20, "it was never interrupted"
            return


def test_an_interrupt_anywhere_leaves_all_as_it_was_or_comes_after_all_was_done(scaled):
    mapping = {"Scale": {"cpu": scaled("Times10")}, "Other": {"cpu": scaled("Times100")}}
    model = kernelize(make_model(), mode=Mode.INFERENCE, mapping=mapping)
    done = [type(module) for module in model.modules()]
    unkernelize(model)
    before = state(model)
    for _ in interrupt_everywhere(lambda: kernelize(model, mode=Mode.INFERENCE, mapping=mapping)):
        if state(model) != before:
            assert [type(module) for module in model.modules()] == done
            assert kernels_core.report(model).rows[0].kernel == "Times10"
            unkernelize(model)
    assert [type(module) for module in model.modules()] == done

    before, after = state(model), [nn.Sequential, Scale, Other, Scale]
    for _ in interrupt_everywhere(lambda: unkernelize(model)):
        if state(model) != before:
            assert [type(module) for module in model.modules()] == after
            kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
            before = state(model)
    assert [type(module) for module in model.modules()] == after


def test_an_interrupt_before_the_body_of_a_with_block_leaves_all_as_it_was(scaled):
    mapping = {"Scale": {"cpu": scaled("Times10")}}
    model = nn.Sequential(Scale())
    before = state(model)

    def enter():
        with kernelized(model, mode=Mode.INFERENCE, mapping=mapping):
            sys.settrace(None)

    for _ in interrupt_everywhere(enter):
        assert state(model) == before
    assert state(model) == before


def expect_unchanged(error, text, mapping, **arguments):
    model = make_model()
    before = state(model)
    with pytest.raises(error, match=text):
        kernelize(model, mode=Mode.INFERENCE, mapping=mapping, **arguments)
    assert state(model) == before


class Named:
    """A user's own repository, whose name may raise."""

    def __init__(self, repository, error=None):
        self._repository = repository
        self._error = error

    def load(self):
        return self._repository.load()

    def __str__(self):
        if self._error:
            raise self._error
        return "named"


def test_a_repository_whose_name_raises_is_used_and_shown_as_python_does(scaled):
    named = Named(scaled("Times100"), LookupError("no name"))
    mapping = {"Scale": {"cpu": scaled("Times10")}, "Other": {"cpu": named}}
    model = kernelize(make_model(), mode=Mode.INFERENCE, mapping=mapping)
    rows = {row.class_name: row for row in kernels_core.report(model).rows}
    assert rows["Other"].kernel == "Times100"
    assert rows["Other"].repository == object.__repr__(named)


def test_a_handler_of_log_records_that_raises(scaled):
    class Raising(logging.Handler):
        def emit(self, record):
            raise LookupError("no log")

    logger, handler = logging.getLogger("kernels_core"), Raising()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        expect_unchanged(LookupError, "no log", {"Scale": {"cpu": scaled("Times10")}})
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_an_interrupt_while_a_kernel_is_imported(make_kernel, scaled):
    kernel = make_kernel("raise KeyboardInterrupt('imported')", name="interrupting")
    mapping = {"Scale": {"cpu": scaled("Times10")}, "Other": {"cpu": kernel("Layer")}}
    expect_unchanged(KeyboardInterrupt, "imported", mapping, use_fallback=KernelizeFallback.ALL)


@pytest.mark.filterwarnings("ignore:Backend plugin .cpu.:RuntimeWarning")
def test_a_hook_of_a_plugin_that_raises(scaled, monkeypatch):
    from kernels_backend_cpu import plugin
    from kernels_core import hookimpl

    @hookimpl
    def kernels_match_device(required, facts):
        raise LookupError("no match")

    monkeypatch.setattr(plugin, "kernels_match_device", kernels_match_device)
    plugins.reset()
    mapping = {
        "Scale": {"cpu": scaled("Times10")},
        "Other": {Device("cpu", Features({"avx2"})): scaled("Times100")},
    }
    try:
        expect_unchanged(errors.PluginError, "no match", mapping)
    finally:
        plugins.reset()


def test_a_class_that_refuses_its_assignment(scaled):
    class Refusing(Other):
        def __setattr__(self, name, value):
            if name == "__class__":
                raise TypeError("stays what it is")
            super().__setattr__(name, value)

    mapping = {"Scale": {"cpu": scaled("Times10")}, "Other": {"cpu": scaled("Times100")}}
    model = nn.Sequential(Scale(), Refusing())
    before = state(model)
    with pytest.raises(
        errors.ApplyError, match="Refusing cannot be changed: stays what it is"
    ) as caught:
        kernelize(model, mode=Mode.INFERENCE, mapping=mapping)
    assert caught.value.layer == "Refusing"
    assert state(model) == before


def test_a_with_block_restores_the_model_whatever_happens_inside(scaled):
    register_kernel_mapping({"Scale": {"cpu": scaled("Times10")}})
    model = kernelize(make_model(), mode=Mode.INFERENCE)
    before = state(model)
    with kernelized(model, mode=Mode.INFERENCE):
        unkernelize(model)
    assert state(model) == before
