"""Fixtures that several test modules of the core use."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import pytest
from plugin_source import install_plugin

from kernels_core.plugins import Backend, Registry, registry, reset

T = TypeVar("T")


class InstalledPlugins:
    """Distributions with backend plugins, found through their metadata as installed ones are."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = [str(folder)]
        self.warnings: list[str] = []

    def install(self, name: str = "acme", *, folder: Path | None = None, **plugin: Any) -> Path:
        """Install a plugin (see `install_plugin`)."""
        return install_plugin(folder or self.folder, name, **plugin)

    def load(self) -> Registry:
        """The registry; what it warns of is added to `warnings`."""
        return self.watch(registry)

    def watch(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function and add what it warns of to `warnings`, also when it raises."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                return function(*arguments)
            finally:
                self.warnings += [str(w.message) for w in caught if w.category is RuntimeWarning]

    def backend(self, name: str = "acme", **plugin: Any) -> Backend:
        """Install a plugin and return its backend."""
        self.install(name, **plugin)
        return self.load().backend(name)


@pytest.fixture
def installed_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InstalledPlugins]:
    """No backend plugin is installed but those that the test installs, and no variable is set."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    for variable in [name for name in os.environ if name.startswith("KERNELS_")]:
        monkeypatch.delenv(variable)
    installed = InstalledPlugins(folder)
    monkeypatch.syspath_prepend(str(folder))
    distributions = functools.partial(metadata.distributions, path=installed.path)
    monkeypatch.setattr(metadata, "distributions", distributions)
    reset()
    yield installed
    reset()
    for name, module in list(sys.modules.items()):
        if str(tmp_path) in (getattr(module, "__file__", None) or ""):
            del sys.modules[name]


ANVIL_HOOKS = {
    "kernels_parse_tag": """
        @hookimpl
        def kernels_parse_tag(text):
            return BackendTag.parse(text, backend="anvil", prefix="anvil", first_major=1)
        """,
    "kernels_match_tag": """
        @hookimpl
        def kernels_match_tag(tag, detection):
            if tag.version <= (2, 3):
                return Match.yes(*tag.version)
            return Match.no(f"built for {tag}, newer than 2.3")
        """,
    "kernels_match_archs": """
        @hookimpl
        def kernels_match_archs(archs, facts):
            if "iron" in archs:
                return Match.yes()
            return Match.no(f"built for {', '.join(archs)}, and {facts.name} is iron")
        """,
}


@pytest.fixture
def anvil(installed_plugins: InstalledPlugins) -> Backend:
    """A backend with versioned tags, `anvil23` the newest that fits, and devices of arch iron."""
    return installed_plugins.backend("anvil", **ANVIL_HOOKS)
