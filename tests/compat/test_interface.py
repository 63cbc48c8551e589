"""Names, signatures and exceptions, compared with those of the installed Hugging Face `kernels`."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kernels as theirs
import pytest

import kernels_core
from kernels_core import errors
from kernels_core.compat import kernels as ours

MakeRepository = Callable[..., Path]

P = inspect.Parameter
# Given by position, a parameter can also be given by keyword; not the other way round.
WIDER = {P.KEYWORD_ONLY: {P.KEYWORD_ONLY, P.POSITIONAL_OR_KEYWORD}}


def test_every_name_is_there() -> None:
    assert set(theirs.__all__) <= set(ours.__all__)
    assert all(getattr(ours, name) is not None for name in ours.__all__)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(str(ours.__file__)).read_text("utf-8"))
    static = {
        alias.asname: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*static, "__version__"} == set(ours.__all__)
    for name, module in static.items():
        assert getattr(importlib.import_module(str(module)), str(name)) is getattr(ours, str(name))


def callables() -> list[tuple[str, Callable[..., Any], Callable[..., Any]]]:
    found = []
    for name in theirs.__all__:
        their, our = getattr(theirs, name), getattr(ours, name)
        if not callable(their) or issubclass(type(their), type(kernels_core.Mode)):
            continue
        found.append((name, their, our))
        members = vars(their).items() if inspect.isclass(their) else ()
        found += [
            (f"{name}.{member}", value, getattr(our, member, None))
            for member, value in members
            if inspect.isfunction(value) and not member.startswith("_")
        ]
    return found


# Methods that no program calls: the other package's own constructors do.
UNUSED = {
    "CUDAProperties.validate",
    "Device.validate",
    "ROCMProperties.validate",
    "CUDAProperties.validate_capability_range",
    "Device.validate_capability_range",
    "Device.validate_properties",
    "ROCMProperties.validate_capability_range",
}


@pytest.mark.parametrize(
    ("their", "our"), [pytest.param(t, o, id=n) for n, t, o in callables() if n not in UNUSED]
)
def test_a_signature_is_the_same_or_wider(
    their: Callable[..., Any], our: Callable[..., Any] | None
) -> None:
    assert our is not None
    try:
        wanted = inspect.signature(their).parameters
    except ValueError:
        pytest.skip("an extension type without a signature")
    given = inspect.signature(our).parameters
    for name, parameter in wanted.items():
        if parameter.kind is P.VAR_POSITIONAL:
            assert any(mine.kind is P.VAR_POSITIONAL for mine in given.values())
            continue
        assert name in given
        mine = given[name]
        assert mine.kind in WIDER.get(parameter.kind, {parameter.kind})
        if parameter.default is not P.empty:
            assert mine.default is not P.empty
    positional = [n for n, p in wanted.items() if p.kind is P.POSITIONAL_OR_KEYWORD]
    assert list(given)[: len(positional)] == positional
    added = [p for n, p in given.items() if n not in wanted]
    assert all(
        p.default is not P.empty or p.kind in (P.VAR_KEYWORD, P.VAR_POSITIONAL) for p in added
    )


def attributes(cls: type) -> set[str]:
    return {name for name in vars(cls) if not name.startswith("_")}


def test_values_have_the_same_fields() -> None:
    for name in ("LoadedKernel", "RepoInfo", "VariantAccepted", "VariantRejected"):
        fields = [field.name for field in dataclasses.fields(getattr(theirs, name))]
        assert [field.name for field in dataclasses.fields(getattr(ours, name))] == fields


METADATA = {
    "name": "my-act",
    "id": "my_act_1",
    "version": 1,
    "license": "MIT",
    "python-depends": [],
    "kernel-depends": [{"repo-id": "org/base", "version": 1}],
    "backend": {"type": "cuda", "archs": ["9.0"]},
    "provenance": {
        "kernel": {"sha": "0" * 40, "dirty": True},
        "kernel-builder": {"version": "0.17.0", "git": None},
    },
}


def test_metadata_says_the_same() -> None:
    assert attributes(theirs.Metadata) <= attributes(ours.Metadata)
    content = json.dumps(METADATA).encode()
    their, our = theirs.Metadata.from_bytes(content), ours.Metadata.from_bytes(content)
    for name in ("name", "id", "version", "license", "python_depends", "upstream", "source"):
        assert str(getattr(our, name)) == str(getattr(their, name))
    assert our.name.python_name == their.name.python_name
    assert str(our.backend.backend_type) == str(their.backend.backend_type)
    assert our.backend.archs == their.backend.archs
    assert our.provenance.dirty == their.provenance.dirty
    assert our.kernel_depends[0].repo_id == their.kernel_depends[0].repo_id
    assert our.kernels_minver is their.kernels_minver is None


@pytest.mark.parametrize("name", ["Mode", "KernelizeFallback"])
def test_flags_have_the_same_members(name: str) -> None:
    members = {name for name in getattr(theirs, name).__members__ if not name.startswith("_")}
    assert members <= set(getattr(ours, name).__members__)


@pytest.mark.parametrize(
    ("error", "built_in"),
    [
        (errors.UntrustedError, ValueError),
        (errors.BackendNotInstalledError, ValueError),
        (errors.BackendUnavailableError, ValueError),
        (errors.UnknownDeviceError, ValueError),
        (errors.HubOfflineError, FileNotFoundError),
        (errors.HubUnreachableError, FileNotFoundError),
        (errors.TrustUnknownError, FileNotFoundError),
        (errors.NoFittingBuildError, FileNotFoundError),
        (errors.RepositoryNotFoundError, FileNotFoundError),
        (errors.HubNotFoundError, FileNotFoundError),
        (errors.VersionNotFoundError, FileNotFoundError),
        (errors.VersionNotFoundError, ValueError),
        (errors.LayerNotFoundError, ValueError),
        (errors.LayerNotFoundError, TypeError),
        (errors.InvalidLayerError, TypeError),
        (errors.NotExtensibleError, ValueError),
        (errors.NotExtensibleError, TypeError),
        (errors.NotLockedError, ValueError),
        (errors.LockFileNotFoundError, FileNotFoundError),
        (errors.LockFileNotFoundError, ValueError),
    ],
)
def test_exceptions_are_what_callers_catch(
    error: type[Exception], built_in: type[Exception]
) -> None:
    assert issubclass(error, built_in)
    # A class of two layouts could not be raised at all.
    with pytest.raises(built_in):
        raise error("message", repository="org/name")
