"""Strict reading of untrusted JSON and TOML: the content is valid, or an error names the key.

A reader is a function of a value and of its key. It returns what the program needs, or calls
`fail`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

_T = TypeVar("_T")
Reader = Callable[[Any, str], _T]

# A generous multiple of what any real file needs. JSON in memory takes many times its text, so a
# file of any size could fill the memory of a program that reads a repository.
MAX_BYTES = 8 * 1024 * 1024


class InvalidError(Exception):
    """A file is malformed; callers turn it into an error of their own.

    Attributes:
        key: the offending key, or "" for the file as a whole.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def read_file(path: Path, read: Callable[[Any], _T]) -> _T:
    """Read a JSON file; raises FileNotFoundError, and InvalidError for any other problem."""
    return read_content(read_bytes(path), read)


def read_bytes(path: Path) -> bytes:
    """Read at most as much of a file as `read_content` accepts; raises as `read_file` does."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidError("", f"cannot be read: {error}") from error


def read_content(content: bytes, read: Callable[[Any], _T]) -> _T:
    """Read the content of a JSON file; see `read_file`."""
    if len(content) > MAX_BYTES:
        raise InvalidError("", f"is larger than {MAX_BYTES} bytes.")
    try:
        return read(_parse(content))
    except RecursionError:
        raise InvalidError("", "is nested too deeply.") from None


def fail(key: str, value: object, expected: str) -> NoReturn:
    """Raise an InvalidError: the key must be what was expected."""
    shown = repr(value)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    raise InvalidError(key, f"key {key!r} must be {expected}, got {shown}.")


def join(key: str, name: str) -> str:
    """The key of something inside the object at `key`."""
    return f"{key}.{name}" if key else name


# JSON


class _Object(dict[str, Any]):
    """A JSON object that remembers a key that occurs twice, until its place is known."""

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
        raise InvalidError("", f"is not JSON in UTF-8 without a BOM: {error}") from None
    _refuse_duplicates(value, "")
    return value


def _refuse_duplicates(value: Any, key: str) -> None:
    if isinstance(value, _Object):
        if value.duplicate is not None:
            duplicate = join(key, value.duplicate)
            raise InvalidError(duplicate, f"key {duplicate!r} occurs twice.")
        for name, item in value.items():
            _refuse_duplicates(item, join(key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_duplicates(item, f"{key}[{index}]")


# TOML


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML document; raises a ValueError with the line when it is malformed."""
    # Takes 3 ms, and few programs read any.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    tables: dict[str, Any] = tomllib.loads(text)
    return tables


# Readers


def optional(
    mapping: dict[str, Any],
    name: str,
    read: Reader[_T],
    inside: str = "",
    *,
    nullable: bool = False,
) -> _T | None:
    """Read a key that may be missing, and with `nullable` may also be null."""
    # Writers of nullable keys spell an absent value as null.
    if name not in mapping or (nullable and mapping[name] is None):
        return None
    return read(mapping[name], join(inside, name))


def required(mapping: dict[str, Any], name: str, read: Reader[_T], inside: str) -> _T:
    """Read a key that must exist."""
    if name not in mapping:
        raise InvalidError(join(inside, name), f"key {join(inside, name)!r} is missing.")
    return read(mapping[name], join(inside, name))


def list_of(read: Reader[_T]) -> Reader[tuple[_T, ...]]:
    """A reader of lists whose items `read` reads."""

    def read_list(value: Any, key: str) -> tuple[_T, ...]:
        if not isinstance(value, list):
            fail(key, value, "a list")
        return tuple(read(item, f"{key}[{index}]") for index, item in enumerate(value))

    return read_list


def read_object(value: Any, key: str) -> dict[str, Any]:
    """Read an object with any keys."""
    if not isinstance(value, dict):
        fail(key, value, "an object")
    return value


def read_text(value: Any, key: str) -> str:
    """Read a non-empty string."""
    if not isinstance(value, str) or not value:
        fail(key, value, "a non-empty string")
    return value
