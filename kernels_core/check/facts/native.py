"""Native code as rules receive it, whatever format it has; the readers are in `native/`."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from kernels_core.check.facts.repository import Build
from kernels_core.variants.names import Variant

_LIBPYTHON = re.compile(
    r"(?:.*/)?libpython[0-9][^/]*|(?:.*/)?Python3?\.framework/.*/Python3?", re.ASCII
)


@attrs.frozen(kw_only=True)
class Image:
    """The facts about a library that every format has; those of one format are in subclasses.

    Attributes:
        cpu: as in variant names, such as "x86_64" or "aarch64"; otherwise the format's own name.
        os: as in variant names: "linux", "darwin" or "windows".
        libraries: the dynamic libraries that it needs, by the names that it uses.
        imported: the symbols that it imports, in C's spelling (without the underscore that macOS
            puts before each).
        optional: the imported symbols that may be missing (weak ones).
        exported: the symbols that it exports, in the same spelling.
        device_code: the accelerator architectures that it has code for, spelled like
            `backend.archs` in the metadata; empty where it has none or they cannot be read.
    """

    cpu: str
    os: str
    libraries: tuple[str, ...]
    imported: tuple[str, ...] = attrs.field(repr=False)
    optional: frozenset[str] = attrs.field(repr=False, default=frozenset())
    exported: tuple[str, ...] = attrs.field(repr=False)
    device_code: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """The imported symbols without which it does not load."""
        return tuple(name for name in self.imported if name not in self.optional)


@attrs.frozen
class VersionNeed:
    """A symbol version of another library that a library needs.

    Attributes:
        library: the other library, such as "libc.so.6".
        version: the version, such as "GLIBC_2.28".
        symbols: the imported symbols with it; none if it requires a feature of the loader.
    """

    library: str
    version: str
    symbols: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ElfImage(Image):
    """The facts about a library in ELF format.

    Attributes:
        run_paths: where the loader searches for libraries: the parts of RPATH and RUNPATH.
        version_needs: the versions of other libraries that it needs.
        unversioned: the imported symbols that have no version and may not be missing.
        relative_relocations: whether it has packed relative relocations (DT_RELR).
        executable_stack: whether it requires an executable stack.
        text_relocations: whether the loader has to write into its code.
    """

    run_paths: tuple[str, ...] = ()
    version_needs: tuple[VersionNeed, ...] = ()
    unversioned: tuple[str, ...] = attrs.field(repr=False, default=())
    relative_relocations: bool = False
    executable_stack: bool = False
    text_relocations: bool = False


@attrs.frozen(kw_only=True)
class MachOImage(Image):
    """The facts about a library in Mach-O format.

    Attributes:
        platforms: the oldest supported release of each system: `{"macOS": (15, 0)}`.
        run_paths: where the loader searches for libraries named `@rpath/...`.
        install_name: the name that libraries linked against it record; "" when it has none.
        signed: whether it has a code signature, valid or not.
    """

    platforms: dict[str, tuple[int, int]]
    run_paths: tuple[str, ...] = ()
    install_name: str = ""
    signed: bool = False


@attrs.frozen(kw_only=True)
class PeImage(Image):
    """The facts about a library in PE format.

    Attributes:
        by_number: the libraries from which it imports symbols by ordinal.
    """

    by_number: tuple[str, ...] = ()


@attrs.frozen
class NativeModule:
    """A file of native code, or one architecture of a file that has several.

    Attributes:
        path: relative to the repository.
        file: its path on disk.
        build: the build that it is in; None for a file that is checked by itself.
        image: what was read of it; None when it could not be read.
        unreadable: why it could not be read; "" when it could.
        cpus: the CPUs of all architectures in the file, in its order.
    """

    path: str
    file: Path
    build: Build | None
    image: Image | None
    unreadable: str = ""
    cpus: tuple[str, ...] = ()

    @property
    def variant(self) -> Variant | None:
        """The variant of its build; None for a file that is checked by itself."""
        return self.build.variant if self.build else None

    @property
    def required(self) -> tuple[str, ...]:
        """The imported symbols without which it does not load."""
        return self.image.required if self.image else ()

    @property
    def is_first(self) -> bool:
        """Whether it is the first of its file, so that problems of the file are reported once."""
        return self.image is None or not self.cpus or self.image.cpu == self.cpus[0]


@attrs.frozen
class NativeBuild:
    """All native code of a build.

    Attributes:
        build: the build.
        device_code: the accelerator architectures that its files have code for.
    """

    build: Build
    device_code: tuple[str, ...] = ()

    @property
    def claimed(self) -> tuple[str, ...]:
        """The architectures that its metadata lists."""
        metadata = self.build.metadata
        return metadata.backend.archs if metadata and metadata.backend else ()


def is_libpython(library: str) -> bool:
    """Whether a dynamic library is Python itself, on Linux or macOS."""
    return _LIBPYTHON.fullmatch(library) is not None
