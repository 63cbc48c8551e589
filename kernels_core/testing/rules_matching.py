"""Rules about which builds and requirements fit, and in which order."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import attrs
from hypothesis import given
from hypothesis import strategies as st

from kernels_core.device import (
    Architectures,
    CapabilityRange,
    DeviceProperties,
    Features,
    MinimumVersions,
)
from kernels_core.hookspecs import Detection, Match
from kernels_core.testing.base import NO_MACHINE, Rules, declared_archs
from kernels_core.testing.machines import ExpectedFits, RecordedMachine, make_requirement
from kernels_core.testing.rule import fail, rule, skip
from kernels_core.testing.rules_tags import property_based


@attrs.frozen
class Foreign(DeviceProperties):
    """A requirement of another vendor."""

    device_type: ClassVar[str | None] = None
    teapots: int


_KINDS = (
    Foreign(418),
    CapabilityRange(0, 10**6),
    Architectures("teapot"),
    Features("teapot"),
    MinimumVersions({"teapot": "4.18"}),
)


# No device has it, so as an alternative it makes a requirement looser without fitting anything.
_ABSENT_ARCHITECTURE = "no such architecture"


class MatchingRules(Rules):
    """Whether matches are right, always possible, and in the right order."""

    @rule
    def test_match_tag_recorded(self, machine: RecordedMachine) -> None:
        """On a recorded machine, the tags listed as fitting fit, and no others.

        Fix: correct `kernels_match_tag`, or the list.
        """
        detection, hooks = self.detection_on(machine), self.subject.hooks
        for text, tag in self.tags_of(machine).items():
            match = hooks.call("kernels_match_tag", Match, tag, detection)
            _check_fits(machine.tags, text, match)

    @rule
    def test_match_tag_order(self, machine: RecordedMachine) -> None:
        """The tags that fit are in the listed order: each ranks higher than the next.

        Fix: rank newer builds higher, as in `Match.yes(*tag.version)`, or correct the list.
        """
        detection, hooks = self.detection_on(machine), self.subject.hooks
        tags = self.tags_of(machine)
        matches = [
            (text, hooks.call("kernels_match_tag", Match, tags[text], detection))
            for text in machine.tags.fits
            if text in tags
        ]
        _check_order([(text, match) for text, match in matches if match.fits])

    @rule
    def test_match_tag_total(self) -> None:
        """Every tag that the plugin parses can be matched, even without a runtime.

        Fix: return `Match.no(reason)` when `detection.runtime_version` is None.
        """
        hooks = self.subject.hooks
        nothing = Detection(0, reason="no runtime was found")
        tags = [tag for machine in self.machines() for tag in self.tags_of(machine).values()]
        for tag in tags:
            hooks.call("kernels_match_tag", Match, tag, nothing)
        if not tags:
            skip("no tag is recorded")

    @rule
    def test_match_device_recorded(self, machine: RecordedMachine) -> None:
        """On the recorded devices, the requirements listed as fitting fit, and no others.

        Fix: correct `kernels_match_device`, the kinds that `kernels_backend` declares, or the list.
        """
        backend = self.subject.backend()
        for facts, expected in self.devices_of(machine):
            for table in expected.requirements.all:
                try:
                    required = make_requirement(table, backend.info.properties)
                except ValueError as error:
                    fail(str(error))
                match = backend.match_device(required, facts)
                _check_fits(expected.requirements, table, match)

    @rule
    def test_match_device_order(self) -> None:
        """Of two requirements that fit a device, the more specific one ranks higher.

        This applies to the listed ones, best first, and to looser ones derived from them: a wider
        range, more alternatives, fewer features, older versions.

        Fix: rank by how much is required, not by what the device has, as the functions of
        `kernels_core.matching` do for the core's own kinds.
        """
        backend = self.subject.backend()
        for facts, expected in self.all_devices():
            fitting = []
            for required in self.requirements_of(expected):
                match = backend.match_device(required, facts)
                if match.fits:
                    fitting.append((required, match))
                    for less in _looser(required):
                        _check_order([(required, match), (less, backend.match_device(less, facts))])
            _check_order(fitting)

    @rule
    def test_match_device_total(self) -> None:
        """Every requirement of a declared kind can be matched, whatever its values are.

        Fix: return `Match.no(reason)` if a requirement makes no sense for the device.
        """
        kinds = _requirements(self.subject.info.properties)
        if kinds.is_empty:
            skip("the plugin declares none of the core's own kinds")
        backend = self.subject.backend()
        devices = [facts for facts, _ in self.all_devices()]

        @property_based
        @given(kinds, st.sampled_from(devices))
        def match_anything(required: DeviceProperties, facts: object) -> None:
            backend.match_device(required, facts)  # type: ignore[arg-type] # of all_devices

        match_anything()

    @rule
    def test_match_device_foreign(self) -> None:
        """Requirements of kinds that the plugin does not know are rejected with a reason.

        Fix: declare exactly the kinds that `kernels_match_device` supports, not a base class of
        them; the core rejects all others.
        """
        backend = self.subject.backend()
        foreign = [kind for kind in _KINDS if type(kind) not in backend.info.properties]
        for facts, _ in self.all_devices():
            for required in foreign:
                match = backend.match_device(required, facts)
                if match.fits:
                    fail(f"{required!r} fits {facts.name}")

    @rule
    def test_match_archs_recorded(self, machine: RecordedMachine) -> None:
        """On the recorded devices, the architectures listed as fitting fit, and no others.

        Fix: correct `kernels_match_archs`, or the list.
        """
        backend = self.subject.backend()
        for facts, expected in self.devices_of(machine):
            for entry in expected.archs.all:
                match = backend.match_archs(declared_archs(entry), facts)
                _check_fits(expected.archs, entry, match)

    @rule
    def test_match_archs_total(self) -> None:
        """Every list of architectures can be matched, including unknown and malformed names.

        Fix: return `Match.no(reason)` for names that are not understood, or ignore them if others
        are.
        """
        backend = self.subject.backend()
        devices = self.all_devices()
        known = sorted(
            {
                arch
                for _, device in devices
                for entry in device.archs.all
                for arch in declared_archs(entry)
            }
        )
        names = st.text() | st.sampled_from(["", *known]).flatmap(
            lambda name: st.sampled_from([name, f"{name}x", f"{name}+", name.upper(), f" {name}"])
        )

        @property_based
        @given(st.lists(names, min_size=1, max_size=4), st.sampled_from(devices))
        def match_anything(archs: list[str], device: tuple[object, object]) -> None:
            backend.match_archs(archs, device[0])  # type: ignore[arg-type] # of all_devices

        match_anything()

    @rule
    def test_answers_repeatable(self) -> None:
        """Matching and selecting return the same results again, and in every other process.

        Fix: do not rank by `hash`, `id`, the order of a set, random numbers or time: sort first.
        """
        questions, answers = self.questions(), self.answers()
        if not questions:
            skip(NO_MACHINE)
        for others in (self.answers(), self.fresh().answers):
            for question, answer, other in zip(questions, answers, others, strict=True):
                if answer != other:
                    arguments = reprlib.repr(question.arguments)
                    fail(f"{question.hook}{arguments}: {answer} here, {other} there")


def _check_fits(expected: ExpectedFits, entry: object, match: Match) -> None:
    if match.fits and entry not in expected.fits:
        fail(f"{entry!r} fits with rank {match.rank}")
    if not match.fits and entry in expected.fits:
        fail(f"{entry!r} does not fit: {match.reason}")


def _check_order(fitting: Sequence[tuple[object, Match]]) -> None:
    for (better, match), (worse, other) in itertools.pairwise(fitting):
        if not match > other:
            has = f"has rank {other.rank}" if other.fits else f"does not fit: {other.reason}"
            fail(f"{better!r} has rank {match.rank}, and {worse!r} {has}")


def _is_core_range(kind: type[DeviceProperties]) -> bool:
    # A plugin's own subclass may have more attributes.
    return issubclass(kind, CapabilityRange) and kind.__module__ == CapabilityRange.__module__


def _range(kind: type[CapabilityRange], one: int, other: int) -> CapabilityRange:
    return kind(min(one, other), max(one, other))


def _requirements(
    kinds: Iterable[type[DeviceProperties]],
) -> st.SearchStrategy[DeviceProperties]:
    """Any requirement of the core's kinds among these; a plugin's own kinds are left out."""
    capability = st.sampled_from([0, 1, 9, 10, 99, 1000, 10**9]) | st.integers(0, 10**12)
    versions = st.lists(st.integers(0, 10**6), min_size=1, max_size=4).map(
        lambda numbers: ".".join(map(str, numbers))
    )
    names = st.frozensets(st.text(min_size=1), min_size=1, max_size=4)
    strategies: list[st.SearchStrategy[DeviceProperties]] = []
    for kind in kinds:
        if _is_core_range(kind):
            strategies.append(st.builds(_range, st.just(kind), capability, capability))
        elif kind in (Architectures, Features):
            strategies.append(st.builds(kind, names))
        elif kind is MinimumVersions:
            tables = st.dictionaries(st.text(), versions, min_size=1, max_size=3)
            strategies.append(st.builds(kind, tables))
    return st.one_of(strategies)


def _looser(required: DeviceProperties) -> Iterator[DeviceProperties]:
    """Requirements that are less specific, and fit wherever this one does."""
    if _is_core_range(type(required)):
        assert isinstance(required, CapabilityRange)
        yield attrs.evolve(required, max_capability=required.max_capability + 1)
    elif type(required) is Architectures:
        yield Architectures(required.names | {_ABSENT_ARCHITECTURE})
    elif type(required) is Features and len(required.names) > 1:
        yield from (Features(required.names - {name}) for name in sorted(required.names))
    elif type(required) is MinimumVersions:
        for name, version in required.versions:
            if version != "0":
                yield MinimumVersions({**dict(required.versions), name: "0"})
