"""How the core's own kinds of requirement are matched; for backend plugins to call.

A plugin knows what its devices have; these functions give the same answer to "does this entry fit?"
for every device family. Where a backend supports several kinds of requirement, their ranks can be
compared: a named architecture always ranks higher than a range.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from packaging.version import Version

from kernels_core.device import Architectures, CapabilityRange, Features, MinimumVersions
from kernels_core.hookspecs import BackendTag, Detection, Match


def match_same_version(tag: BackendTag, detection: Detection) -> Match:
    """Whether a build was made for exactly the major and minor version of the runtime.

    Args:
        tag: the tag of the build.
        detection: what the backend detected; its `runtime_version` has the form "7.1".

    Example:
        >>> tag = BackendTag("acme", "acme", (7, 1))
        >>> match_same_version(tag, Detection(1, runtime_version="7.2")).reason
        'built for acme 7.1, and the runtime is 7.2'
    """
    built_for = ".".join(str(number) for number in tag.version)
    if built_for == detection.runtime_version:
        return Match.yes()
    return Match.no(
        f"built for {tag.backend} {built_for}, and the runtime is "
        f"{detection.runtime_version or 'unknown'}"
    )


def match_capability(required: CapabilityRange, capability: tuple[int, int]) -> Match:
    """Whether a capability is within a range; the narrower the range, the better.

    Args:
        required: the range.
        capability: major and minor capability of the device.

    Example:
        >>> match_capability(CapabilityRange(75, 89), (9, 0)).reason
        'it has capability 90, and 75 to 89 is required'
    """
    major, minor = capability
    number = 10 * major + minor
    if required.min_capability <= number <= required.max_capability:
        return Match.yes(-required.width)
    return Match.no(
        f"it has capability {number}, and {required.min_capability} to "
        f"{required.max_capability} is required"
    )


def match_architectures(required: Architectures, names: Sequence[str]) -> Match:
    """Whether one of the required architectures is the device's; the more specific, the better.

    Among equally specific names, the requirement with fewer alternatives is better.

    Args:
        required: the architectures, one of which is enough. Case does not matter.
        names: the names of the device's architecture, in lower case, the most specific one first.

    Example:
        >>> device = ["gfx1100", "gfx11-generic"]
        >>> exact = match_architectures(Architectures("gfx1100"), device)
        >>> exact > match_architectures(Architectures("gfx11-generic"), device)
        True
    """
    wanted = {name.lower() for name in required.names}
    for position, name in enumerate(names):
        if name in wanted:
            return Match.yes(len(names) - position, -len(wanted))
    return Match.no(
        f"it is {names[0] if names else 'of unknown architecture'}, and "
        f"{_one_of(required.names)} is required"
    )


def match_features(required: Features, features: Collection[str]) -> Match:
    """Whether a device has all required features; the more of them, the more specific.

    Args:
        required: the features, all of which are needed.
        features: the features of the device.

    Example:
        >>> match_features(Features(["avx2", "fma", "sse2"]), {"sse2"}).reason
        'it lacks avx2, fma'
    """
    missing = sorted(required.names.difference(features))
    if missing:
        return Match.no(f"it lacks {', '.join(missing)}")
    return Match.yes(len(required.names))


def match_minimum_versions(required: MinimumVersions, versions: Mapping[str, str]) -> Match:
    """Whether the software of a device is new enough; requiring newer versions is more specific.

    Args:
        required: names and minimum versions.
        versions: the versions of this device. Earlier ones weigh more in the rank.

    Example:
        >>> match_minimum_versions(MinimumVersions({"os": "26.0"}), {"os": "15.5"}).reason
        'it has os 15.5, and at least 26.0 is required'
    """
    for name, least in required.versions:
        if name not in versions:
            known = ", ".join(versions) or "nothing"
            return Match.no(f"the version of {name} is not known, only that of {known}")
        if Version(versions[name]) < Version(least):
            return Match.no(f"it has {name} {versions[name]}, and at least {least} is required")
    least_versions = {name: Version(least) for name, least in required.versions}
    rank: list[int] = []
    for name in versions:
        version = least_versions.get(name, Version("0"))
        rank += [version.major, version.minor, version.micro]
    return Match.yes(*rank)


def _one_of(names: Collection[str]) -> str:
    first, *others = sorted(names)
    return f"one of {', '.join([first, *others])}" if others else first
