"""A kernel repository on disk: its builds, the one to use, and the package in it.

A path that a user names is trusted: symbolic links are followed.
"""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from kernels_core import environment
from kernels_core.errors import RepositoryNotFoundError
from kernels_core.host import HostInfo
from kernels_core.plugins import Backend
from kernels_core.repository.builds import Build, BuildSelector, make_build, subdirectories
from kernels_core.repository.metadata import Metadata, read_metadata
from kernels_core.variants.fit import BuildDecision
from kernels_core.variants.names import is_variant_name

_METADATA = "metadata.json"


def _absolute(path: str | os.PathLike[str]) -> Path:
    return environment.expand_home(path, "path").absolute()


@attrs.frozen
class LocalRepository:
    """A kernel repository on disk. Making one does no I/O.

    Attributes:
        path: the repository, which holds `build/<variant>/`, on disk or in a zip archive. The
            `build` directory itself and a single variant directory are accepted too; the latter has
            any name when its `metadata.json` says for which backend it was made.
        package_name: the package inside the variant directories of older repositories; None finds
            it by the names of kernel and repository.
    """

    path: Path = attrs.field(converter=_absolute)
    package_name: str | None = None

    def builds(self) -> tuple[str, ...]:
        """The names of the builds, in order; some may be no valid variant names."""
        return self._locate()[1]

    def _locate(self, path: Path | None = None) -> tuple[Path, tuple[str, ...], bool]:
        """The directory of the variant directories, their names, whether only metadata has them."""
        path = path or self.path
        root = path / "build"
        try:
            if root.is_dir():
                return root, subdirectories(root), False
            names = subdirectories(path)
        except OSError as error:
            # Imported here, because few repositories are in an archive.
            from kernels_core.repository.zipped import copy_of

            copy = copy_of(path)
            if copy is not None:
                return self._locate(copy)
            raise self._not_found(
                f"There is no kernel repository at {self.path}: {error.strerror}. Pass the "
                f"directory that holds 'build'."
            ) from error
        if any(map(is_variant_name, names)):
            return path, names, False
        named = is_variant_name(path.name)
        if named or (path / _METADATA).is_file():
            return path.parent, (path.name,), not named
        raise self._not_found(
            f"{self.path} is not a kernel repository: it has no directory 'build' with one "
            f"directory per variant, such as 'build/torch-cpu', and no {_METADATA} that says for "
            f"which backend it was made."
        )

    def decisions(
        self, backend: Backend, device_index: int | None = None, *, host: HostInfo | None = None
    ) -> tuple[BuildDecision, ...]:
        """Decide about every build; see `BuildSelector.decisions`."""
        root, names, by_metadata = self._locate()
        selector = BuildSelector(str(self.path), backend, device_index, host, by_metadata)
        return selector.decisions(names, lambda name: self._metadata(root / name))

    def best_build(
        self, backend: Backend, device_index: int | None = None, *, host: HostInfo | None = None
    ) -> Build:
        """The best build that fits; see `BuildSelector.select_best`. Imports nothing."""
        root, names, by_metadata = self._locate()
        selector = BuildSelector(str(self.path), backend, device_index, host, by_metadata)
        variant, metadata = selector.select_best(names, lambda name: self._metadata(root / name))
        return make_build(
            root / variant,
            metadata,
            repository=str(self.path),
            name=self.path.name,
            package_name=self.package_name,
        )

    def _metadata(self, variant_dir: Path) -> Metadata | None:
        return read_metadata(variant_dir / _METADATA, repository=str(self.path))

    def _not_found(self, message: str) -> RepositoryNotFoundError:
        return RepositoryNotFoundError(message, repository=str(self.path))
