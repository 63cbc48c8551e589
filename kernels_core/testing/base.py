"""What all rules use: the plugin, the recorded machines, and this machine."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import ClassVar, TypeVar

import pytest

from kernels_core.device import DeviceFacts, DeviceProperties
from kernels_core.errors import KernelsError, PluginError
from kernels_core.hookspecs import BackendTag, Detection
from kernels_core.plugins.backend import Backend
from kernels_core.testing import replay, subject
from kernels_core.testing.machines import (
    ExpectedDevice,
    RecordedMachine,
    make_requirement,
    read_machines,
)
from kernels_core.testing.observations import Fresh, Here, in_fresh_process, on_this_machine
from kernels_core.testing.processes import ProcessError, run_beside_torch, run_fresh
from kernels_core.testing.questions import Question, about_device, about_tags, ask
from kernels_core.testing.rule import fail, skip
from kernels_core.testing.subject import LoadingError, Subject

_T = TypeVar("_T")

# Any seed: sets of strings then have another order than in the test process.
_HASH_SEED = 20_250

NO_MACHINE = "no machine is recorded: set `hosts`"


class Rules:
    """Base of the groups of rules; `BackendConformance` documents the attributes."""

    plugin: ClassVar[str]
    hosts: ClassVar[Path | None] = None
    probe: ClassVar[str | None] = None
    torch_extension: ClassVar[str | None] = None

    # The plugin

    @classmethod
    @functools.cache
    def _load(cls) -> Subject | LoadingError:
        try:
            return subject.load(cls.plugin)
        except LoadingError as failure:
            return failure

    @property
    def subject(self) -> Subject:
        """The plugin. If it cannot be loaded, all rules are skipped but the one that it breaks."""
        loaded = self._load()
        if isinstance(loaded, LoadingError):
            skip(f"the rule {loaded.step} is broken")
        return loaded

    def check_step(self, step: str) -> None:
        """Check one of the rules that a plugin must keep to be loaded at all."""
        loaded = self._load()
        if isinstance(loaded, LoadingError):
            if loaded.step == step:
                fail(str(loaded))
            if subject.STEPS.index(loaded.step) < subject.STEPS.index(step):
                skip(f"the rule {loaded.step} is broken")

    # Recorded machines

    @classmethod
    @functools.cache
    def machines(cls) -> tuple[RecordedMachine, ...]:
        """The recorded machines; none if `hosts` is not set."""
        return () if cls.hosts is None else read_machines(cls.hosts)

    def probe_module(self) -> ModuleType | None:
        """The module whose functions query the machine: `probe`, or `_probe` beside the plugin."""
        package = self.subject.module.__name__.rpartition(".")[0]
        name = self.probe or f"{package}._probe"
        if self.probe is None and not (package and importlib.util.find_spec(name)):
            return None
        return importlib.import_module(name)

    def replay(self, machine: RecordedMachine) -> contextlib.AbstractContextManager[None]:
        """Make the functions that query the machine return what was recorded."""
        module = self.probe_module()
        if module is None:
            return contextlib.nullcontext()
        return replay.replaced(module, replay.answers(module, machine.probe))

    @contextlib.contextmanager
    def on(self, machine: RecordedMachine) -> Iterator[Backend]:
        """The facade of the plugin on a recorded machine."""
        with replay.on_host(machine.host), self.replay(machine):
            yield self.subject.backend()

    # What rules about other subjects use of the recorded machines

    def detection_on(self, machine: RecordedMachine) -> Detection:
        """What the plugin detects on a machine."""
        with self.on(machine) as backend:
            detection = _given("detection-recorded", backend.detection)
        if detection_problem(machine, detection):
            skip("the rule detection-recorded is broken")
        return detection

    def tags_of(self, machine: RecordedMachine) -> dict[str, BackendTag]:
        """The tags of a machine that the plugin parses; the rule tags-valid is about the others."""
        backend = self.subject.backend()
        tags = {}
        for text in machine.tags.all:
            with contextlib.suppress(PluginError):
                tag = backend.parse_tag(text)
                if tag is not None:
                    tags[text] = tag
        return tags

    def devices_of(self, machine: RecordedMachine) -> list[tuple[DeviceFacts, ExpectedDevice]]:
        """The devices of a machine."""
        devices = []
        with self.on(machine) as backend:
            for index, expected in enumerate(machine.expected_devices):
                ask_facts = functools.partial(backend.device_facts, index)
                facts = _given("facts-recorded", ask_facts)
                if facts_problem(expected, facts):
                    skip("the rule facts-recorded is broken")
                devices.append((facts, expected))
        return devices

    def all_devices(self) -> list[tuple[DeviceFacts, ExpectedDevice]]:
        """The devices of all machines and of this one, without those that cannot be described."""
        devices = []
        for machine in self.machines():
            with contextlib.suppress(pytest.skip.Exception):
                devices += self.devices_of(machine)
        for facts, _ in self.here().facts:
            if isinstance(facts, DeviceFacts):
                devices.append((facts, ExpectedDevice()))
        if not devices:
            skip("no device is recorded, and this machine has none")
        return devices

    def requirements_of(self, expected: ExpectedDevice) -> list[DeviceProperties]:
        """The requirements of a device; match-device-recorded is about undeclared kinds."""
        requirements = []
        for table in expected.requirements.all:
            with contextlib.suppress(ValueError):
                requirements.append(make_requirement(table, self.subject.info.properties))
        return requirements

    # Other processes

    def questions(self) -> list[Question]:
        """All hook calls that the recorded machines allow."""
        questions: list[Question] = []
        for machine in self.machines():
            with contextlib.suppress(pytest.skip.Exception):
                detection = self.detection_on(machine)
                questions += about_tags(self.tags_of(machine).values(), detection)
                for facts, expected in self.devices_of(machine):
                    archs = [declared_archs(entry) for entry in expected.archs.all]
                    questions += about_device(facts, self.requirements_of(expected), archs)
        return questions

    def answers(self) -> tuple[object, ...]:
        """Their results in this process."""
        backend, hooks = self.subject.backend(), self.subject.hooks
        return tuple(ask(backend, hooks, question) for question in self.questions())

    @classmethod
    @functools.cache
    def observe_fresh(cls) -> Fresh | ProcessError:
        """What the plugin does in a new process, or how that process failed."""
        judge = cls()
        hosts = [machine.host for machine in cls.machines()]
        questions = pickle.dumps(judge.questions())
        name = judge.subject.source.plugin
        try:
            return run_fresh(in_fresh_process, name, hosts, questions, hash_seed=_HASH_SEED)
        except ProcessError as error:
            return error

    def fresh(self) -> Fresh:
        """What the plugin does in a new process."""
        observed = self.observe_fresh()
        if isinstance(observed, ProcessError):
            skip("the rule declaration-pure is broken")
        if observed.copies_version:
            skip("the rule api-version is broken")
        return observed

    @classmethod
    @functools.cache
    def here(cls) -> Here:
        """What the plugin finds on this machine."""
        name = cls().subject.source.plugin
        try:
            return run_beside_torch(on_this_machine, name, cls.torch_extension)
        except ProcessError as error:
            return Here(str(error))

    def detection_here(self) -> Detection:
        """What the plugin detects on this machine."""
        detection = self.here().detection
        if not isinstance(detection, Detection):
            skip("the rule detection-answers is broken")
        return detection


def _given(rule: str, ask: Callable[[], _T]) -> _T:
    """Get what another rule is about; if that rule is broken, skip this one."""
    try:
        return ask()
    except KernelsError as error:
        skip(f"the rule {rule} is broken: {error}")


def declared_archs(entry: str | list[str]) -> tuple[str, ...]:
    """The architectures of one build, from their form in the JSON file."""
    return (entry,) if isinstance(entry, str) else tuple(entry)


def detection_problem(machine: RecordedMachine, detection: Detection) -> str:
    """How a detection differs from the expected one; "" if it does not."""
    expected = machine.detection
    same = (
        detection.device_count == expected.device_count
        and detection.runtime_version == expected.runtime_version
        and expected.reason in detection.reason
    )
    return "" if same else f"{detection} where {expected} is expected"


def facts_problem(expected: ExpectedDevice, facts: DeviceFacts) -> str:
    """Which fact differs from the expected one; "" if none does."""
    for name, value in expected.facts.items():
        fact = getattr(facts, name, None)
        if _as_json(fact) != value:
            return f"device {facts.index}: {name} is {fact!r} where {value!r} is expected"
    return ""


def value_problem(value: object) -> str:
    """Why an object is not equal to a copy of itself, or cannot be hashed; "" if it is."""
    try:
        if pickle.loads(pickle.dumps(value)) in {value}:
            return ""
        return f"a copy of {value!r} is not equal to it"
    except Exception as error:
        return f"{value!r} cannot be copied and compared: {type(error).__name__}: {error}"


def _as_json(value: object) -> object:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return list(map(_as_json, value)) if isinstance(value, (list, tuple)) else value
