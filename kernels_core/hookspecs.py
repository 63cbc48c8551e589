"""The contract between the core and a backend plugin.

A plugin is a module, named by an entry point in the group `kernels_core.backends`, that implements
hooks as plain functions marked with `@hookimpl`. The core calls one plugin at a time and checks
every value that it returns, so that a failure of one plugin never affects another.

`kernels_backend`, `kernels_detect`, `kernels_device_facts`, `kernels_parse_tag` and
`kernels_match_tag` are required; the others have a default, which their docstrings give.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, overload

import attrs
import pluggy

from kernels_core.device import DeviceFacts, DeviceProperties
from kernels_core.host import HostInfo
from kernels_core.mode import Mode

PROJECT_NAME = "kernels_core"
ENTRY_POINT_GROUP = "kernels_core.backends"

API_VERSION = 1
"""Version of this contract. The core refuses plugins that declare another one."""

hookspec = pluggy.HookspecMarker(PROJECT_NAME)

_F = TypeVar("_F", bound=Callable[..., Any])


class _HookimplMarker(Protocol):
    @overload
    def __call__(self, function: _F) -> _F: ...
    @overload
    def __call__(
        self, *, optionalhook: bool = False, specname: str | None = None
    ) -> Callable[[_F], _F]: ...


hookimpl: _HookimplMarker = pluggy.HookimplMarker(PROJECT_NAME)
"""Marks a plugin's function as the implementation of the hook of the same name."""


@attrs.frozen
class BackendInfo:
    """What a backend is; declared without querying the machine.

    Attributes:
        name: name of the backend, which is also the device type in mappings ("cuda", "acme").
        api_version: the `API_VERSION` that the plugin was written for.
        torch_device_type: what torch calls these devices; "cuda" for ROCm devices.
        noarch_name: the part after `torch-` in the name of builds without native code, for
            example "metal" in `torch-metal`.
        facts: the type that `kernels_device_facts` returns.
        properties: the kinds of requirement that `kernels_match_device` supports.
        priority: `get_local_kernel` and its family use the available backend of the highest
            priority when none is requested. The host's processor has 0, accelerators have 100.
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
        device_count: the number of devices; 0 means that the backend cannot be used.
        runtime_version: version of the runtime that builds are matched with ("13.0" for CUDA,
            "26.1" for macOS), or None if there is none.
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

    `str(tag)` is exactly the text that was parsed; a parser must return None for a text that its
    tag would write differently.

    Attributes:
        backend: name of the backend that the tag belongs to.
        prefix: the letters before the version, for example "cu"; the whole tag if it has none.
        version: the numbers, for example (13, 0); empty if the tag has none.

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
        """Parse a tag made of a prefix, a major and a minor version; None for any other text.

        Nothing separates the two numbers. The major version is the shortest run of digits that is
        not below `first_major`, so that tags keep their meaning when versions get longer.

        Args:
            text: any text.
            backend: name of the backend.
            prefix: the letters before the version.
            first_major: the oldest major version that builds can be for.

        Example:
            >>> BackendTag.parse("cu1210", backend="cuda", prefix="cu", first_major=10).version
            (12, 10)
            >>> BackendTag.parse("cu0128", backend="cuda", prefix="cu", first_major=10) is None
            True
        """
        # ASCII digits only, and no more than versions have: int() refuses thousands of them.
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
            tuples, and only within one backend and one hook.
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
        """It does not fit, for this reason, which is shown to users."""
        return cls(False, (), reason)

    def __gt__(self, other: object) -> bool:
        if not isinstance(other, Match):
            return NotImplemented
        return (self.fits, self.rank) > (other.fits, other.rank)


@attrs.frozen
class SelectionRequest:
    """The layer that candidates are ordered for.

    Attributes:
        layer_name: name under which the layer is extensible.
        mode: the requested mode.
        facts: the device of the layer.
    """

    layer_name: str
    mode: Mode
    facts: DeviceFacts


@attrs.frozen
class Candidate:
    """A repository that may serve a layer.

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
    """Declare the backend, without querying the machine or importing torch."""


@hookspec
def kernels_detect(host: HostInfo) -> Detection:  # type: ignore[empty-body]
    """Detect whether the backend can be used here, without creating a device context.

    Args:
        host: the machine, as far as it is known without using a device.
    """


@hookspec
def kernels_device_facts(index: int) -> DeviceFacts:  # type: ignore[empty-body]
    """Describe one device. Called only after `kernels_detect` found more than `index` devices.

    Args:
        index: index of the device within its torch device type.
    """


@hookspec
def kernels_parse_tag(text: str) -> BackendTag | None:
    """Parse the backend part of a variant name; None when it belongs to another backend.

    Args:
        text: for example "cu130". May be any text.
    """


@hookspec
def kernels_match_tag(  # type: ignore[empty-body]
    tag: BackendTag, detection: Detection
) -> Match:
    """Match the tag of a build with the detected runtime; newer tags that fit rank higher.

    Args:
        tag: a tag that this plugin parsed.
        detection: what this plugin detected.
    """


@hookspec
def kernels_match_device(  # type: ignore[empty-body]
    required: DeviceProperties, facts: DeviceFacts
) -> Match:
    """Match what a mapping entry requires with a device; more specific requirements rank higher.

    Default: no requirement is supported, so an entry with properties never fits.

    Args:
        required: properties of one of the kinds that the backend declared.
        facts: the device.
    """


@hookspec
def kernels_match_archs(  # type: ignore[empty-body]
    archs: Sequence[str], facts: DeviceFacts
) -> Match:
    """Match the architectures that a build declares in its metadata with a device.

    Default: every build fits every device.

    Args:
        archs: the declared architectures, at least one.
        facts: the device.
    """


@hookspec
def kernels_select(
    request: SelectionRequest, candidates: Sequence[Candidate]
) -> Sequence[Candidate] | None:
    """Order the candidates for a layer, best first; None for no opinion.

    Default: no opinion, which leaves the more specific entry first, then the better mode.

    Args:
        request: the layer, mode and device.
        candidates: in the core's own order; return them in some order, all of them.
    """


@hookspec
def kernels_bundled() -> Mapping[str, Mapping[Any, Any]]:  # type: ignore[empty-body]
    """The kernels that this backend provides, as a mapping for `register_kernel_mapping`.

    Default: none.
    """
