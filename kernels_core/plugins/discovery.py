"""Find the backend plugins that are installed and enabled, without importing them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

import attrs
from packaging.utils import canonicalize_name

from kernels_core import environment
from kernels_core.errors import PluginError
from kernels_core.hookspecs import ENTRY_POINT_GROUP

ALLOW_LIST = "KERNELS_BACKENDS"
DENY_LIST = "KERNELS_DISABLED_BACKENDS"


@attrs.frozen
class PluginSource:
    """The entry point of a plugin, and the name and version of the package that contains it."""

    plugin: str
    distribution: str

    def __str__(self) -> str:
        return f"{self.plugin!r} of {self.distribution}"

    def error(self, phase: str, problem: str) -> PluginError:
        """A `PluginError`; `phase` is what the core was doing with the plugin, such as "import"."""
        return PluginError(
            f"Backend plugin {self} failed ({phase}): {problem}",
            plugin=self.plugin,
            distribution=self.distribution,
            phase=phase,
        )


@attrs.frozen
class FoundPlugin:
    """An entry point that may be loaded."""

    source: PluginSource
    entry_point: metadata.EntryPoint


@attrs.frozen
class BlockedPlugin:
    """A plugin that is installed but disabled, and the environment variable that disables it."""

    plugin: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"{self.plugin} ({self.distribution}): {self.reason}"


@attrs.frozen
class Discovered:
    """What is installed, in an order that does not depend on the file system."""

    plugins: tuple[FoundPlugin, ...]
    blocked: tuple[BlockedPlugin, ...]
    errors: tuple[PluginError, ...]


def discover() -> Discovered:
    """Find installed backend plugins; an entry point that is on the path twice counts once."""
    plugins: dict[tuple[str, str, str], FoundPlugin] = {}
    errors = []
    for distribution in _installed():
        try:
            for found in _plugins_of(distribution):
                entry = found.entry_point
                plugins.setdefault((_canonical_name(distribution), entry.name, entry.value), found)
        except Exception as error:
            # One unreadable package must not hide the plugins of all others.
            source = PluginSource("?", _describe(distribution))
            problem = f"its entry points cannot be read ({error!r}); reinstall the package."
            failure = source.error("discover", problem)
            failure.__cause__ = error
            errors.append(failure)
    return _apply_lists(
        [plugins[key] for key in sorted(plugins, key=lambda key: (key[1], key[0], key[2]))],
        tuple(sorted(errors, key=str)),
    )


def _installed() -> Iterator[metadata.Distribution]:
    """The distributions that Python sees: of those with one name, the first on the path.

    `metadata.entry_points` selects them likewise, but fails for all when it cannot read one.
    """
    seen = set()
    for distribution in metadata.distributions():
        try:
            # By the name of its directory, which is faster to get than the one in its metadata.
            name = distribution._normalized_name  # type: ignore[attr-defined]  # not in typeshed
        except Exception:  # it has no name at all
            yield distribution
            continue
        # pip renames what it is about to remove, and ignores what an interrupted removal left.
        if name not in seen and not name.startswith("~"):
            seen.add(name)
            yield distribution


def _apply_lists(plugins: list[FoundPlugin], errors: tuple[PluginError, ...]) -> Discovered:
    allowed = environment.names(ALLOW_LIST)
    denied = environment.names(DENY_LIST) or frozenset()
    kept, blocked = [], []
    for found in plugins:
        source, name = found.source, found.source.plugin.lower()
        if name in denied:
            reason = f"{DENY_LIST} lists {source.plugin!r}"
        elif allowed is not None and name not in allowed:
            reason = f"{ALLOW_LIST} does not list {source.plugin!r}"
        else:
            kept.append(found)
            continue
        blocked.append(BlockedPlugin(source.plugin, source.distribution, reason))
    return Discovered(tuple(kept), tuple(blocked), errors)


def _plugins_of(distribution: metadata.Distribution) -> Iterator[FoundPlugin]:
    # Checking the text first is fast, and ignores packages that have malformed entry points but no
    # plugin.
    if ENTRY_POINT_GROUP not in (distribution.read_text("entry_points.txt") or ""):
        return
    for entry_point in distribution.entry_points:
        if entry_point.group == ENTRY_POINT_GROUP:
            yield FoundPlugin(PluginSource(entry_point.name, _describe(distribution)), entry_point)


def _canonical_name(distribution: metadata.Distribution) -> str:
    return canonicalize_name(_metadata(distribution, "Name") or _describe(distribution))


def _describe(distribution: metadata.Distribution) -> str:
    name, version = _metadata(distribution, "Name"), _metadata(distribution, "Version")
    if name is None:
        return f"a package without metadata in {distribution.locate_file('')}"
    return f"{name} {version or '(unknown version)'}"


def _metadata(distribution: metadata.Distribution, field: str) -> str | None:
    # Without a METADATA file some versions of Python return nothing here, and others raise.
    try:
        if field in distribution.metadata:
            return distribution.metadata[field]
    except Exception:
        pass
    return None
