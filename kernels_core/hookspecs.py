"""The contract between the core and a backend plugin.

A plugin is a module, named by an entry point in the group `kernels_core.backends`, that implements
hooks as plain functions marked with `@hookimpl`. The core addresses one plugin at a time, checks
every value that comes back, and never broadcasts: one plugin's failure is never another's.

`kernels_backend`, `kernels_detect`, `kernels_device_facts`, `kernels_parse_tag` and
`kernels_match_tag` are required; the others have a default, which their text names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attrs
import pluggy

from kernels_core.device import DeviceFacts, DeviceProperties
from kernels_core.host import HostInfo
from kernels_core.mode import Mode

PROJECT_NAME = "kernels_core"
ENTRY_POINT_GROUP = "kernels_core.backends"

API_VERSION = 1
"""Version of this contract. The core refuses plugins that declare one it does not speak."""

hookspec = pluggy.HookspecMarker(PROJECT_NAME)

_F = TypeVar("_F", bound=Callable[..., Any])


class _HookimplMarker(Protocol):
    def __call__(self, function: _F) -> _F: ...


hookimpl: _HookimplMarker = pluggy.HookimplMarker(PROJECT_NAME)
"""Marks a plugin's function as the implementation of the hook of the same name."""


@attrs.frozen
class BackendInfo:
    """What a backend is; declared without looking at the machine.

    Attributes:
        name: name of the backend, which is also the device type in mappings ("cuda", "acme").
        api_version: the `API_VERSION` that the plugin was written against.
        torch_device_type: what torch calls these devices; "cuda" for ROCm devices.
        noarch_name: the part after `torch-` in the name of builds without native code, for
            example "metal" in `torch-metal`.
        facts: the type of what `kernels_device_facts` returns.
        properties: the kinds of requirement that `kernels_match_device` understands.
        priority: which backend `get_local_kernel` and its family use when several are available
            and none is asked for: the highest. The host's own processor has 0, accelerators 100.
    """

    name: str = attrs.field(validator=attrs.validators.instance_of(str))
    api_version: int = attrs.field(validator=attrs.validators.instance_of(int))
    torch_device_type: str = attrs.field(validator=attrs.validators.instance_of(str))
    noarch_name: str = attrs.field(validator=attrs.validators.instance_of(str))
    facts: type[DeviceFacts] = attrs.field(validator=attrs.validators.instance_of(type))
    properties: tuple[type[DeviceProperties], ...] = attrs.field(
        default=(), validator=attrs.validators.instance_of(tuple)
    )
    priority: int = attrs.field(default=100, validator=attrs.validators.instance_of(int))


@attrs.frozen
class Detection:
    """Whether a backend can be used on this machine.

    Attributes:
        device_count: how many devices there are; 0 means that the backend cannot be used.
        runtime_version: version of the runtime that builds are matched against ("13.0" for CUDA,
            "26.1" for macOS), or None where there is none.
        reason: why there is no device; "" when there is one.

    Raises:
        ValueError: there is no device and no reason, or a device and a reason.

    Example:
        >>> Detection(device_count=1, runtime_version="13.0").available
        True
    """

    device_count: int = attrs.field(validator=attrs.validators.instance_of(int))
    runtime_version: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(str))
    )
    reason: str = attrs.field(default="", validator=attrs.validators.instance_of(str))

    def __attrs_post_init__(self) -> None:
        if self.device_count < 0:
            raise ValueError(f"device_count must not be negative, got {self.device_count}.")
        if self.available == bool(self.reason):
            raise ValueError("A Detection has a reason exactly when there is no device.")

    @property
    def available(self) -> bool:
        """Whether there is a device to use."""
        return self.device_count > 0


@attrs.frozen
class BackendTag:
    """The backend part of a variant name, for example `cu130`.

    `str(tag)` is exactly the text that it was parsed from; a plugin whose parser accepts a text
    that its tag would write differently has not understood it.

    Attributes:
        backend: name of the backend that the tag belongs to.
        prefix: the letters before the version, for example "cu"; the whole tag when it has none.
        version: the numbers, for example (13, 0); empty when the tag has none.

    Example:
        >>> str(BackendTag("cuda", "cu", (12, 10)))
        'cu1210'
    """

    backend: str = attrs.field(validator=attrs.validators.instance_of(str))
    prefix: str = attrs.field(validator=attrs.validators.instance_of(str))
    version: tuple[int, ...] = attrs.field(
        default=(), validator=attrs.validators.instance_of(tuple)
    )

    def __str__(self) -> str:
        return self.prefix + "".join(str(number) for number in self.version)

    @classmethod
    def parse(cls, text: str, *, backend: str, prefix: str, first_major: int) -> BackendTag | None:
        """Read a tag made of a prefix, a major and a minor version; None when it is no such tag.

        Nothing separates the two numbers. The major one is the shortest run of digits that is not
        below `first_major`, so that a tag goes on to be read the same when versions grow longer.

        Args:
            text: any text at all.
            backend: name of the backend.
            prefix: the letters before the version.
            first_major: the oldest major version that builds can be for.

        Example:
            >>> BackendTag.parse("cu1210", backend="cuda", prefix="cu", first_major=10).version
            (12, 10)
            >>> BackendTag.parse("cu0128", backend="cuda", prefix="cu", first_major=10) is None
            True
        """
        # ASCII digits only, and no more than any version has: int() refuses thousands of them.
        match = re.fullmatch(re.escape(prefix) + "([0-9]{2,9})", text)
        digits = match.group(1) if match else ""
        for end in range(1, len(digits)):
            major, minor = int(digits[:end]), int(digits[end:])
            if major >= first_major:
                tag = cls(backend, prefix, (major, minor))
                return tag if str(tag) == text else None
        return None


def _check_rank(_: object, __: object, value: object) -> None:
    if not isinstance(value, tuple) or not all(type(number) is int for number in value):
        raise TypeError(f"Match.rank must be a tuple of integers, got {value!r}.")


@attrs.frozen
class Match:
    """Whether something fits, how well, or why not. Make one with `Match.yes` or `Match.no`.

    Attributes:
        fits: whether it fits.
        rank: how well; of two that fit, the one with the greater rank is better. Ranks compare as
            tuples and only within one backend and one hook.
        reason: why it does not fit; "" when it does.

    Raises:
        ValueError: it fits and has a reason, or does not fit and has none.

    Example:
        >>> Match.yes(2) > Match.yes(1), Match.no("too old").reason
        (True, 'too old')
    """

    fits: bool = attrs.field(validator=attrs.validators.instance_of(bool))
    rank: tuple[int, ...] = attrs.field(default=(), validator=_check_rank)
    reason: str = attrs.field(default="", validator=attrs.validators.instance_of(str))

    def __attrs_post_init__(self) -> None:
        if self.fits == bool(self.reason):
            raise ValueError("A Match has a reason exactly when it does not fit.")

    @classmethod
    def yes(cls, *rank: int) -> Match:
        """It fits; a greater rank is a better fit."""
        return cls(True, rank)

    @classmethod
    def no(cls, reason: str) -> Match:
        """It does not fit, for this reason, which is shown to people."""
        return cls(False, (), reason)

    def __gt__(self, other: object) -> bool:
        if not isinstance(other, Match):
            return NotImplemented
        return (self.fits, self.rank) > (other.fits, other.rank)


@attrs.frozen
class SelectionRequest:
    """For what a repository is being chosen.

    Attributes:
        layer_name: name under which the layer is extensible.
        mode: the mode that was asked for.
        facts: the device that the layer lives on.
    """

    layer_name: str
    mode: Mode
    facts: DeviceFacts


@attrs.frozen
class Candidate:
    """One repository that could serve a layer.

    Attributes:
        repository: the repository as it was registered.
        mode: the mode under which it was registered.
        properties: what its mapping entry requires of the device, or None.
    """

    repository: object
    mode: Mode
    properties: DeviceProperties | None


@hookspec
def kernels_backend() -> BackendInfo:  # type: ignore[empty-body]
    """Declare the backend. Pure: reads nothing, imports no torch."""


@hookspec
def kernels_detect(host: HostInfo) -> Detection:  # type: ignore[empty-body]
    """Tell whether the backend can be used here, without creating a device context.

    Args:
        host: the machine, as far as it is known without touching a device.
    """


@hookspec
def kernels_device_facts(index: int) -> DeviceFacts:  # type: ignore[empty-body]
    """Describe one device. Asked only after `kernels_detect` found more than `index` devices.

    Args:
        index: index of the device within its torch device type.
    """


@hookspec
def kernels_parse_tag(text: str) -> BackendTag | None:
    """Read the backend part of a variant name; None when it is not one of this backend's.

    Args:
        text: for example "cu130". May be any text at all.
    """


@hookspec
def kernels_match_tag(  # type: ignore[empty-body]
    tag: BackendTag, detection: Detection
) -> Match:
    """Tell whether a build with this tag runs on this runtime; newer fitting tags rank higher.

    Args:
        tag: a tag that this plugin parsed.
        detection: what this plugin detected.
    """


@hookspec
def kernels_match_device(  # type: ignore[empty-body]
    required: DeviceProperties, facts: DeviceFacts
) -> Match:
    """Tell whether a device has what a mapping entry requires; more specific ranks higher.

    Default: no requirement is understood, so an entry with properties never fits.

    Args:
        required: properties of one of the kinds that the backend declared.
        facts: the device.
    """


@hookspec
def kernels_match_archs(  # type: ignore[empty-body]
    archs: Sequence[str], facts: DeviceFacts
) -> Match:
    """Tell whether a build that declares these architectures in its metadata covers a device.

    Default: every build covers every device.

    Args:
        archs: the declared architectures, at least one.
        facts: the device.
    """


@hookspec
def kernels_select(
    request: SelectionRequest, candidates: Sequence[Candidate]
) -> Sequence[Candidate] | None:
    """Put the candidates for a layer in order, best first; None for no opinion.

    Default: no opinion, which leaves the more specific entry first, then the better mode.

    Args:
        request: what is being chosen for.
        candidates: in the core's own order; the answer is a permutation of them.
    """


@hookspec
def kernels_bundled() -> Mapping[str, Mapping[Any, Any]]:  # type: ignore[empty-body]
    """The kernels that this backend brings along, as a mapping for `register_kernel_mapping`.

    Default: none.
    """
