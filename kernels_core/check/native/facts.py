"""What the rules are given of a file of native code, whichever format it has."""

from __future__ import annotations

from pathlib import Path

import attrs

from kernels_core.check.subject import Build


@attrs.frozen(kw_only=True)
class Image:
    """What every format says of a library; what only one says stands in its subclass.

    Attributes:
        cpu: as variant names spell it, such as "x86_64" or "aarch64"; else the format's own word.
        os: as variant names spell it: "linux", "darwin" or "windows".
        libraries: the dynamic libraries that it needs, as it names them.
        imported: the symbols that it takes from elsewhere, in C's spelling (without the underscore
            that macOS puts before each).
        exported: the symbols that it gives to others, in the same spelling.
    """

    cpu: str
    os: str
    libraries: tuple[str, ...]
    imported: tuple[str, ...] = attrs.field(repr=False)
    exported: tuple[str, ...] = attrs.field(repr=False)


@attrs.frozen
class NativeModule:
    """A file of native code, or one architecture of a file that holds several.

    Attributes:
        path: relative to the repository.
        file: where it lies.
        build: the build that it is in; None for a file that is checked by itself.
        image: what was read of it; None when it could not be read.
        unreadable: why it could not be read; "" when it could.
    """

    path: str
    file: Path
    build: Build | None
    image: Image | None
    unreadable: str = ""
