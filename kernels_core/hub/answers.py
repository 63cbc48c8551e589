"""Reading the Hub's answers. They are untrusted input: malformed ones are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import parse_qsl, urlsplit

import attrs

from kernels_core.errors import HubAnswerError
from kernels_core.hub.transport import TransientError, read_all
from kernels_core.hub.versions import Refs, is_commit
from kernels_core.repository import paths, schema
from kernels_core.repository.hashes import FileHash

if TYPE_CHECKING:
    from httpx2 import Response

    from kernels_core.hub.transport import Answer

T = TypeVar("T")

BUILD_FOLDER = "build"

_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@attrs.frozen
class TreeFile:
    """A file of a commit.

    Attributes:
        path: its path in the repository, such as "build/torch-cpu/__init__.py".
        size: in bytes.
        oid: its Git SHA-1; for a file in large file storage, that of its pointer.
        lfs_sha256: the SHA-256 of a file in large file storage, else None.
    """

    path: str
    size: int
    oid: str
    lfs_sha256: str | None = None

    @property
    def content_hash(self) -> FileHash:
        """The hash of its content, the strongest that the Hub has."""
        if self.lfs_sha256 is not None:
            return FileHash("sha256", self.lfs_sha256)
        return FileHash("git-sha1", self.oid)


@attrs.frozen
class TreePage:
    """A page of the files of a commit.

    Attributes:
        files: those below `build`.
        unsafe: other files, with paths that must not be written anywhere.
        following: the query for the next page; None on the last one.
    """

    files: tuple[TreeFile, ...]
    unsafe: tuple[str, ...]
    following: dict[str, str] | None


def read_refs(answer: Answer) -> Refs:
    """Read the branches and tags of a repository."""
    return _parsed(answer, refs_from_json)


def refs_from_json(value: Any, key: str) -> Refs:
    """Read branches and tags as the Hub writes them; a reader of `schema`."""
    mapping = schema.read_object(value, key)
    read_named = schema.list_of(_ref)
    return Refs(
        branches=dict(schema.required(mapping, "branches", read_named, key)),
        tags=dict(schema.required(mapping, "tags", read_named, key)),
        others=dict(schema.optional(mapping, "others", read_named, key) or ()),
    )


def read_revision(answer: Answer) -> str:
    """Read the commit of a revision."""

    def read(value: Any, key: str) -> str:
        return schema.required(schema.read_object(value, key), "sha", _commit, key)

    return _parsed(answer, read)


def read_publisher(answer: Answer) -> bool:
    """Read whether an organization is trusted to publish kernels."""

    def read(value: Any, key: str) -> bool:
        # The Hub leaves the key out for most organizations.
        return schema.read_object(value, key).get("trustedKernelPublisher") is True

    return _parsed(answer, read)


def read_tree_page(answer: Answer, commit: str) -> TreePage:
    """Read a page of the files of a commit."""
    response = answer.response
    _check_commit(response, commit)
    entries = _parsed(answer, schema.list_of(_tree_entry))
    files = tuple(entry for entry in entries if entry is not None)
    unsafe = tuple(file.path for file in files if not paths.is_safe(file.path))
    link = response.links.get("next", {}).get("url")
    # Only the query is used: a mirror's link may lead to the Hub that it mirrors, and no link may
    # send the token elsewhere.
    following = dict(parse_qsl(urlsplit(link).query)) if link else None
    inside = (file for file in files if file.path.startswith(f"{BUILD_FOLDER}/"))
    return TreePage(tuple(f for f in inside if f.path not in unsafe), unsafe, following)


def read_file(
    answer: Answer, commit: str, size: int, target: BinaryIO, progress: Callable[[int], object]
) -> None:
    """Write a file, or the rest of it, as it arrives.

    The response may have the whole file, or the part that is missing in `target`. `progress` is
    called with the number of bytes as they arrive, and with a negative number if they are lost.
    """
    _check_commit(answer.response, commit)
    if answer.response.status_code != 206:
        progress(-target.tell())
        target.seek(0)
        target.truncate()
    for chunk in answer.chunks():
        if target.tell() + len(chunk) > size:
            raise TransientError(f"the file has more than {size} bytes", lasting=HubAnswerError)
        target.write(chunk)
        progress(len(chunk))
    if target.tell() != size:
        raise TransientError(f"the response ended after {target.tell()} of {size} bytes")


def _check_commit(response: Response, commit: str) -> None:
    for answer in (*response.history, response):
        said = answer.headers.get("X-Repo-Commit", commit)
        if said != commit:
            raise TransientError(f"the response is for commit {said}", lasting=HubAnswerError)


def _parsed(answer: Answer, read: schema.Reader[T]) -> T:
    try:
        body = read_all(answer, schema.MAX_BYTES)
        return schema.read_content(body, lambda value: read(value, ""))
    except schema.InvalidError as error:
        # The next attempt may not get the same proxy's error page or broken connection.
        raise TransientError(
            f"the response is malformed: {error}", lasting=HubAnswerError
        ) from error


def _ref(value: Any, key: str) -> tuple[str, str]:
    mapping = schema.read_object(value, key)
    name = schema.required(mapping, "name", schema.read_text, key)
    return name, schema.required(mapping, "targetCommit", _commit, key)


def _commit(value: Any, key: str) -> str:
    if not isinstance(value, str) or not is_commit(value):
        schema.fail(key, value, "a commit, 40 hexadecimal digits")
    return value.lower()


def _tree_entry(value: Any, key: str) -> TreeFile | None:
    mapping = schema.read_object(value, key)
    is_file = schema.required(mapping, "type", schema.read_text, key) == "file"
    return tree_file_from_json(mapping, key) if is_file else None


def tree_file_from_json(value: Any, key: str) -> TreeFile:
    """Read a file of a commit as the Hub writes it; a reader of `schema`."""
    mapping = schema.read_object(value, key)
    return TreeFile(
        path=schema.required(mapping, "path", schema.read_text, key),
        size=schema.required(mapping, "size", _size, key),
        oid=schema.required(mapping, "oid", _matching(_SHA1, "a Git object id"), key),
        lfs_sha256=schema.optional(mapping, "lfs", _lfs_sha256, key, nullable=True),
    )


def _lfs_sha256(value: Any, key: str) -> str:
    mapping = schema.read_object(value, key)
    return schema.required(mapping, "oid", _matching(_SHA256, "a SHA-256"), key)


def _size(value: Any, key: str) -> int:
    if type(value) is not int or value < 0:
        schema.fail(key, value, "a number of bytes")
    return value


def _matching(pattern: re.Pattern[str], expected: str) -> schema.Reader[str]:
    def read(value: Any, key: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            schema.fail(key, value, expected)
        return value

    return read
