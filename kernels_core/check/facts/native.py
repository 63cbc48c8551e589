"""What the rules are given of a file of native code, whichever format it has."""

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
    """What every format says of a library; what only one says stands in its subclass.

    Attributes:
        cpu: as variant names spell it, such as "x86_64" or "aarch64"; else the format's own word.
        os: as variant names spell it: "linux", "darwin" or "windows".
        libraries: the dynamic libraries that it needs, as it names them.
        imported: the symbols that it takes from elsewhere, in C's spelling (without the underscore
            that macOS puts before each).
        optional: those of the imported that may be missing (weak ones).
        exported: the symbols that it gives to others, in the same spelling.
        device_code: the architectures of accelerators that it brings code for, in the spelling of
            `backend.archs` in the metadata; empty where it brings none or they cannot be read.
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
    """A version of a library that a library needs.

    Attributes:
        library: the library, such as "libc.so.6".
        version: the version, such as "GLIBC_2.28".
        symbols: the imported symbols that need it; none when it stands for a feature of the loader.
    """

    library: str
    version: str
    symbols: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ElfImage(Image):
    """What ELF says of a library beyond what every format says.

    Attributes:
        run_paths: where the loader is to look for the libraries: the parts of RPATH and RUNPATH.
        version_needs: the versions of libraries that it needs.
        unversioned: the imported symbols that need no version and may not be missing.
        relative_relocations: whether it has relocations in the packed form (DT_RELR).
        executable_stack: whether it wants a stack that code can be run on.
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
    """What Mach-O says of a library beyond what every format says.

    Attributes:
        platforms: the oldest release that it is for, of each system: `{"macOS": (15, 0)}`.
        run_paths: where the loader is to look for the libraries named `@rpath/...`.
        install_name: what libraries that are linked against it note of it; "" when nothing.
        signed: whether it has a code signature; what is in that is not looked at.
    """

    platforms: dict[str, tuple[int, int]]
    run_paths: tuple[str, ...] = ()
    install_name: str = ""
    signed: bool = False


@attrs.frozen(kw_only=True)
class PeImage(Image):
    """What PE says of a library beyond what every format says.

    Attributes:
        by_number: the libraries of which it takes symbols by their numbers, which are no names.
    """

    by_number: tuple[str, ...] = ()


@attrs.frozen
class NativeModule:
    """A file of native code, or one architecture of a file that holds several.

    Attributes:
        path: relative to the repository.
        file: where it lies.
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
        """What the name of its build says; None for a file that is checked by itself."""
        return self.build.variant if self.build else None

    @property
    def required(self) -> tuple[str, ...]:
        """The imported symbols without which it does not load."""
        return self.image.required if self.image else ()

    @property
    def is_first(self) -> bool:
        """Whether it is the first of its file, to say once what concerns the whole file."""
        return self.image is None or not self.cpus or self.image.cpu == self.cpus[0]


@attrs.frozen
class NativeBuild:
    """The native code of a build, all files together.

    Attributes:
        build: the build.
        device_code: the architectures of accelerators that its files bring code for.
    """

    build: Build
    device_code: tuple[str, ...] = ()

    @property
    def claimed(self) -> tuple[str, ...]:
        """The architectures that its metadata says it was compiled for."""
        metadata = self.build.metadata
        return metadata.backend.archs if metadata and metadata.backend else ()


def is_libpython(library: str) -> bool:
    """Whether a dynamic library is Python itself, on Linux or macOS.

    Args:
        library: as a module needs it.

    Example:
        >>> is_libpython("libpython3.11.so.1.0"), is_libpython("libpythonic.so")
        (True, False)
    """
    return _LIBPYTHON.fullmatch(library) is not None
