"""Devices: what a mapping entry requires of one, what one has, and the entries of a mapping.

This is the only core module that names device families, because the public API has the names
`CUDAProperties` and `ROCMProperties`. Plugins interpret requirements; the core only stores them.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import attrs

from kernels_core.errors import MappingError, MappingTypeError
from kernels_core.mode import Mode

# Only for advice in messages: which package serves a type that no installed plugin knows.
_BUNDLED = frozenset({"cpu", "cuda", "mps", "rocm", "xpu"})

_BACKEND_OF_TAG = {
    "cpu": "cpu",
    "cu130": "cuda",
    "metal": "mps",
    "rocm71": "rocm",
    "xpu20252": "xpu",
}

EXAMPLE_TAGS = tuple(_BACKEND_OF_TAG)
"""Backend tags in the names of published builds: those that two plugins may both claim."""


def tag_hint(tag: str) -> str:
    """What to install for builds with a tag that no installed plugin supports; "" if unknown."""
    for example, backend in _BACKEND_OF_TAG.items():
        if tag.rstrip("0123456789") == example.rstrip("0123456789"):
            return install_hint(backend)
    return ""


def install_hint(device_type: str) -> str:
    """What to install for a device type that no installed backend serves."""
    if device_type in _BUNDLED:
        return f"pip install kernels-backend-{device_type}"
    return f"install its vendor's package that provides the {device_type!r} backend"


def backend_name(torch_device_type: str, versions: Mapping[str, object]) -> str:
    """The device type in mappings for a torch device type; `versions` is `vars(torch.version)`."""
    return "rocm" if torch_device_type == "cuda" and versions.get("hip") else torch_device_type


def is_known_type(device_type: str) -> bool:
    """Whether a device type has a meaning even where no plugin for it is installed."""
    return device_type in _BUNDLED


def _names(values: Iterable[str]) -> frozenset[str]:
    if isinstance(values, str):
        return frozenset({values})
    return frozenset(values)


def _check_names(_: object, attribute: attrs.Attribute[frozenset[str]], value: object) -> None:
    assert isinstance(value, frozenset)
    if not value or not all(isinstance(name, str) and name for name in value):
        raise ValueError(
            f"{attribute.name} must contain at least one non-empty name, got {value!r}."
        )


@attrs.frozen
class DeviceProperties:
    """Base of everything that a mapping entry can require of a device.

    A plugin adds a kind of its own by subclassing this with `attrs.frozen`: instances must be
    hashable values, since a mapping replaces the entry that has equal properties.

    Attributes:
        device_type: the only device type that it may be combined with; None leaves that to the
            plugin.
    """

    device_type: ClassVar[str | None] = None


@attrs.frozen
class CapabilityRange(DeviceProperties):
    """A range of capabilities, inclusive at both ends.

    Attributes:
        min_capability: smallest capability that fits, as an integer.
        max_capability: largest capability that fits, as an integer.

    Raises:
        TypeError: a bound is not an integer.
        ValueError: a bound is negative, or min_capability exceeds max_capability.
    """

    min_capability: int = attrs.field()
    max_capability: int = attrs.field()

    @min_capability.validator
    @max_capability.validator
    def _check_bound(self, attribute: attrs.Attribute[int], value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(
                f"{type(self).__name__}.{attribute.name} must be an integer such as 75 for 7.5, "
                f"got {value!r}."
            )
        if value < 0:
            raise ValueError(
                f"{type(self).__name__}.{attribute.name} must not be negative, got {value}."
            )

    def __attrs_post_init__(self) -> None:
        if self.min_capability > self.max_capability:
            raise ValueError(
                f"{type(self).__name__}: min_capability {self.min_capability} exceeds "
                f"max_capability {self.max_capability}."
            )

    @property
    def width(self) -> int:
        """The size of the range; of two ranges that fit, the narrower one is more specific."""
        return self.max_capability - self.min_capability


@attrs.frozen
class CUDAProperties(CapabilityRange):
    """A range of CUDA compute capabilities: 7.5 is 75, 9.0 is 90.

    Example:
        >>> CUDAProperties(min_capability=75, max_capability=90)
        CUDAProperties(min_capability=75, max_capability=90)
    """

    device_type: ClassVar[str | None] = "cuda"


@attrs.frozen
class ROCMProperties(CapabilityRange):
    """A range of capabilities of AMD GPUs as torch numbers them.

    Some architectures share a number; `Architectures` tells them apart by their gfx names.
    """

    device_type: ClassVar[str | None] = "rocm"


@attrs.frozen
class Architectures(DeviceProperties):
    """One of these architectures, by the names that the device family uses.

    Example:
        >>> sorted(Architectures(["gfx942", "gfx950"]).names)
        ['gfx942', 'gfx950']
    """

    names: frozenset[str] = attrs.field(converter=_names, validator=_check_names)


@attrs.frozen
class Features(DeviceProperties):
    """All of these features, by the names that the device family uses.

    Example:
        >>> Features(["avx2"]) == Features({"avx2"})
        True
    """

    names: frozenset[str] = attrs.field(converter=_names, validator=_check_names)


def _versions(value: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple(sorted((str(name), str(version)) for name, version in pairs))


@attrs.frozen
class MinimumVersions(DeviceProperties):
    """At least these versions of the software below the device.

    Example:
        >>> MinimumVersions({"macos": "26.0"}).versions
        (('macos', '26.0'),)
    """

    versions: tuple[tuple[str, str], ...] = attrs.field(converter=_versions)

    @versions.validator
    def _check_versions(self, _: object, value: tuple[tuple[str, str], ...]) -> None:
        from packaging.version import InvalidVersion, Version

        if not value:
            raise ValueError("MinimumVersions needs at least one version.")
        for name, version in value:
            try:
                Version(version)
            except InvalidVersion:
                raise ValueError(
                    f"MinimumVersions: {version!r} for {name!r} is not a version such as '26.0'."
                ) from None


@attrs.frozen
class DeviceFacts:
    """What a device has. Plugins subclass this to add what is specific to their devices.

    Attributes:
        index: index of the device within its torch device type.
        name: the device's name, for people.
    """

    index: int
    name: str


def _check_type(_: object, __: object, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"Device type must be a string such as 'cpu', got {value!r}.")
    if not value.isidentifier() or value != value.lower():
        raise ValueError(
            f"Device type {value!r} is not a lower-case name such as 'cpu'. Leave out an index: a "
            f"mapping applies to all devices of a type."
        )


@attrs.frozen
class Device:
    """The devices that a mapping entry is for.

    Attributes:
        type: "cuda", "rocm", "mps", "xpu", "cpu", or a type that a plugin adds.
        properties: what the device must have; None if any device of the type fits.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the type is not a name, or the properties belong to another type.

    Example:
        >>> Device("cuda", CUDAProperties(min_capability=80, max_capability=90)).type
        'cuda'
    """

    type: str = attrs.field(validator=_check_type)
    properties: DeviceProperties | None = attrs.field(default=None)

    @properties.validator
    def _check_properties(self, _: object, value: object) -> None:
        if value is None:
            return
        if not isinstance(value, DeviceProperties):
            raise TypeError(
                f"Device properties must be a DeviceProperties such as CUDAProperties, "
                f"got {value!r}."
            )
        expected = type(value).device_type
        if expected is not None and expected != self.type:
            raise ValueError(
                f"{type(value).__name__} belongs to device type {expected!r}, not {self.type!r}."
            )

    def create_repo(self) -> DeviceRepositories:
        """Make an empty set of repositories for this device type.

        Example:
            >>> Device("cpu").create_repo().device_type
            'cpu'
        """
        return DeviceRepositories(self.type)


@runtime_checkable
class LayerRepositoryProtocol(Protocol):
    """What a mapping may hold: an object that can load a layer."""

    def load(self) -> type[Any]:
        """Load the layer's class, a subclass of `torch.nn.Module`."""
        ...


# Where a mapping has a repository it may have several, which are tried in order.
Served: TypeAlias = "LayerRepositoryProtocol | Sequence[LayerRepositoryProtocol]"


class DeviceRepositories:
    """The repositories of one layer for one device type, by required properties and mode.

    Attributes:
        device_type: the device type that all of them are for.
        entries: properties that an entry requires, or None -> mode -> repositories, in the order of
            registration.
        ranked: candidates that were found in the entries, by device and mode; cleared by `insert`.

    Example:
        >>> from kernels_core import Device, LocalLayerRepository
        >>> repositories = Device("cpu").create_repo()
        >>> repositories.insert(Device("cpu"), LocalLayerRepository("here", layer_name="RMSNorm"))
        >>> len(repositories.entries)
        1
    """

    __slots__ = ("device_type", "entries", "ranked")

    def __init__(self, device_type: str) -> None:
        self.device_type = device_type
        self.entries: dict[
            DeviceProperties | None, dict[Mode, tuple[LayerRepositoryProtocol, ...]]
        ] = {}
        self.ranked: dict[Hashable, Any] = {}

    def insert(self, device: Device, repositories: Served | Mapping[Mode, Served]) -> None:
        """Add an entry; one with equal properties is replaced.

        Args:
            device: the devices that the entry is for.
            repositories: a repository or a list of them, which counts as `Mode.FALLBACK`, or such
                a value per mode.

        Raises:
            MappingError: the device has another type, or the modes or a list are empty.
            MappingTypeError: something is not a repository, or a key is not a `Mode`.
        """
        if device.type != self.device_type:
            raise MappingError(
                f"An entry for device type {device.type!r} does not belong to the repositories "
                f"of {self.device_type!r}."
            )
        self.entries[device.properties] = _by_mode(repositories)
        self.ranked.clear()

    def copy(self) -> DeviceRepositories:
        """A new set with the same entries."""
        copied = DeviceRepositories(self.device_type)
        copied.entries = dict(self.entries)
        return copied


def _is_repository(value: object) -> bool:
    return callable(getattr(value, "load", None)) and not isinstance(value, type)


def _in_order(value: object) -> tuple[LayerRepositoryProtocol, ...]:
    """The repositories in a list, or the one that stands in its place."""
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if _is_repository(value) or not several:
        repositories: tuple[Any, ...] = (value,)
    else:
        assert isinstance(value, Sequence)
        repositories = tuple(value)
    if not repositories:
        raise MappingError("A device is mapped to an empty list: expected at least one repository.")
    for repository in repositories:
        if not _is_repository(repository):
            raise MappingTypeError(
                f"{repository!r} is not a kernel repository: expected an object with a method "
                f"load() -> type[nn.Module], such as a LayerRepository or LocalLayerRepository, or "
                f"a list of them."
            )
    return repositories


def _by_mode(repositories: object) -> dict[Mode, tuple[LayerRepositoryProtocol, ...]]:
    if _is_repository(repositories) or not isinstance(repositories, Mapping):
        return {Mode.FALLBACK: _in_order(repositories)}
    if not repositories:
        raise MappingError("A device is mapped to an empty dict: expected at least one mode.")
    by_mode = {}
    for mode, served in repositories.items():
        if not isinstance(mode, Mode):
            raise MappingTypeError(f"{mode!r} is not a Mode: expected, for example, Mode.TRAINING.")
        if not mode:
            raise MappingError("A repository is registered without a mode.")
        if mode is Mode.TORCH_COMPILE:
            warnings.warn(
                "A repository registered for Mode.TORCH_COMPILE alone is never used: combine it, "
                "as in Mode.INFERENCE | Mode.TORCH_COMPILE.",
                UserWarning,
                stacklevel=5,
            )
        by_mode[mode] = _in_order(served)
    return by_mode
