"""Strict reading of `metadata.json`, which describes one build of a kernel.

Every key is optional, because builds of different ages carry different ones; a key that is there
must be right. Unknown keys are allowed.
"""

from __future__ import annotations

import base64
import binascii
import json
import keyword
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import attrs

from kernels_core.errors import MetadataError

_DIGEST_SIZES = {"sha256": 32, "sha512": 64}
_NAME = re.compile(r"[a-z][-a-z0-9]*[a-z0-9]")
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_MINIMUM_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})")


@attrs.frozen
class KernelDependency:
    """Another kernel that a kernel needs; exactly one of version and revision is given.

    Attributes:
        repo_id: the repository, "org/name".
        version: its major version.
        revision: branch, tag or commit.
    """

    repo_id: str
    version: int | None = None
    revision: str | None = None

    def __str__(self) -> str:
        wanted = f"version {self.version}" if self.revision is None else f"at {self.revision}"
        return f"{self.repo_id} ({wanted})"


@attrs.frozen
class BackendMetadata:
    """What a build was made for.

    Attributes:
        type: name of the backend.
        archs: the architectures that native code was compiled for; empty when not said.
    """

    type: str
    archs: tuple[str, ...] = ()


@attrs.frozen
class Digest:
    """The hashes of a build's files.

    Attributes:
        algorithm: "sha256" or "sha512".
        files: pairs of path, relative to the variant directory, and raw hash.
    """

    algorithm: str
    files: tuple[tuple[str, bytes], ...]


@attrs.frozen
class Metadata:
    """A valid `metadata.json`; None and empty stand for keys that it lacks.

    Attributes:
        name: name of the kernel.
        id: namespace of its functions in `torch.ops`.
        version: major version.
        license: license of the kernel.
        python_depends: Python packages that it needs, as requirement specifiers.
        kernel_depends: other kernels that it needs.
        backend: what the build was made for.
        upstream: repositories that the kernel was taken from.
        source: repository that it was built from.
        digest: the hashes of the build's files.
        kernels_minver: version of the reference loader that is needed at least. Says nothing about
            this package, which does not follow the reference loader's versions.
    """

    name: str | None = None
    id: str | None = None
    version: int | None = None
    license: str | None = None
    python_depends: tuple[str, ...] = ()
    kernel_depends: tuple[KernelDependency, ...] = ()
    backend: BackendMetadata | None = None
    upstream: tuple[str, ...] = ()
    source: str | None = None
    digest: Digest | None = None
    kernels_minver: tuple[int, int, int] | None = None


def read_metadata(path: Path, *, repository: str | None = None) -> Metadata | None:
    """Read a `metadata.json`.

    Args:
        path: the file.
        repository: what to call the repository in errors; the file's directory by default.

    Returns:
        What it says, or None when there is no such file.

    Raises:
        MetadataError: the file cannot be read, is not JSON, or breaks the schema.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "metadata.json")
        >>> _ = path.write_text('{"name": "activation", "version": 1}')
        >>> read_metadata(path).name
        'activation'
    """
    try:
        return _metadata(_parse(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        problem, key = f"cannot be read: {error}", ""
    except _InvalidError as error:
        problem, key = str(error), error.key
    except RecursionError:
        problem, key = "is nested too deeply", ""
    raise MetadataError(
        f"{path}: {problem}",
        repository=repository or str(path.parent),
        path=path,
        key=key,
    )


class _InvalidError(Exception):
    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _fail(key: str, value: object, expected: str) -> NoReturn:
    shown = repr(value)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    raise _InvalidError(key, f"key {key!r} must be {expected}, got {shown}.")


# JSON


class _Object(dict[str, Any]):
    """A JSON object that remembers a key that came twice, until its place in the file is known."""

    duplicate: str | None = None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    result = _Object()
    for key, value in pairs:
        if key in result:
            result.duplicate = key
        result[key] = value
    return result


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _parse(content: bytes) -> Any:
    # json.loads would skip a BOM and guess UTF-16 if it were given the bytes.
    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except ValueError as error:
        raise _InvalidError("", f"is not JSON in UTF-8 without a BOM: {error}") from None
    _refuse_duplicates(value, "")
    return value


def _refuse_duplicates(value: Any, key: str) -> None:
    if isinstance(value, _Object):
        if value.duplicate is not None:
            duplicate = _join(key, value.duplicate)
            raise _InvalidError(duplicate, f"key {duplicate!r} is there twice.")
        for name, item in value.items():
            _refuse_duplicates(item, _join(key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_duplicates(item, f"{key}[{index}]")


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


# The schema. Each function reads one value and names its key when the value is wrong.

_T = TypeVar("_T")
_Reader = Callable[[Any, str], _T]


def _metadata(value: Any) -> Metadata:
    if not isinstance(value, dict):
        raise _InvalidError("", f"must hold a JSON object, got {type(value).__name__}.")
    if value.get("provenance") is not None:
        _mapping(value["provenance"], "provenance")  # Nothing reads its content yet.
    return Metadata(
        name=_optional(value, "name", _kernel_name),
        id=_optional(value, "id", _identifier),
        version=_optional(value, "version", _version),
        license=_optional(value, "license", _text),
        python_depends=_optional(value, "python-depends", _list_of(_requirement)) or (),
        kernel_depends=_optional(value, "kernel-depends", _list_of(_kernel_dependency)) or (),
        backend=_optional(value, "backend", _backend),
        upstream=_optional(value, "upstream", _one_or_more_texts, nullable=True) or (),
        source=_optional(value, "source", _text, nullable=True),
        digest=_optional(value, "digest", _digest, nullable=True),
        kernels_minver=_optional(value, "kernels-minver", _minimum_version, nullable=True),
    )


def _optional(
    mapping: dict[str, Any],
    name: str,
    read: _Reader[_T],
    inside: str = "",
    *,
    nullable: bool = False,
) -> _T | None:
    # Writers of nullable keys spell an absent value as null.
    if name not in mapping or (nullable and mapping[name] is None):
        return None
    return read(mapping[name], _join(inside, name))


def _required(mapping: dict[str, Any], name: str, read: _Reader[_T], inside: str) -> _T:
    if name not in mapping:
        raise _InvalidError(_join(inside, name), f"key {_join(inside, name)!r} is missing.")
    return read(mapping[name], _join(inside, name))


def _list_of(read: _Reader[_T]) -> _Reader[tuple[_T, ...]]:
    def read_list(value: Any, key: str) -> tuple[_T, ...]:
        if not isinstance(value, list):
            _fail(key, value, "a list")
        return tuple(read(item, f"{key}[{index}]") for index, item in enumerate(value))

    return read_list


def _mapping(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _fail(key, value, "an object")
    return value


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value:
        _fail(key, value, "a text that is not empty")
    return value


def _one_or_more_texts(value: Any, key: str) -> tuple[str, ...]:
    return _list_of(_text)(value, key) if isinstance(value, list) else (_text(value, key),)


def _kernel_name(value: Any, key: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        _fail(
            key,
            value,
            "at least two lower-case letters, digits or dashes, the first a letter and the last "
            "no dash",
        )
    return value


def _identifier(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.isidentifier() or keyword.iskeyword(value):
        _fail(key, value, "a Python identifier")
    return value


def _version(value: Any, key: str) -> int:
    if type(value) is not int or value < 0:
        _fail(key, value, "an integer, 0 or greater")
    return value


def _minimum_version(value: Any, key: str) -> tuple[int, int, int]:
    match = _MINIMUM_VERSION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        _fail(key, value, "a version with three numbers such as '0.12.0'")
    return int(match[1]), int(match[2]), int(match[3])


def _requirement(value: Any, key: str) -> str:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(_text(value, key))
    except InvalidRequirement:
        requirement = None
    # The text ends up in the advice to install it, so it must not point anywhere.
    if requirement is None or requirement.url or requirement.extras or requirement.marker:
        _fail(key, value, "the name of a Python package, at most with a range of versions")
    return str(requirement)


def _kernel_dependency(value: Any, key: str) -> KernelDependency:
    mapping = _mapping(value, key)
    repo_id = _required(mapping, "repo-id", _repo_id, key)
    version = _optional(mapping, "version", _version, key)
    revision = _optional(mapping, "revision", _text, key)
    if (version is None) == (revision is None):
        _fail(key, value, "an object with either 'version' or 'revision'")
    return KernelDependency(repo_id, version, revision)


def _repo_id(value: Any, key: str) -> str:
    if not isinstance(value, str) or not _REPO_ID.fullmatch(value):
        _fail(key, value, "a repository id such as 'org/name'")
    return value


def _backend(value: Any, key: str) -> BackendMetadata:
    mapping = _mapping(value, key)
    return BackendMetadata(
        type=_required(mapping, "type", _text, key),
        archs=_optional(mapping, "archs", _list_of(_text), key, nullable=True) or (),
    )


def _digest(value: Any, key: str) -> Digest:
    mapping = _mapping(value, key)
    algorithm = _required(mapping, "algorithm", _text, key)
    if algorithm not in _DIGEST_SIZES:
        _fail(_join(key, "algorithm"), algorithm, " or ".join(map(repr, _DIGEST_SIZES)))
    size = _DIGEST_SIZES[algorithm]
    files_key = _join(key, "files")
    files = []
    for path, text in _required(mapping, "files", _mapping, key).items():
        _check_relative(path, files_key)
        files.append((path, _hash(text, _join(files_key, path), size)))
    return Digest(algorithm, tuple(files))


def _check_relative(path: str, key: str) -> None:
    if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        _fail(_join(key, path), path, "the path of a file inside the variant directory, with '/'")


def _hash(value: Any, key: str, size: int) -> bytes:
    try:
        raw = base64.b64decode(_text(value, key), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size:
        _fail(key, value, f"{size} bytes in base64")
    return raw
