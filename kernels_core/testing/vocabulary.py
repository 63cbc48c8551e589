"""Requirements of the core's own kinds: any at all, and looser ones than a given one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
from hypothesis import strategies as st

from kernels_core.device import (
    Architectures,
    CapabilityRange,
    DeviceProperties,
    Features,
    MinimumVersions,
)

# No device has it: an alternative that makes a requirement looser and fits nothing by itself.
_NOBODYS = "no such architecture"


def _is_core_range(kind: type[DeviceProperties]) -> bool:
    # A plugin's own subclass may have more attributes.
    return issubclass(kind, CapabilityRange) and kind.__module__ == CapabilityRange.__module__


def _range(kind: type[CapabilityRange], one: int, other: int) -> CapabilityRange:
    return kind(min(one, other), max(one, other))


def requirements(
    kinds: Iterable[type[DeviceProperties]],
) -> st.SearchStrategy[DeviceProperties]:
    """Any requirement of the core's kinds among these.

    Args:
        kinds: what a backend declares. Of a plugin's own kinds nothing is known here.
    """
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


def looser(required: DeviceProperties) -> Iterator[DeviceProperties]:
    """Requirements that are less specific, and fit wherever this one does.

    Args:
        required: a requirement; of a plugin's own kinds nothing looser is known.

    Example:
        >>> [sorted(one.names) for one in looser(Features(["avx2", "fma"]))]
        [['fma'], ['avx2']]
    """
    if _is_core_range(type(required)):
        assert isinstance(required, CapabilityRange)
        yield attrs.evolve(required, max_capability=required.max_capability + 1)
    elif type(required) is Architectures:
        yield Architectures(required.names | {_NOBODYS})
    elif type(required) is Features and len(required.names) > 1:
        yield from (Features(required.names - {name}) for name in sorted(required.names))
    elif type(required) is MinimumVersions:
        for name, version in required.versions:
            if version != "0":
                yield MinimumVersions({**dict(required.versions), name: "0"})
