"""Importing a build of a kernel.

Every build gets a module name of its own, made from its path, so that several builds of one kernel
can be imported at the same time. Its modules are found by one finder in `sys.meta_path`, which
serves names of builds only and takes source files and extension modules, never bytecode: what runs
is what can be read and checked.

The import system's own lock per module makes threads import a build once, and a failed import is
tried again. A second lock here could only cause a deadlock.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from kernels_core.repository.builds import Build
from kernels_core.unpickling import PREFIX


def import_build(build: Build, instead: Mapping[str, str] | None = None) -> ModuleType:
    """Import a build, once per process, and return its package.

    Its module name is the same in every process that imports the same path. What the kernel's own
    code raises is raised unchanged. A failed import leaves nothing in `sys.modules`; the next call
    tries again. `instead` names modules that import statements in the build get in place of others.
    """
    name = module_name(build)
    if name not in sys.modules:
        _FINDER.builds[name] = build
        _FINDER.instead[name] = dict(instead or {})
    if _FINDER not in sys.meta_path:
        # In front, so that no other finder is called for a kernel's modules.
        sys.meta_path.insert(0, _FINDER)
    return importlib.import_module(name)


def build_of(module: str) -> Build | None:
    """The build that a module belongs to, by its dotted name; None for a module of no kernel."""
    return _FINDER.builds.get(module.partition(".")[0])


def module_name(build: Build) -> str:
    """The name under which a build is imported: readable, and made from its path alone.

    A build that is found both by its repository and by its own directory is imported once.
    """
    path = os.path.normcase(os.path.realpath(build.package))
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    name = build.metadata.name if build.metadata else None
    readable = re.sub(r"[^A-Za-z0-9]+", "_", f"{name}_{build.variant}" if name else build.variant)
    return f"{PREFIX}{readable}_{digest}"


class _SourceLoader(SourceFileLoader):
    """Compiles source; neither reads nor writes bytecode."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        instead = _FINDER.instead.get(self.name.partition(".")[0]) or {}
        source = self.get_data(self.path)
        if any(name.encode() in source for name in instead):
            # Only the build's own import statements see it: they look `__import__` up here.
            module.__dict__["__builtins__"] = {
                **vars(builtins),
                "__import__": _Import(instead),
            }
        super().exec_module(module)


class _Import:
    """`__import__` of a build's modules, with some modules in place of others."""

    def __init__(self, instead: Mapping[str, str]) -> None:
        self._instead = instead

    def __call__(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002  as Python names it
        locals: Mapping[str, object] | None = None,  # noqa: A002  as Python names it
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        top, dot, rest = name.partition(".")
        other = self._instead.get(top) if level == 0 else None
        if other is None:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = importlib.import_module(f"{other}{dot}{rest}")
        for attribute in fromlist or ():
            if attribute != "*" and not hasattr(module, attribute):
                importlib.import_module(f"{module.__name__}.{attribute}")
        return module if fromlist else importlib.import_module(other)


class _PackageLoader(_SourceLoader):
    """Loads the package of a build; when that fails, its submodules must go too."""

    _is_new = False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        self._is_new = True  # the import system does not call this to reload a module
        return super().create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except BaseException:
            inside = f"{self.name}."
            for name in [name for name in sys.modules if self._is_new and name.startswith(inside)]:
                sys.modules.pop(name, None)
            raise


_LOADERS = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (_SourceLoader, SOURCE_SUFFIXES))


class _Finder:
    """Finds the modules of builds, and only those."""

    def __init__(self) -> None:
        self.builds: dict[str, Build] = {}
        self.instead: dict[str, dict[str, str]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Called by the import system for every module that is not imported yet."""
        build = build_of(fullname)
        if build is None:
            return None
        if path is None:
            return self._package_spec(fullname, build)
        # After None, the other finders are called: the usual one looks in the same directories,
        # with what is in this cache for them. It would read bytecode otherwise.
        for directory in path:
            if _is_inside(directory, build.package):
                sys.path_importer_cache[directory] = FileFinder(directory, *_LOADERS)
        return PathFinder.find_spec(fullname, path, target)

    def _package_spec(self, fullname: str, build: Build) -> ModuleSpec | None:
        file = build.package / "__init__.py"
        return spec_from_file_location(
            fullname,
            file,
            loader=_PackageLoader(fullname, str(file)),
            submodule_search_locations=[str(build.package)],
        )


def _is_inside(directory: str, package: Path) -> bool:
    # The package may have put other directories into its `__path__`.
    return Path(directory) == package or package in Path(directory).parents


_FINDER = _Finder()
