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
from kernels_core.testing.rule import broken, rule, unjudged


class DetectionRules(Rules):
    """Whether a plugin tells the truth about machines, and leaves them alone."""

    @rule
    def test_recorded_machines(self) -> None:
        """Every recorded machine says where the recording comes from and what was assumed.

        Mend: fill `sources`, `recorded` and `assumed` of the machine in the JSON file.
        """
        for machine in self.machines():
            for name in ("sources", "recorded", "assumed"):
                if not getattr(machine, name):
                    broken(f"machine {machine.machine!r}: {name!r} is empty")
        if not self.machines():
            unjudged(NO_MACHINE)

    @rule
    def test_detection_recorded(self, machine: RecordedMachine) -> None:
        """Detection makes of a recorded machine what is expected of it.

        Mend: `kernels_detect`, or the expectation. When the answer is this machine's: the plugin
        must call the functions that ask the machine through their module, as in
        `_probe.runtime()`, for the recorded ones to be used.
        """
        with self.on(machine) as backend:
            problem = detection_problem(machine, backend.detection())
        if problem:
            broken(problem)

    @rule
    def test_detection_answers(self) -> None:
        """Detection answers on this machine, with a reason where there is no device.

        Mend: return a `Detection` in every case; `Detection(0, reason=...)` where something is
        missing, in words that tell people what to do.
        """
        answer = self.here().detection
        if not isinstance(answer, Detection):
            broken(answer)

    @rule
    def test_detection_truthful(self) -> None:
        """Detection finds as many devices as torch can use, where torch knows their type.

        Mend: ask torch for the number of devices, and leave devices of another family to their
        own plugin, which must be installed beside this one to be counted.
        """
        detection, here = self.detection_here(), self.here()
        device_type = self.subject.info.torch_device_type
        if here.torch_count is None:
            unjudged(f"torch knows no devices {device_type!r} here")
        if detection.available and detection.device_count != here.torch_count:
            broken(f"{detection}, and torch can use {here.torch_count} {device_type!r} devices")
        if not detection.available and here.torch_count and not here.others_available:
            found = f"torch can use {here.torch_count} {device_type!r} devices"
            if self.subject.info.name != device_type:
                unjudged(f"{found}, which may be of another family that torch calls so")
            broken(f"{detection}, and {found}, which no other installed plugin finds either")

    @rule
    def test_detection_leaves_devices(self) -> None:
        """Detection creates no device context: after it, torch has not initialised the devices.

        Mend: ask only what works without a context, such as `device_count()`; the rest belongs
        into `kernels_device_facts`. A context costs memory in every process that has the plugin.
        """
        self.detection_here()
        if self.here().initialized:
            broken(f"torch has initialised {self.subject.info.torch_device_type!r} devices")

    @rule
    def test_detection_leaves_fork(self) -> None:
        """A child process forked after detection can use the devices.

        Mend: ask through what does not initialise the driver, and leave no thread or lock behind.
        """
        self.detection_here()
        if self.here().fork:
            broken(f"a forked child failed: {self.here().fork}")

    @rule
    def test_detection_without_torch(self) -> None:
        """Without torch detection answers all the same.

        Mend: return `Detection(0, reason="torch is not installed")` when `host.torch` is None,
        before anything that imports torch.
        """
        if self.fresh().without_torch:
            broken(self.fresh().without_torch)

    @rule
    def test_detection_failing(self) -> None:
        """When what asks the machine fails, no device is claimed.

        Mend: let the exception out, which the core records and shows to people, or return a
        `Detection` without devices that has the failure as its reason.
        """
        module = self.probe_module()
        if module is None:
            unjudged("no module is known whose functions ask the machine: state `probe`")
        if not self.machines():
            unjudged(NO_MACHINE)
        for machine in self.machines():
            for error in (RuntimeError("the driver does not answer"), SystemExit(1)):
                asked: set[str] = set()
                for name, function in replay.failing(module, error, asked).items():
                    asked.clear()
                    with self.on(machine) as backend, replay.replaced(module, {name: function}):
                        try:
                            detection = backend.detection()
                        except PluginError:
                            continue
                    if asked and detection.available:
                        broken(f"{name}() raised {error!r} and the answer is {detection}")

    @rule
    def test_facts_recorded(self, machine: RecordedMachine) -> None:
        """The facts of each device of a recorded machine are what is expected of it.

        Mend: `kernels_device_facts`, or the expectation. Facts belong to the device of the index
        that was asked for; do not keep them: the core asks once for each index.
        """
        self.detection_on(machine)
        with self.on(machine) as backend:
            for index, expected in enumerate(machine.expected_devices):
                try:
                    problem = facts_problem(expected, backend.device_facts(index))
                except KernelsError as error:
                    problem = str(error)
                if problem:
                    broken(problem)

    @rule
    def test_facts_values(self) -> None:
        """Facts are values: a copy of them is equal and hashes alike.

        Mend: decorate the class with `attrs.frozen`, and keep lists and dicts out of its
        attributes: tuples and frozensets instead.
        """
        for facts, _ in self.all_devices():
            problem = value_problem(facts)
            if problem:
                broken(problem)

    @rule
    def test_facts_answer(self) -> None:
        """The facts of each device of this machine are told, and the same when asked again.

        Mend: `kernels_device_facts` returns the declared type, with the index that was asked
        for, and nothing that changes while a program runs, such as free memory.
        """
        if not self.detection_here().available:
            unjudged("this machine has no such device")
        for facts, again in self.here().facts:
            for answer in (facts, again):
                if isinstance(answer, str):
                    broken(answer)
            if facts != again:
                broken(f"{facts} first, {again} later")
