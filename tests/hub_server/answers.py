"""Answers of a Hub, as bytes to send."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import attrs

from hub_server.repositories import File
from hub_server.requests import Request


@attrs.frozen
class Answer:
    """What the server says."""

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""


def ok(value: object, **headers: str) -> Answer:
    return Answer(200, {"Content-Type": "application/json", **headers}, json.dumps(value).encode())


def error(status: int, code: str, message: str, **headers: str) -> Answer:
    named = {"X-Error-Code": code} if code else {}
    body = json.dumps({"error": message}).encode()
    about = {"Content-Type": "application/json", "X-Error-Message": message}
    return Answer(status, {**about, **named, **headers}, body)


def no_repository() -> Answer:
    # The real Hub does not show without a login whether a repository is private or missing.
    return error(401, "RepoNotFound", "Repository not found")


def no_entry(path: str, commit: str) -> Answer:
    return error(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})


def invented_file(number: int) -> dict[str, object]:
    return File(str(number).encode()).entry(f"build/torch-cpu/more_{number}.py")


def content(file: File, request: Request, headers: Mapping[str, str]) -> Answer:
    about = {
        **headers,
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "bytes",
        "ETag": f'"{file.etag}"',
    }
    ranged = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
    if ranged is None:
        return Answer(200, about, file.content)
    start, size = int(ranged[1]), len(file.content)
    if start >= size:
        return Answer(416, {"Content-Range": f"bytes */{size}"})
    about["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    return Answer(206, about, file.content[start:])
