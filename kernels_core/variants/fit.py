"""Which builds fit a machine, in which order, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from kernels_core.device import tag_hint
from kernels_core.errors import PluginConflictError, VariantNameError
from kernels_core.hookspecs import BackendTag, Match
from kernels_core.host import HostInfo
from kernels_core.variants.names import (
    UNIVERSAL,
    Framework,
    NativeVariant,
    NoarchVariant,
    TagParser,
    Torch,
    TorchStableAbi,
    TvmFfi,
    UnknownTag,
    Variant,
    parse,
)

if TYPE_CHECKING:
    from kernels_core.plugins import Backend


@attrs.frozen
class BuildDecision:
    """Whether a build fits, or why not.

    Attributes:
        name: the variant name, as in the repository.
        variant: the parsed name; None when the name is invalid.
        accepted: whether the build fits.
        reason: what the build requires and what this machine has instead; "" when it fits.
    """

    name: str
    variant: Variant | None
    accepted: bool
    reason: str = ""


def decide_builds(
    names: Iterable[str], *, backend: Backend, host: HostInfo, parse_tag: TagParser
) -> tuple[BuildDecision, ...]:
    """Decide for each build, by its name, whether it fits.

    Those that fit come first, best first, then the others by name. The order depends on nothing but
    the arguments.
    """
    fit = _Fit(backend, host)
    accepted: list[tuple[Variant, BuildDecision]] = []
    rejected: list[BuildDecision] = []
    for name in sorted(names):
        try:
            variant = parse(name, parse_tag)
        except (VariantNameError, PluginConflictError) as error:
            rejected.append(BuildDecision(name, None, False, str(error)))
            continue
        reason = fit.reason_against(variant)
        if reason:
            rejected.append(BuildDecision(name, variant, False, reason))
        else:
            accepted.append((variant, BuildDecision(name, variant, True)))
    # Sorting is stable, also in reverse: equally preferred builds stay in the order of their names.
    accepted.sort(key=lambda pair: fit.preference(pair[0]), reverse=True)
    return (*(decision for _, decision in accepted), *rejected)


class _Fit:
    """The rules for one backend on one machine; a check returns why a build does not fit, or ""."""

    def __init__(self, backend: Backend, host: HostInfo) -> None:
        self._backend = backend
        self._host = host
        # A repository has many builds for few tags.
        self._matches: dict[BackendTag, Match] = {}

    def reason_against(self, variant: Variant) -> str:
        if isinstance(variant, NoarchVariant):
            return self._check_noarch(variant)
        return (
            self._check_machine(variant)
            or self._check_framework(variant.framework)
            or self._check_tag(variant.tag)
        )

    def preference(self, variant: Variant) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """A key that orders builds that fit: by kind, then by framework, then by tag."""
        if isinstance(variant, NoarchVariant):
            return int(variant.backend != UNIVERSAL), (), ()
        assert isinstance(variant.tag, BackendTag)
        rank = self._match(variant.tag).rank
        framework = variant.framework
        if isinstance(framework, TorchStableAbi):
            return 4, framework.release, rank
        if isinstance(framework, Torch):
            return 3, (int(framework.cxx11_abi is None),), rank
        return 2, (), rank

    def _check_noarch(self, variant: NoarchVariant) -> str:
        own_name = self._backend.info.noarch_name
        if variant.backend not in (own_name, UNIVERSAL):
            return (
                f"made for backend {variant.backend!r}; the active backend "
                f"{self._backend.name!r} uses 'torch-{own_name}' and 'torch-{UNIVERSAL}'"
            )
        return "" if self._host.torch else "needs torch, which is not installed"

    def _check_machine(self, variant: NativeVariant) -> str:
        host = self._host
        if not host.has_stable_python_abi:
            return (
                f"native code needs Python's stable ABI, which free-threaded Python has from 3.15 "
                f"on; this is free-threaded Python {_dotted(host.python)}"
            )
        if variant.cpu != host.cpu:
            return f"needs CPU {variant.cpu}; this machine has {host.cpu}"
        if variant.os != host.os:
            return f"needs operating system {variant.os}; this machine has {host.os}"
        return ""

    def _check_framework(self, framework: Framework) -> str:
        if isinstance(framework, TvmFfi):
            if framework.release == self._host.tvm_ffi:
                return ""
            return f"needs tvm-ffi {_dotted(framework.release)}; {self._installed_tvm_ffi()}"
        torch = self._host.torch
        if isinstance(framework, TorchStableAbi):
            if torch and framework.release <= torch.release:
                return ""
            return f"needs torch {_dotted(framework.release)} or newer; {self._installed_torch()}"
        if not torch or framework.release != torch.release:
            return f"needs torch {_dotted(framework.release)}; {self._installed_torch()}"
        if framework.cxx11_abi not in (None, torch.cxx11_abi):
            needed, here = _ABI_NAMES[framework.cxx11_abi], _ABI_NAMES[torch.cxx11_abi]
            return (
                f"needs torch built with {needed}; the installed torch {torch.version} has {here}"
            )
        return ""

    def _check_tag(self, tag: BackendTag | UnknownTag) -> str:
        if isinstance(tag, UnknownTag):
            hint = tag_hint(tag.text)
            return f"no installed backend plugin supports tag {tag.text!r}" + (
                f"; the one that does: {hint}" if hint else ""
            )
        if tag.backend != self._backend.name:
            return f"made for backend {tag.backend!r}; the active backend is {self._backend.name!r}"
        return self._match(tag).reason

    def _match(self, tag: BackendTag) -> Match:
        match = self._matches.get(tag)
        if match is None:
            match = self._matches[tag] = self._backend.match_tag(tag)
        return match

    def _installed_torch(self) -> str:
        torch = self._host.torch
        return f"torch {torch.version} is installed" if torch else "torch is not installed"

    def _installed_tvm_ffi(self) -> str:
        release = self._host.tvm_ffi
        return f"tvm-ffi {_dotted(release)} is installed" if release else "tvm-ffi is not installed"


_ABI_NAMES = {True: "the C++11 ABI", False: "the C++98 ABI", None: "no choice of C++ ABI"}


def _dotted(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]}"
