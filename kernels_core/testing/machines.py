"""Recorded machines: what the functions that query the machine returned, and what is expected then.

They are in one JSON file per plugin; `docs/testing-a-backend.md` shows one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from packaging.version import Version

from kernels_core.device import DeviceProperties
from kernels_core.host import HostInfo, TorchInfo

_T = TypeVar("_T", bound=attrs.AttrsInstance)


@attrs.frozen
class ExpectedFits:
    """What must fit, each better than the next where the order counts, and what must not."""

    fits: tuple[Any, ...] = ()
    rejects: tuple[Any, ...] = ()

    @property
    def all(self) -> tuple[Any, ...]:
        """All that is listed."""
        return self.fits + self.rejects


@attrs.frozen
class ExpectedDetection:
    """The expected `Detection`; `reason` is a part of the reason if there is no device."""

    device_count: int
    runtime_version: str | None = None
    reason: str = ""


@attrs.frozen
class ExpectedDevice:
    """What is expected of one device.

    Attributes:
        facts: attributes of its facts; others are not compared.
        requirements: requirements of entries, each as `{"Kind": [positional arguments]}`.
        archs: architectures that builds may declare, each as one name or a list of names; their
            order does not count.
    """

    facts: Mapping[str, Any] = attrs.field(factory=dict)
    requirements: ExpectedFits = attrs.field(factory=ExpectedFits)
    archs: ExpectedFits = attrs.field(factory=ExpectedFits)


@attrs.frozen
class RecordedMachine:
    """One machine, what was recorded on it, and what is expected of the plugin there.

    Attributes:
        machine: a description.
        sources: where the recording comes from.
        recorded: what of it was recorded.
        assumed: what had to be assumed.
        detection: the expected result of detection.
        probe: by name of a function that queries the machine, what it returned: a value, or a list
            of values if it takes a device index, the last of which is used for all further devices.
        host: operating system, processor and torch; by default torch on x86-64 Linux.
        tags: tags of builds.
        devices: what is expected of the devices, from index 0 on; the last one is used for all
            further devices.
    """

    machine: str
    sources: tuple[str, ...]
    recorded: str
    assumed: str
    detection: ExpectedDetection
    probe: Mapping[str, Any] = attrs.field(factory=dict)
    host: HostInfo = attrs.field(factory=lambda: _host({}))
    tags: ExpectedFits = attrs.field(factory=ExpectedFits)
    devices: tuple[ExpectedDevice, ...] = ()

    @property
    def expected_devices(self) -> tuple[ExpectedDevice, ...]:
        """What is expected of each device, as many as detection must find."""
        last = self.devices[-1:] or (ExpectedDevice(),)
        missing = max(0, self.detection.device_count - len(self.devices))
        return self.devices + last * missing


def read_machines(path: Path) -> tuple[RecordedMachine, ...]:
    """Read the recorded machines of a plugin; a `ValueError` names the file and the machine."""
    try:
        tables = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(tables, list):
        raise ValueError(f"{path}: expected a list of machines, got {type(tables).__name__}")
    machines = []
    for position, table in enumerate(tables):
        try:
            machines.append(_machine(table))
        except (TypeError, ValueError) as error:
            name = table.get("machine") if isinstance(table, dict) else None
            raise ValueError(f"{path}: machine {name or position}: {error}") from error
    return tuple(machines)


def make_requirement(
    table: Mapping[str, Sequence[Any]], kinds: Sequence[type[DeviceProperties]]
) -> DeviceProperties:
    """Make a requirement from its form in the JSON file: the name of a kind and its arguments.

    Raises `ValueError` when the backend declared no kind of this name.
    """
    ((name, arguments),) = table.items()
    for kind in kinds:
        if kind.__name__ == name:
            return kind(*arguments)
    declared = ", ".join(kind.__name__ for kind in kinds) or "none"
    raise ValueError(f"the plugin declares no properties {name!r}; it declares {declared}")


def _make(kind: type[_T], table: object, **converters: Callable[[Any], Any]) -> _T:
    """Make an object from a JSON object that has its attributes and no others."""
    if not isinstance(table, dict):
        raise ValueError(f"expected an object for {kind.__name__}, got {table!r}")
    known = {field.name: field.default is attrs.NOTHING for field in attrs.fields(kind)}
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not one of {', '.join(known)}")
    missing = [name for name, required in known.items() if required and name not in table]
    if missing:
        raise ValueError(f"{missing[0]!r} is missing")
    return kind(**{name: converters.get(name, _same)(value) for name, value in table.items()})


def _same(value: Any) -> Any:
    return value


def _machine(table: object) -> RecordedMachine:
    return _make(
        RecordedMachine,
        table,
        sources=tuple,
        detection=lambda value: _make(ExpectedDetection, value),
        host=_host,
        tags=_fits,
        devices=lambda values: tuple(map(_device, values)),
    )


def _device(table: object) -> ExpectedDevice:
    return _make(ExpectedDevice, table, requirements=_fits, archs=_fits)


def _fits(table: object) -> ExpectedFits:
    return _make(ExpectedFits, table, fits=tuple, rejects=tuple)


def _host(table: Mapping[str, Any]) -> HostInfo:
    usual = {"os": "linux", "cpu": "x86_64", "os_version": "", "torch": "2.13.0"}
    unknown = sorted(set(table) - set(usual))
    if unknown:
        raise ValueError(f"host: {unknown[0]!r} is not one of {', '.join(usual)}")
    host = {**usual, **table}
    torch = host.pop("torch")
    if torch is not None:
        torch = _torch(torch, cxx11_abi=True if host["os"] == "linux" else None)
    return HostInfo(**host, python=(3, 12), free_threaded=False, torch=torch)


def _torch(version: str, cxx11_abi: bool | None) -> TorchInfo:
    parsed = Version(version)
    return TorchInfo(version, (parsed.major, parsed.minor), cxx11_abi)
