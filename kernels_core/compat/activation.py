"""Making `import kernels` import kernels-core in this process, and undoing that."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kernels_core.compat.version import check_version, decide
from kernels_core.errors import CompatError
from kernels_core.layers.mapping import use_bundled_by_default

if TYPE_CHECKING:
    from importlib.metadata import Distribution

NAME = "kernels"
LOCAL = "core"
"""The local version segment of the wheel that provides `kernels` without activation."""

FOLDER = Path(__file__).parent

# The module of transformers that checks whether `kernels` is installed, and keeps the result.
_AVAILABILITY = "transformers.utils.import_utils"


def activate(version: str | None = None) -> None:
    """Make `import kernels` import kernels-core, even if Hugging Face `kernels` is installed.

    From then on, `importlib.util.find_spec("kernels")` and `importlib.metadata.version("kernels")`
    refer to this package, too, in this process. Nothing is imported until a program imports
    `kernels`. `kernelize` then also uses the kernels that installed backends bundle, where a
    mapping has none that can be used. Calling it again has no effect; `deactivate` undoes it.

    Args:
        version: the version of Hugging Face `kernels` to report. By default it is determined when
            it is first needed: `KERNELS_COMPAT_VERSION`, or else the lowest version that the
            installed transformers accepts, or else 0.17.2.

    Raises:
        ValueError: the version does not have the form of one.
        CompatError: it is too late: Hugging Face `kernels` has been imported, transformers has
            found out that it is missing, or another version has been reported already. Or the
            wheel of `kernels-core compat wheel` is installed, which needs no activation.

    Example:
        >>> import kernels_core.compat
        >>> kernels_core.compat.activate()
        >>> import importlib.metadata
        >>> importlib.metadata.version("kernels")
        '0.1...'
        >>> kernels_core.compat.deactivate()
    """
    if _FINDER in sys.meta_path:
        if version is not None:
            _FINDER.settle(version)
        return
    if version is not None:
        check_version(version)
    _refuse_if_imported()
    _refuse_if_found_missing()
    _refuse_beside_the_wheel()
    _FINDER.version = version
    sys.meta_path.insert(0, _FINDER)
    use_bundled_by_default(True)


def deactivate() -> None:
    """Undo `activate`. Programs keep what they have imported.

    Example:
        >>> import kernels_core.compat
        >>> kernels_core.compat.deactivate()
    """
    if _FINDER not in sys.meta_path:
        return
    sys.meta_path.remove(_FINDER)
    use_bundled_by_default(False)
    for name, module in list(sys.modules.items()):
        if is_name(name) and is_ours(module):
            del sys.modules[name]


def is_active() -> bool:
    """Whether `activate` was called and not undone."""
    return _FINDER in sys.meta_path


def reported_version() -> str:
    """The version that is reported; decided by this call, if it was not before."""
    return _FINDER.settled()


def is_name(module: str) -> bool:
    """Whether a module is `kernels` or below it."""
    return module == NAME or module.startswith(f"{NAME}.")


def is_ours(module: ModuleType) -> bool:
    """Whether a module belongs to the package that `activate` provides."""
    return str(getattr(module, "__file__", None) or "").startswith(str(FOLDER))


def _refuse_if_imported() -> None:
    module = sys.modules.get(NAME)
    if module is not None and not is_ours(module):
        raise CompatError(
            f"'kernels' has been imported from {getattr(module, '__file__', 'elsewhere')} already, "
            f"so part of the program would use that package. Call kernels_core.compat.activate() "
            f"first thing, before anything imports 'kernels' (transformers does)."
        )


def _refuse_if_found_missing() -> None:
    asked = getattr(sys.modules.get(_AVAILABILITY), "is_kernels_available", None)
    info = getattr(asked, "cache_info", None)
    if asked is not None and (info is None or info().currsize) and not asked():
        raise CompatError(
            "transformers has looked for 'kernels' before, did not find a version that it can use, "
            "and remembers that. Call kernels_core.compat.activate() before importing transformers."
        )


def _refuse_beside_the_wheel() -> None:
    spec = PathFinder.find_spec(NAME)
    folder = Path(spec.origin).parent.parent if spec and spec.origin else None
    found = list(folder.glob(f"{NAME}-*+{LOCAL}.dist-info")) if folder else []
    if found:
        version = found[0].name.removeprefix(f"{NAME}-").removesuffix(".dist-info")
        raise CompatError(
            f"The distribution {NAME} {version} is installed, which provides '{NAME}' "
            f"already. Do not call activate(), or pip uninstall {NAME} first."
        )


class _Finder:
    """Finds the package `kernels` and its distribution."""

    def __init__(self) -> None:
        self.version: str | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Called by the import system for every module that is not imported yet."""
        return PathFinder.find_spec(NAME, [str(FOLDER)]) if fullname == NAME else None

    def find_distributions(self, context: Any = None) -> Iterator[Distribution]:
        """Called by importlib.metadata for one distribution, or for all."""
        name = getattr(context, "name", None)
        if name is None or name.lower() == NAME:
            from kernels_core.compat.distribution import KernelsDistribution

            yield KernelsDistribution(self.settled())

    def settled(self) -> str:
        if self.version is None:
            self.version = decide().version
        return self.version

    def settle(self, version: str) -> None:
        if self.version is None:
            self.version = version
        if self.version != version:
            raise CompatError(
                f"'kernels' is active as version {self.version} already; call "
                f"kernels_core.compat.deactivate() before activating version {version}."
            )


_FINDER = _Finder()
