"""The grammar of build variant names, the directories under `build/` in a kernel repository.

    torch213-cxx11-cu130-x86_64-linux         one torch release; the C++ ABI tag may be missing
    torch-stable-abi210-cu130-x86_64-linux    torch 2.10 and newer
    tvm-ffi01-cu130-x86_64-linux              another framework
    torch-cuda, torch-universal               no native code

The plugin of a backend parses the part for it (`cu130`). Versions have one digit for the major
number; the other digits are the minor number.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import attrs

from kernels_core.errors import VariantNameError
from kernels_core.hookspecs import BackendTag

UNIVERSAL = "universal"
"""The backend part of builds without native code that run on every backend."""

_CXX_TAG = {True: "-cxx11", False: "-cxx98", None: ""}
_CXX11_ABI = {"cxx11": True, "cxx98": False, None: None}

# [0-9], because \d matches digits of other scripts as well. Four of them are more than any release
# will need, and prevent huge numbers from untrusted names.
_RELEASE = r"(?P<major>[0-9])(?P<minor>[0-9]{1,4})"
_NATIVE = re.compile(
    r"(?:(?P<stable>torch-stable-abi)|(?P<tvm_ffi>tvm-ffi)|torch)"
    rf"{_RELEASE}(?:-(?P<cxx>cxx11|cxx98))?"
    r"-(?P<tag>[A-Za-z0-9_.+]+)-(?P<cpu>[a-z0-9_]+)-(?P<os>[a-z0-9_]+)"
)
_NOARCH = re.compile(r"torch-(?P<backend>[a-z0-9_]+)")


@attrs.frozen
class Torch:
    """Built for one release of torch.

    Attributes:
        release: (major, minor).
        cxx11_abi: the C++ ABI of torch that the build needs; None when it fits either.
    """

    release: tuple[int, int]
    cxx11_abi: bool | None = None

    def __str__(self) -> str:
        return f"torch{_digits(self.release)}{_CXX_TAG[self.cxx11_abi]}"


@attrs.frozen
class TorchStableAbi:
    """Built for torch's stable ABI, as of this release."""

    release: tuple[int, int]

    def __str__(self) -> str:
        return f"torch-stable-abi{_digits(self.release)}"


@attrs.frozen
class TvmFfi:
    """Built for one release of tvm-ffi."""

    release: tuple[int, int]

    def __str__(self) -> str:
        return f"tvm-ffi{_digits(self.release)}"


Framework = Torch | TorchStableAbi | TvmFfi


@attrs.frozen
class UnknownTag:
    """A backend tag that no installed plugin claims; its text is kept."""

    text: str

    def __str__(self) -> str:
        return self.text


@attrs.frozen
class NativeVariant:
    """A build with native code.

    Attributes:
        framework: what it is built for, and which release of it.
        tag: the backend and its version.
        cpu: for example "x86_64".
        os: for example "linux".
    """

    framework: Framework
    tag: BackendTag | UnknownTag
    cpu: str
    os: str

    def __str__(self) -> str:
        return f"{self.framework}-{self.tag}-{self.cpu}-{self.os}"


@attrs.frozen
class NoarchVariant:
    """A build without native code.

    Attributes:
        backend: the no-arch name of a backend, or `UNIVERSAL`.
    """

    backend: str

    def __str__(self) -> str:
        return f"torch-{self.backend}"


Variant = NativeVariant | NoarchVariant
TagParser = Callable[[str], BackendTag | None]


# A repository may hold a thousand builds and is read once per layer.
@functools.lru_cache(maxsize=4096)
def parse(name: str, parse_tag: TagParser) -> Variant:
    """Parse a variant name; `str()` of the result is the name again.

    `parse_tag` returns None for a tag of no backend. Raises `VariantNameError` when the name does
    not follow the grammar, or would be written differently.
    """
    variant = _noarch(name) or _native(name, parse_tag)
    if variant is None:
        raise VariantNameError(
            f"{name!r} is not a variant name such as 'torch-cpu', "
            f"'torch213-cxx11-cu130-x86_64-linux' or 'torch-stable-abi210-cpu-aarch64-darwin'.",
            name=name,
        )
    if str(variant) != name:
        raise VariantNameError(
            f"{name!r} is not a variant name: it must be written as {str(variant)!r}.", name=name
        )
    return variant


def is_variant_name(name: str) -> bool:
    """Whether a name follows the grammar, whichever backends are installed."""
    try:
        parse(name, _no_tag)
    except VariantNameError:
        return False
    return True


def _noarch(name: str) -> Variant | None:
    match = _NOARCH.fullmatch(name)
    return NoarchVariant(match["backend"]) if match else None


def _native(name: str, parse_tag: TagParser) -> Variant | None:
    match = _NATIVE.fullmatch(name)
    if match is None:
        return None
    release = int(match["major"]), int(match["minor"])
    framework: Framework
    if match["stable"]:
        framework = TorchStableAbi(release)
    elif match["tvm_ffi"]:
        framework = TvmFfi(release)
    else:
        framework = Torch(release, _CXX11_ABI[match["cxx"]])
    tag = parse_tag(match["tag"]) or UnknownTag(match["tag"])
    return NativeVariant(framework, tag, match["cpu"], match["os"])


def _no_tag(_: str) -> None:
    return None


def _digits(release: tuple[int, int]) -> str:
    return f"{release[0]}{release[1]}"
