"""The backends that the names of builds mean, from a table, so that no plugin has to be installed.

Nothing is known about backends that are not in the table, and no rule reports them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from kernels_core.check.tables import table
from kernels_core.hookspecs import BackendTag
from kernels_core.variants.names import UNIVERSAL, NativeVariant, Variant, parse

SYSTEMS_WITH_CXX_TAG = ("linux",)
"""Where the names of builds for a release of torch say its C++ ABI."""


def read_name(name: str) -> Variant:
    """Parse the name of a build. Raises `VariantNameError` for an invalid name.

    The result does not depend on the plugins of this machine: backends' tags stay `UnknownTag`.
    """
    return parse(name, lambda tag: None)


def is_selected(name: str, patterns: Iterable[str]) -> bool:
    """Whether a build matches one of the shell patterns, or there are none."""
    patterns = tuple(patterns)
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def backend_of(variant: Variant) -> str | None:
    """The backend that a build is for; None where it is for no particular or an unknown one."""
    return next((str(known["name"]) for known in _known() if _is_of(variant, known)), None)


def names_of(backend: str) -> tuple[str, ...]:
    """The names that a backend may have in metadata."""
    known = next(each for each in _known() if each["name"] == backend)
    return tuple(known.get("types", [backend]))


def misspelt(variant: Variant) -> str:
    """How the backend in a name should be spelled; "" where it is right or unknown."""
    text = backend_text(variant)
    if text == UNIVERSAL or backend_of(variant):
        return ""
    for name, pattern in table("backends")["looks_like"].items():
        if re.fullmatch(pattern, text.lower()):
            known = next(each for each in _known() if each["name"] == name)
            native = isinstance(variant, NativeVariant)
            return str(known["spelt"]) if native else repr(known["noarch"])
    return ""


def backend_text(variant: Variant) -> str:
    """The part of a name that names the backend."""
    return str(variant.tag) if isinstance(variant, NativeVariant) else variant.backend


def _known() -> list[dict[str, Any]]:
    backends: list[dict[str, Any]] = table("backends")["backends"]
    return backends


def _is_of(variant: Variant, known: dict[str, Any]) -> bool:
    text = backend_text(variant)
    if not isinstance(variant, NativeVariant):
        return bool(text == known["noarch"])
    if "tag" in known:
        return bool(text == known["tag"])
    tag = BackendTag.parse(
        text, backend=known["name"], prefix=known["prefix"], first_major=known["first_major"]
    )
    return tag is not None
