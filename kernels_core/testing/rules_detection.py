"""Rules about detection and device facts, on recorded machines and on this one."""

from __future__ import annotations

from kernels_core.errors import KernelsError, PluginError
from kernels_core.hookspecs import Detection
from kernels_core.testing import replay
from kernels_core.testing.base import (
    NO_MACHINE,
    Rules,
    detection_problem,
    facts_problem,
    value_problem,
)
from kernels_core.testing.machines import RecordedMachine
from kernels_core.testing.rule import fail, rule, skip


class DetectionRules(Rules):
    """Whether detection and facts are right, and leave the machine as it was."""

    @rule
    def test_recorded_machines(self) -> None:
        """Every recorded machine states its sources, what was recorded and what was assumed.

        Fix: fill in `sources`, `recorded` and `assumed` of the machine in the JSON file.
        """
        for machine in self.machines():
            for name in ("sources", "recorded", "assumed"):
                if not getattr(machine, name):
                    fail(f"machine {machine.machine!r}: {name!r} is empty")
        if not self.machines():
            skip(NO_MACHINE)

    @rule
    def test_detection_recorded(self, machine: RecordedMachine) -> None:
        """On a recorded machine, detection returns what is expected.

        Fix: correct `kernels_detect`, or the expectation. If the result is that of this machine:
        the plugin must call the functions that query the machine through their module, as in
        `_probe.runtime()`, so that they can be replaced.
        """
        with self.on(machine) as backend:
            problem = detection_problem(machine, backend.detection())
        if problem:
            fail(problem)

    @rule
    def test_detection_answers(self) -> None:
        """Detection returns a result on this machine, with a reason if there is no device.

        Fix: return a `Detection` in every case; `Detection(0, reason=...)` if something is
        missing, with a reason that says what to do.
        """
        answer = self.here().detection
        if not isinstance(answer, Detection):
            fail(answer)

    @rule
    def test_detection_truthful(self) -> None:
        """Detection finds as many devices as torch can use, if torch knows their type.

        Fix: get the number of devices from torch, and leave devices of another family to their own
        plugin, which must be installed as well to be taken into account.
        """
        detection, here = self.detection_here(), self.here()
        device_type = self.subject.info.torch_device_type
        if here.torch_count is None:
            skip(f"torch does not know device type {device_type!r} here")
        if detection.available and detection.device_count != here.torch_count:
            fail(f"{detection}, and torch can use {here.torch_count} {device_type!r} devices")
        if not detection.available and here.torch_count and not here.others_available:
            found = f"torch can use {here.torch_count} {device_type!r} devices"
            if self.subject.info.name != device_type:
                skip(f"{found}, which may belong to another family of the same type")
            fail(f"{detection}, and {found}, which no other installed plugin finds either")

    @rule
    def test_detection_leaves_devices(self) -> None:
        """Detection creates no device context: torch has not initialised the devices afterwards.

        Fix: use only what needs no context, such as `device_count()`; the rest belongs into
        `kernels_device_facts`. A context costs memory in every process that has the plugin.
        """
        self.detection_here()
        if self.here().initialized:
            fail(f"torch has initialised {self.subject.info.torch_device_type!r} devices")

    @rule
    def test_detection_leaves_fork(self) -> None:
        """A child process forked after detection can use the devices.

        Fix: use only what does not initialise the driver, and leave no thread or lock behind.
        """
        self.detection_here()
        if self.here().fork:
            fail(f"a forked child failed: {self.here().fork}")

    @rule
    def test_detection_without_torch(self) -> None:
        """Detection works without torch.

        Fix: return `Detection(0, reason="torch is not installed")` when `host.torch` is None,
        before anything that imports torch.
        """
        if self.fresh().without_torch:
            fail(self.fresh().without_torch)

    @rule
    def test_detection_failing(self) -> None:
        """If a function that queries the machine fails, no device is detected.

        Fix: let the exception propagate, which the core records and shows to users, or return a
        `Detection` without devices that has the failure as its reason.
        """
        module = self.probe_module()
        if module is None:
            skip("no module with functions that query the machine is known: set `probe`")
        if not self.machines():
            skip(NO_MACHINE)
        for machine in self.machines():
            for error in (RuntimeError("the driver does not answer"), SystemExit(1)):
                called: set[str] = set()
                for name, function in replay.failing(module, error, called).items():
                    called.clear()
                    with self.on(machine) as backend, replay.replaced(module, {name: function}):
                        try:
                            detection = backend.detection()
                        except PluginError:
                            continue
                    if called and detection.available:
                        fail(f"{name}() raised {error!r}, and the result is {detection}")

    @rule
    def test_facts_recorded(self, machine: RecordedMachine) -> None:
        """The facts of each device of a recorded machine are the expected ones.

        Fix: correct `kernels_device_facts`, or the expectation. Facts are those of the device with
        the given index; do not keep them: the core calls the hook once per index.
        """
        self.detection_on(machine)
        with self.on(machine) as backend:
            for index, expected in enumerate(machine.expected_devices):
                try:
                    problem = facts_problem(expected, backend.device_facts(index))
                except KernelsError as error:
                    problem = str(error)
                if problem:
                    fail(problem)

    @rule
    def test_facts_values(self) -> None:
        """Facts are values: a copy is equal and has the same hash.

        Fix: decorate the class with `attrs.frozen`, and use tuples and frozensets in its
        attributes instead of lists and dicts.
        """
        for facts, _ in self.all_devices():
            problem = value_problem(facts)
            if problem:
                fail(problem)

    @rule
    def test_facts_answer(self) -> None:
        """Every device of this machine has facts, and the same ones when they are requested again.

        Fix: return the declared type from `kernels_device_facts`, with the given index, and
        nothing that changes while a program runs, such as free memory.
        """
        if not self.detection_here().available:
            skip("this machine has no such device")
        for facts, again in self.here().facts:
            for answer in (facts, again):
                if isinstance(answer, str):
                    fail(answer)
            if facts != again:
                fail(f"{facts} first, and {again} later")
