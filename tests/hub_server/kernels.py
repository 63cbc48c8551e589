"""Kernels to put into repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import textwrap
from collections.abc import Mapping
from typing import Any

INIT = "from . import layers\n\nanswer = 42\n\n__all__ = ['layers']\n"
LAYERS = """\
from torch import nn


class Twice(nn.Module):
    can_torch_compile = True

    def forward(self, x):
        return 2 * x
"""


def kernel_files(
    name: str = "activation",
    *,
    variant: str = "torch-cpu",
    source: str | None = None,
    layers: str | None = None,
    digest: bool | Mapping[str, object] = False,
    also: Mapping[str, bytes | str] | None = None,
    **metadata: object,
) -> dict[str, bytes]:
    """The files of a kernel with one build: `__init__.py`, `layers.py` and `metadata.json`.

    Its module has the attribute `answer`, and its layers hold `Twice`.

    Args:
        name: the kernel's name.
        variant: the build.
        source: another `__init__.py`; without `layers` there is no `layers.py` then.
        layers: another `layers.py`.
        digest: whether the metadata has the digest of these files, or another digest.
        also: more files of the build.
        metadata: keys of the metadata, with `_` for `-`; None leaves a key out.
    """
    inside: dict[str, bytes | str] = {"__init__.py": INIT if source is None else source}
    if layers is not None or source is None:
        inside["layers.py"] = LAYERS if layers is None else layers
    inside |= also or {}
    encoded = {
        path: textwrap.dedent(content).encode() if isinstance(content, str) else content
        for path, content in inside.items()
    }
    about: dict[str, Any] = {
        "name": name,
        "id": f"{name.replace('-', '_')}_test",
        "version": 1,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": "cpu"},
    }
    if digest:
        about["digest"] = file_digest(encoded) if digest is True else digest
    about |= {key.replace("_", "-"): value for key, value in metadata.items()}
    about = {key: value for key, value in about.items() if value is not None}
    encoded["metadata.json"] = json.dumps(about).encode()
    return {f"build/{variant}/{path}": content for path, content in encoded.items()}


def file_digest(files: Mapping[str, bytes]) -> dict[str, object]:
    """The digest of a build's files, as its metadata holds it."""
    hashes = {
        path: base64.b64encode(hashlib.sha256(files[path]).digest()).decode()
        for path in sorted(files, key=str.encode)
    }
    return {"algorithm": "sha256", "files": hashes}
