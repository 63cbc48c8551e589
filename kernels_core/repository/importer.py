"""Importing a build of a kernel.

Every build gets a module name of its own, made from its path, so that several builds of one kernel
live beside each other. Its modules are found by one finder in `sys.meta_path`, which serves names
of builds only and takes source files and extension modules, never bytecode: what runs is what lies
there to be read and checked.

Importing once per process, whichever threads ask, and retrying after a failure are the import
system's own per-module lock at work; there is no second one here that it could deadlock with.
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
    SourceFileLoader,
)
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType
from typing import Any

from kernels_core.repository.builds import Build

_PREFIX = "kernel_build_"


def import_build(build: Build, instead: Mapping[str, str] | None = None) -> ModuleType:
    """Import a build, once per process.

    Args:
        build: the build to import.
        instead: modules that import statements in the build get in place of others, by name.

    Returns:
        The package's module. Its name is the same in every process that imports the same path.

    Raises:
        Exception: whatever the kernel's own code raises, unchanged. A failed import leaves nothing
            behind in `sys.modules`; the next call tries again.
    """
    name = module_name(build)
    if name not in sys.modules:
        _FINDER.builds[name] = build
        _FINDER.instead[name] = dict(instead or {})
    if _FINDER not in sys.meta_path:
        # In front, so that nobody else's finder gets to look for a kernel's modules.
        sys.meta_path.insert(0, _FINDER)
    return importlib.import_module(name)


def build_of(module: str) -> Build | None:
    """The build that a module belongs to; None for a module of no kernel.

    Args:
        module: dotted name of the module.

    Example:
        >>> build_of("os.path") is None
        True
    """
    return _FINDER.builds.get(module.partition(".")[0])


def module_name(build: Build) -> str:
    """The name under which a build is imported: readable, and of its path alone.

    However a user comes to a build, by its repository or by its own directory, it is imported once.

    Example:
        >>> from pathlib import Path
        >>> from kernels_core.repository.builds import Build
        >>> path = Path("/kernels/activation/build/torch-cpu")
        >>> module_name(Build("/kernels/activation", "torch-cpu", path, path))
        'kernel_build_torch_cpu_...'
    """
    path = os.path.normcase(os.path.realpath(build.package))
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    name = build.metadata.name if build.metadata else None
    readable = re.sub(r"[^A-Za-z0-9]+", "_", f"{name}_{build.variant}" if name else build.variant)
    return f"{_PREFIX}{readable}_{digest}"


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

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except BaseException:
            inside = f"{self.name}."
            for name in [name for name in sys.modules if name.startswith(inside)]:
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
        if not fullname.startswith(_PREFIX):
            return None
        if path is None:
            return self._package_spec(fullname)
        for directory in path:
            finder = FileFinder(directory, *_LOADERS)
            spec = finder.find_spec(fullname, target)
            if spec is not None:
                return spec
        # Returning None would let the next finder look, which reads bytecode.
        raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

    def _package_spec(self, fullname: str) -> ModuleSpec | None:
        build = self.builds.get(fullname)
        if build is None:
            return None
        file = build.package / "__init__.py"
        return spec_from_file_location(
            fullname,
            file,
            loader=_PackageLoader(fullname, str(file)),
            submodule_search_locations=[str(build.package)],
        )


_FINDER = _Finder()
