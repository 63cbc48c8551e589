"""Mappings: merged, scoped, never aliased, and declared without torch, network or plugins."""

import contextvars
import threading

import pytest

from kernels_core import (
    CUDAProperties,
    Device,
    LayerRepository,
    Mode,
    register_kernel_mapping,
    use_kernel_mapping,
)
from kernels_core.layers.mapping import current_mapping

ONE = LayerRepository("org/one", "Layer")
TWO = LayerRepository("org/two", "Layer")
THREE = LayerRepository("org/three", "Layer")


@pytest.fixture(autouse=True)
def _empty_mapping():
    with use_kernel_mapping({}, inherit_mapping=False):
        yield


def plain(mapping=None, level=0):
    """A level of the mapping as nested plain dicts, the first one by default."""
    levels = (current_mapping() if mapping is None else mapping).levels
    return {
        layer: {
            device: {
                properties: {
                    mode: those[0] if len(those) == 1 else list(those)
                    for mode, those in by_mode.items()
                }
                for properties, by_mode in repositories.entries.items()
            }
            for device, repositories in devices.items()
        }
        for layer, devices in levels[level].items()
    }


def test_a_string_is_a_device_and_a_repository_is_the_fallback():
    register_kernel_mapping({"Layer": {"cuda": ONE}})
    assert plain() == {"Layer": {"cuda": {None: {Mode.FALLBACK: ONE}}}}


def test_registering_extends():
    register_kernel_mapping({"Layer": {"cuda": ONE}})
    register_kernel_mapping({"Layer": {"rocm": TWO}, "Other": {"cuda": {Mode.TRAINING: THREE}}})
    assert plain() == {
        "Layer": {
            "cuda": {None: {Mode.FALLBACK: ONE}},
            "rocm": {None: {Mode.FALLBACK: TWO}},
        },
        "Other": {"cuda": {None: {Mode.TRAINING: THREE}}},
    }


def test_equal_properties_replace_and_others_are_added():
    ranged = Device("cuda", CUDAProperties(75, 90))
    register_kernel_mapping({"Layer": {"cuda": ONE, ranged: {Mode.TRAINING: ONE}}})
    register_kernel_mapping({"Layer": {Device("cuda", CUDAProperties(75, 90)): TWO}})
    assert plain()["Layer"]["cuda"] == {
        None: {Mode.FALLBACK: ONE},
        CUDAProperties(75, 90): {Mode.FALLBACK: TWO},
    }


def test_not_inheriting_erases_first():
    register_kernel_mapping({"Layer": {"cuda": ONE}})
    register_kernel_mapping({"Other": {"cuda": TWO}}, inherit_mapping=False)
    assert list(plain()) == ["Other"]


def test_a_context_comes_before_what_is_outside_and_is_undone():
    register_kernel_mapping({"Kept": {"cuda": ONE}, "Layer": {"cuda": ONE, "rocm": ONE}})
    before, outside = current_mapping(), plain()
    with use_kernel_mapping({"Layer": {"cuda": TWO, "cpu": THREE}}):
        assert plain()["Layer"] == {
            "cuda": {None: {Mode.FALLBACK: TWO}},
            "cpu": {None: {Mode.FALLBACK: THREE}},
        }
        assert plain(level=1) == outside
        inside = current_mapping()
        with use_kernel_mapping({"Inner": {"cpu": ONE}}, inherit_mapping=False):
            register_kernel_mapping({"Registered inside": {"cpu": ONE}})
            assert list(plain()) == ["Inner", "Registered inside"]
            assert len(current_mapping().levels) == 1, "nothing from outside"
        with use_kernel_mapping({"Inner": {"cpu": ONE}}):
            assert [list(plain(level=level)) for level in range(3)] == [
                ["Inner"],
                ["Layer"],
                ["Kept", "Layer"],
            ]
        assert current_mapping() is inside
    assert current_mapping() is before


def test_a_list_may_stand_where_a_repository_may():
    mapping = {"Layer": {"cuda": [ONE, TWO], "rocm": {Mode.TRAINING: (TWO, ONE)}, "cpu": [THREE]}}
    register_kernel_mapping(mapping)
    assert plain()["Layer"] == {
        "cuda": {None: {Mode.FALLBACK: [ONE, TWO]}},
        "rocm": {None: {Mode.TRAINING: [TWO, ONE]}},
        "cpu": {None: {Mode.FALLBACK: THREE}},
    }
    mapping["Layer"]["cuda"].append(THREE)
    assert plain()["Layer"]["cuda"] == {None: {Mode.FALLBACK: [ONE, TWO]}}, "never aliased"
    register_kernel_mapping({"Layer": {"cuda": THREE}})
    assert plain()["Layer"]["cuda"] == {None: {Mode.FALLBACK: THREE}}, "a list is replaced whole"


class InParts(tuple):
    """A user's own repository that is a sequence, too."""

    def load(self):
        raise AssertionError("declaring must not load")


def test_a_repository_that_is_a_sequence_is_one_repository():
    own = InParts(["org", "name"])
    register_kernel_mapping({"Layer": {"cpu": own, "cuda": [own, ONE]}})
    assert plain()["Layer"]["cpu"][None][Mode.FALLBACK] is own
    assert plain()["Layer"]["cuda"][None][Mode.FALLBACK] == [own, ONE]


def test_a_context_is_undone_after_an_exception():
    before = current_mapping()
    with pytest.raises(RuntimeError, match="inside"), use_kernel_mapping({"Layer": {"cpu": ONE}}):
        raise RuntimeError("inside")
    assert current_mapping() is before


def test_one_context_object_can_be_used_again_and_nested():
    context = use_kernel_mapping({"Layer": {"cpu": ONE}})
    before = current_mapping()
    with context, context:
        assert list(plain()) == ["Layer"]
    with context:
        assert list(plain()) == ["Layer"]
    assert current_mapping() is before


def test_outside_a_context_a_mapping_is_for_all_threads():
    seen = []

    def outside_any_context():
        register_kernel_mapping({"Process-wide": {"cpu": ONE}})
        register_kernel_mapping({"Another": {"cpu": ONE}})
        thread = threading.Thread(target=lambda: seen.append(sorted(plain())))
        thread.start()
        thread.join()
        register_kernel_mapping({}, inherit_mapping=False)
        seen.append(sorted(plain()))

    contextvars.Context().run(outside_any_context)
    assert seen == [["Another", "Process-wide"], []]


def test_inside_a_context_a_mapping_is_for_this_context_alone():
    seen = []
    with use_kernel_mapping({"Layer": {"cpu": ONE}}):
        context = contextvars.copy_context()
        threads = [
            threading.Thread(target=lambda: seen.append(list(plain()))),
            threading.Thread(target=context.run, args=(lambda: seen.append(list(plain())),)),
        ]
        for thread in threads:
            thread.start()
            thread.join()
    assert seen == [[], ["Layer"]]


def test_the_callers_dicts_are_not_aliased():
    modes = {Mode.TRAINING: ONE}
    devices = {"cpu": modes}
    mapping = {"Layer": devices}
    context = use_kernel_mapping(mapping)
    register_kernel_mapping(mapping)
    modes[Mode.INFERENCE] = TWO
    devices["cuda"] = TWO
    mapping["Other"] = devices
    expected = {"Layer": {"cpu": {None: {Mode.TRAINING: ONE}}}}
    assert plain() == expected
    with context:
        assert plain() == expected


def test_a_registration_never_changes_a_mapping_that_is_in_use():
    register_kernel_mapping({"Layer": {"cpu": ONE}})
    in_use = current_mapping()
    register_kernel_mapping({"Layer": {"cpu": TWO, "cuda": TWO}})
    assert plain(in_use) == {"Layer": {"cpu": {None: {Mode.FALLBACK: ONE}}}}


class Uncopyable:
    """A user's own repository, which cannot be copied."""

    def load(self):
        raise AssertionError("declaring must not load")

    def __deepcopy__(self, memo):
        raise TypeError("not copyable")

    __copy__ = None


def test_a_repository_is_anything_with_load_and_is_never_copied():
    own = Uncopyable()
    with use_kernel_mapping({"Layer": {"cpu": own}}):
        assert plain()["Layer"]["cpu"][None][Mode.FALLBACK] is own


@pytest.mark.parametrize(
    ("mapping", "error", "text"),
    [
        ([], TypeError, "A kernel mapping must be a dict"),
        ({7: {"cpu": ONE}}, TypeError, "layer name must be a non-empty string, got 7"),
        ({"Layer": ONE}, TypeError, "entry of 'Layer' must be a dict"),
        ({"Layer": {7: ONE}}, TypeError, "7 is not a device"),
        ({"Layer": {"cpu:0": ONE}}, ValueError, "'cpu:0' is not a lower-case name"),
        ({"Layer": {"cpu": "org/one"}}, TypeError, "'org/one' is not a kernel repository"),
        ({"Layer": {"cpu": LayerRepository}}, TypeError, "is not a kernel repository"),
        ({"Layer": {"cpu": ["org/one"]}}, TypeError, "'org/one' is not a kernel repository"),
        ({"Layer": {"cpu": [ONE, [TWO]]}}, TypeError, "or a list of them"),
        ({"Layer": {"cpu": [{Mode.TRAINING: ONE}]}}, TypeError, "is not a kernel repository"),
        ({"Layer": {"cpu": {ONE, TWO}}}, TypeError, "or a list of them"),
        ({"Layer": {"cpu": iter([ONE])}}, TypeError, "is not a kernel repository"),
        ({"Layer": {"cpu": None}}, TypeError, "None is not a kernel repository"),
        ({"Layer": {"cpu": []}}, ValueError, "mapped to an empty list"),
        ({"Layer": {"cpu": {Mode.TRAINING: ()}}}, ValueError, "mapped to an empty list"),
        ({"Layer": {"cpu": {}}}, ValueError, "mapped to an empty dict"),
        ({"Layer": {"cpu": {"TRAINING": ONE}}}, TypeError, "'TRAINING' is not a Mode"),
        ({"Layer": {"cpu": {Mode(0): ONE}}}, ValueError, "registered without a mode"),
    ],
)
@pytest.mark.parametrize("declare", [register_kernel_mapping, use_kernel_mapping])
def test_bad_mappings_are_refused_where_they_are_declared(declare, mapping, error, text):
    register_kernel_mapping({"Kept": {"cpu": ONE}})
    before = current_mapping()
    with pytest.raises(error, match=text):
        declare(mapping)
    assert current_mapping() is before


def test_a_mode_that_is_never_used_is_warned_about():
    with pytest.warns(UserWarning, match="TORCH_COMPILE alone is never used") as warned:
        register_kernel_mapping({"Layer": {"cpu": {Mode.TORCH_COMPILE: ONE}}})
    assert [warning.filename for warning in warned] == [__file__], "it points at the declaration"


def test_an_entry_of_another_device_type_does_not_belong():
    repositories = Device("cpu").create_repo()
    with pytest.raises(ValueError, match=r"type 'cuda' does not belong to the .* of 'cpu'"):
        repositories.insert(Device("cuda"), ONE)
