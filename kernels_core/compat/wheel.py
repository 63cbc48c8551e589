"""A small distribution `kernels` that depends on kernels-core and re-exports it.

For where a resolver, a type checker or a frozen program must find ordinary files, and no program
can call `activate` first.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from kernels_core.compat.activation import FOLDER, LOCAL, NAME
from kernels_core.compat.version import check_version

# The oldest time that a zip archive can hold, so that equal content makes equal files.
_TIME = (1980, 1, 1, 0, 0, 0)


def write_wheel(version: str, directory: Path) -> Path:
    """Write the wheel.

    Args:
        version: the version of Hugging Face `kernels` to report, for example "0.18.2".
        directory: where to write it; created if it does not exist.

    Returns:
        Its path, for example `kernels-0.18.2+core-py3-none-any.whl`.

    Raises:
        ValueError: the version is not one of Hugging Face `kernels`.
        OSError: the directory cannot be written.

    Example:
        >>> import tempfile
        >>> write_wheel("0.18.2", Path(tempfile.mkdtemp())).name
        'kernels-0.18.2+core-py3-none-any.whl'
    """
    check_version(version)
    full = f"{version}+{LOCAL}"
    files = dict(_files(full))
    info = f"{NAME}-{full}.dist-info"
    record = f"{info}/RECORD"
    lines = [f"{name},{_hash(content)},{len(content)}" for name, content in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{NAME}-{full}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), content)
    return path


def _files(version: str) -> Iterator[tuple[str, bytes]]:
    package = FOLDER / NAME
    for file in sorted(package.rglob("*.py")):
        yield f"{NAME}/{file.relative_to(package).as_posix()}", file.read_bytes()
    yield f"{NAME}/py.typed", b""
    info = f"{NAME}-{version}.dist-info"
    yield f"{info}/METADATA", _metadata(version).encode()
    yield f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: kernels-core\n" + _TAGS
    yield f"{info}/top_level.txt", f"{NAME}\n".encode()
    yield f"{info}/licenses/LICENSE", _license().encode()


_TAGS = b"Root-Is-Purelib: true\nTag: py3-none-any\n"


def _metadata(version: str) -> str:
    core = metadata.version("kernels-core")
    return (
        f"Metadata-Version: 2.4\n"
        f"Name: {NAME}\n"
        f"Version: {version}\n"
        f"Summary: kernels-core as a replacement for Hugging Face kernels\n"
        f"License-Expression: Apache-2.0\n"
        f"License-File: LICENSE\n"
        f"Requires-Python: >=3.10\n"
        f"Requires-Dist: kernels-core>={core}\n"
        f"Description-Content-Type: text/markdown\n"
        f"\n"
        f"This distribution replaces Hugging Face `kernels`: `import kernels` imports\n"
        f"kernels-core. Uninstall it, and install `kernels` again, to undo that.\n"
    )


def _license() -> str:
    text = metadata.distribution("kernels-core").read_text("licenses/LICENSE")
    if text is None:
        raise FileNotFoundError("kernels-core is installed without its file licenses/LICENSE.")
    return text


def _hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
