"""The kernels that a project requires: `[tool.kernels.dependencies]` in its `pyproject.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from kernels_core.errors import ProjectError, VersionNotFoundError
from kernels_core.hub.versions import DEFAULT_REVISION, Refs, choose_ref
from kernels_core.locks.lock import LockedKernel
from kernels_core.repository.metadata import read_repo_id
from kernels_core.repository.names import check_version
from kernels_core.repository.schema import (
    InvalidError,
    fail,
    join,
    parse_toml,
    read_object,
    read_text,
)

_TABLE = "tool.kernels.dependencies"


@attrs.frozen
class Requirement:
    """A kernel that a project requires.

    Attributes:
        repo_id: the repository, "org/name".
        version: a PEP 440 specifier over version tags or a major version; None for a revision.
        revision: a branch, tag or commit; with no version either, None means the default branch.
    """

    repo_id: str
    version: int | str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        revision = self.revision or DEFAULT_REVISION
        return f"{self.repo_id} ({revision if self.version is None else f'version {self.version}'})"

    def accepts(self, kernel: LockedKernel) -> bool:
        """Whether a locked kernel meets the requirement."""
        at = kernel.dependency
        if at.repo_id != self.repo_id:
            return False
        if not isinstance(self.version, str):
            return (at.version, at.revision) == (self.version, self.revision)
        # A specifier is locked as the tag that it selected.
        tags = {} if at.revision is None else {at.revision: kernel.commit}
        try:
            choose_ref(Refs({}, tags), repo_id=self.repo_id, version=self.version)
        except VersionNotFoundError:
            return False
        return True


_FORMS = "a kernel is named as org/name, org/name@1, 'org/name@>=0.1,<0.2' or org/name@main"


def parse_requirement(text: str) -> Requirement:
    """Read "org/name" or "org/name@AT": a major version, PEP 440 specifier or revision.

    Raises a ValueError for another form.
    """
    name, separator, at = text.partition("@")
    try:
        repo_id = read_repo_id(name, "repository")
    except InvalidError as error:
        raise ValueError(f"{text!r}: {error} In full, {_FORMS}.") from None
    if not separator:
        return Requirement(repo_id)
    if at.isascii() and at.isdecimal():
        return Requirement(repo_id, int(at))
    if not at.strip():
        raise ValueError(f"{text!r}: nothing follows the @; {_FORMS}.")
    # No branch or tag starts with any of these.
    if at[0] not in "<>=!~":
        return Requirement(repo_id, revision=at)
    try:
        check_version(at)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    return Requirement(repo_id, at)


def read_project(path: Path) -> tuple[Requirement, ...]:
    """Read the kernels that a project requires, by repository.

    The path is the project's directory or its `pyproject.toml`. Raises a ProjectError when there is
    no such file, or when it is malformed.
    """
    file = path if path.suffix == ".toml" else path / "pyproject.toml"
    try:
        table: Any = parse_toml(file.read_text("utf-8"))
        for name in _TABLE.split("."):
            table = read_object(table.get(name, {}), _TABLE)
        requirements = [
            _requirement(name, value, join(_TABLE, name)) for name, value in table.items()
        ]
    except FileNotFoundError:
        problem = "does not exist. Pass the directory of a project with a pyproject.toml."
        raise _error(file, problem) from None
    except InvalidError as error:
        raise _error(file, str(error), error.key) from None
    except (OSError, ValueError) as error:
        raise _error(file, f"cannot be read: {error}") from error
    return tuple(sorted(requirements, key=lambda kernel: kernel.repo_id))


def _error(file: Path, problem: str, key: str = "") -> ProjectError:
    return ProjectError(f"{file}: {problem}", path=file, key=key)


def _requirement(name: str, value: Any, key: str) -> Requirement:
    repo_id = read_repo_id(name, key)
    match value:
        case {"version": version, **others} if not others:
            return Requirement(repo_id, _version(version, join(key, "version")))
        case {"revision": revision, **others} if not others:
            return Requirement(repo_id, revision=read_text(revision, join(key, "revision")))
        case dict():
            return fail(key, value, "a table with either 'version' or 'revision' alone")
        case _:
            return Requirement(repo_id, _version(value, key))


def _version(value: Any, key: str) -> int | str:
    try:
        check_version(value)
    except (TypeError, ValueError) as error:
        raise InvalidError(key, f"key {key!r}: {error}") from None
    version: int | str = value
    return version
