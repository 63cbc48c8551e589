"""Recorded machines: how they are read, and how they replace the functions of a probe."""

from __future__ import annotations

import dataclasses
import json
from types import ModuleType
from typing import Any

import attrs
import pytest

from kernels_core.device import Architectures
from kernels_core.testing import replay
from kernels_core.testing.machines import make_requirement, read_machines

MACHINE = {
    "machine": "one of ours",
    "sources": ["our desk"],
    "recorded": "everything",
    "assumed": "nothing",
    "detection": {"device_count": 3, "runtime_version": "1.2"},
}


@pytest.fixture
def read(tmp_path):
    def write_and_read(content):
        path = tmp_path / "hosts.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_machines(path)

    return write_and_read


def test_what_is_left_out_is_usual(read) -> None:
    (machine,) = read([MACHINE])
    assert (machine.host.os, machine.host.cpu) == ("linux", "x86_64")
    assert machine.host.torch is not None
    assert machine.host.torch.cxx11_abi is True
    assert machine.tags.all == ()


def test_hosts_are_as_stated(read) -> None:
    mac = {"os": "darwin", "cpu": "aarch64", "os_version": "26.1", "torch": "2.12.1"}
    with_torch, without = read([{**MACHINE, "host": mac}, {**MACHINE, "host": {"torch": None}}])
    assert (with_torch.host.os, with_torch.host.os_version) == ("darwin", "26.1")
    assert with_torch.host.torch.release == (2, 12)
    assert with_torch.host.torch.cxx11_abi is None
    assert without.host.torch is None


def test_the_last_device_stands_for_all_further_ones(read) -> None:
    named = [{"facts": {"name": name}} for name in ("first", "others")]
    (machine,) = read([{**MACHINE, "devices": named}])
    names = [device.facts["name"] for device in machine.expected_devices]
    assert names == ["first", "others", "others"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "hosts.json: Expecting value"),
        ({}, "expected a list of machines, got dict"),
        ([1], "machine 0: expected an object for RecordedMachine, got 1"),
        ([{"machine": "x"}], "machine x: 'sources' is missing"),
        ([{**MACHINE, "tag": {}}], "machine one of ours: 'tag' is not one of machine, sources"),
        ([{**MACHINE, "host": {"gpu": 1}}], "host: 'gpu' is not one of os, cpu"),
        ([{**MACHINE, "tags": {"fit": []}}], "'fit' is not one of fits, rejects"),
        ([{**MACHINE, "devices": [{"arch": {}}]}], "'arch' is not one of facts, requirements"),
    ],
)
def test_what_cannot_be_read_is_named(content: Any, problem: str, read) -> None:
    with pytest.raises(ValueError, match=r"hosts\.json") as raised:
        read(content)
    assert problem in str(raised.value)


def test_requirements_are_made_of_declared_kinds() -> None:
    required = make_requirement({"Architectures": [["b", "a"]]}, [Architectures])
    assert required == Architectures(["a", "b"])
    with pytest.raises(ValueError, match="no properties 'Lanes'; it declares Architectures"):
        make_requirement({"Lanes": [1]}, [Architectures])


@attrs.frozen
class Runtime:
    version: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Gpu:
    name: str


@pytest.fixture
def probe() -> ModuleType:
    def runtime() -> Runtime | None: ...
    def gpu(index: int) -> Gpu: ...
    def flags(): ...

    module = ModuleType("probe")
    for function in (runtime, gpu, flags):
        function.__module__ = "probe"
        setattr(module, function.__name__, function)
    return module


def test_recorded_answers_have_the_types_of_real_ones(probe: ModuleType) -> None:
    recorded = {
        "runtime": {"version": [1, 2]},
        "gpu": [{"name": "first"}, {"name": "others"}],
        "flags": {"names": ["a", "b"]},
    }
    with replay.replaced(probe, replay.answers(probe, recorded)):
        assert probe.runtime() == Runtime((1, 2))
        assert [probe.gpu(index) for index in range(3)] == [
            Gpu("first"),
            Gpu("others"),
            Gpu("others"),
        ]
        assert probe.flags().names == ("a", "b")
    assert probe.runtime() is None


def test_plain_answers_stay_as_they_are(probe: ModuleType) -> None:
    recorded = {"runtime": None, "gpu": ["first"], "flags": ["a"]}
    with replay.replaced(probe, replay.answers(probe, recorded)):
        assert probe.runtime() is None
        assert probe.gpu(0) == "first"
        assert probe.flags() == ("a",)


def test_an_answer_for_a_function_that_is_not_there_is_refused(probe: ModuleType) -> None:
    with (
        pytest.raises(ValueError, match="a value for 'driver', but probe has no such function"),
        replay.replaced(probe, replay.answers(probe, {"driver": 1})),
    ):
        pass


def test_failing_functions_are_those_of_the_module_that_are_public(probe: ModuleType) -> None:
    probe._private = lambda: None
    probe.imported = json.loads
    asked: set[str] = set()
    functions = replay.failing(probe, OSError("no driver"), asked)
    assert set(functions) == {"runtime", "gpu", "flags"}
    with pytest.raises(OSError, match="no driver"):
        functions["gpu"](1)
    assert asked == {"gpu"}
