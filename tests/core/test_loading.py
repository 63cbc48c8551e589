"""`get_local_kernel` and its family, without torch: a machine that has it is simulated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernels_core import get_kernel, get_kernel_variants, get_loaded_kernels, get_local_kernel
from kernels_core.errors import (
    BackendNotInstalledError,
    BackendUnavailableError,
    NoFittingBuildError,
    UnknownDeviceError,
)
from kernels_core.host import HostInfo, TorchInfo
from kernels_core.loading.loaded import load_build
from kernels_core.loading.resolver import Resolver
from kernels_core.plugins import Backend

MakeRepository = Callable[..., Path]

HOST = HostInfo(
    os="linux",
    cpu="x86_64",
    os_version="6.1",
    python=(3, 12),
    free_threaded=False,
    torch=TorchInfo(version="2.13.0", release=(2, 13), cxx11_abi=True),
)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine has torch 2.13, and has loaded no kernel."""
    monkeypatch.setattr("kernels_core.repository.builds.host_info", lambda: HOST)
    monkeypatch.setattr("kernels_core.loading.loaded._loaded", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("kernel_build_"):
            del sys.modules[name]


def kernel(value: object = 1) -> dict[str, object]:
    return {"__init__.py": f"value = {value!r}"}


# Loading


@pytest.mark.parametrize("kind", [str, Path])
def test_a_kernel_is_loaded_from_a_path(
    anvil: Backend, make_repository: MakeRepository, kind: Callable[[Path], object]
) -> None:
    path = make_repository({"torch-anvil": kernel("best"), "torch-universal": kernel("other")})
    module = get_local_kernel(kind(path))
    assert module.value == "best"
    assert get_local_kernel(path) is module


@pytest.mark.parametrize("metadata", [{}, {"name": "some-kernel"}], ids=["unnamed", "named"])
def test_a_build_is_one_module_whichever_directory_leads_to_it(
    anvil: Backend, make_repository: MakeRepository, metadata: dict[str, str]
) -> None:
    path = make_repository({"torch-anvil": {**kernel(), "metadata.json": metadata}})
    modules = [get_local_kernel(one) for one in (path, path / "build", path / "build/torch-anvil")]
    assert modules[0] is modules[1] is modules[2]
    assert len(get_loaded_kernels()) == 1


def test_the_backend_can_be_chosen(
    installed_plugins: object, make_repository: MakeRepository
) -> None:
    installed_plugins.install("anvil", priority=100)
    installed_plugins.install("bench", priority=0)
    path = make_repository({"torch-anvil": kernel("anvil"), "torch-bench": kernel("bench")})
    assert get_local_kernel(path).value == "anvil"
    assert get_local_kernel(path, backend="bench").value == "bench"


def test_the_first_device_must_be_covered(anvil: Backend, make_repository: MakeRepository) -> None:
    metadata = {"backend": {"type": "anvil", "archs": ["steel"]}}
    path = make_repository({"torch-anvil": {**kernel(), "metadata.json": metadata}})
    with pytest.raises(NoFittingBuildError, match="built for steel"):
        get_local_kernel(path)
    (decision,) = get_kernel_variants(path)
    assert decision.reason == "built for steel, and anvil device is iron"
    assert Resolver(anvil).resolve_local(path).variant == "torch-anvil"


def test_the_kernels_own_exception_comes_through(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    path = make_repository({"torch-anvil": {"__init__.py": "{}['no such op']"}})
    with pytest.raises(KeyError) as caught:
        get_local_kernel(path)
    assert caught.value.args == ("no such op",)
    assert get_loaded_kernels() == []


def test_resolving_imports_nothing(anvil: Backend, make_repository: MakeRepository) -> None:
    path = make_repository({"torch-anvil": {"inner/__init__.py": "raise AssertionError"}})
    before = set(sys.modules)
    build = Resolver(anvil, 0).resolve_local(str(path), "inner")
    assert build.package == path / "build" / "torch-anvil" / "inner"
    assert not [name for name in set(sys.modules) - before if name.startswith("kernel_build_")]


# What has been loaded


def test_loaded_kernels_are_listed_once_in_order(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    metadata = {"name": "first-kernel", "version": 3}
    first = make_repository({"torch-anvil": {**kernel(), "metadata.json": metadata}}, name="first")
    second = make_repository({"torch-universal": kernel()}, name="second")
    modules = [get_local_kernel(path) for path in (first, second, first)]
    loaded = get_loaded_kernels()
    assert [entry.module for entry in loaded] == modules[:2]
    assert [entry.repository for entry in loaded] == [str(first), str(second)]
    assert [entry.build.variant for entry in loaded] == ["torch-anvil", "torch-universal"]
    assert loaded[0].metadata is not None
    assert loaded[0].metadata.version == 3
    assert loaded[1].metadata is None


def test_the_list_is_a_snapshot(anvil: Backend, make_repository: MakeRepository) -> None:
    before = get_loaded_kernels()
    build = Resolver(anvil, 0).resolve_local(make_repository({"torch-anvil": kernel()}))
    load_build(build)
    assert before == []
    get_loaded_kernels().clear()
    assert [entry.build for entry in get_loaded_kernels()] == [build]


# Decisions


def test_every_build_has_a_decision(anvil: Backend, make_repository: MakeRepository) -> None:
    path = make_repository(
        {
            "torch-universal": kernel(),
            "torch-anvil": kernel(),
            "torch-other": kernel(),
            "leftovers": {},
            "torch213-anvil23-x86_64-linux": {"metadata.json": "{"},
        }
    )
    decisions = get_kernel_variants(path)
    assert [(d.name, d.accepted) for d in decisions] == [
        ("torch-anvil", True),
        ("torch-universal", True),
        ("leftovers", False),
        ("torch-other", False),
        ("torch213-anvil23-x86_64-linux", False),
    ]
    assert all(bool(d.reason) != d.accepted for d in decisions)


# Bad input


@pytest.mark.parametrize("repo", ["activation", "./activation", "/kernels/activation", ""])
def test_a_string_names_a_repository_on_the_hub(anvil: Backend, repo: str) -> None:
    with pytest.raises(ValueError, match="organization/name"):
        get_kernel_variants(repo)
    with pytest.raises(ValueError, match="organization/name"):
        get_kernel(repo)


@pytest.mark.parametrize("value", [None, 3, b"kernels/activation", ["kernels"]])
def test_a_wrong_type_is_named_by_argument(anvil: Backend, value: object) -> None:
    with pytest.raises(TypeError, match="repo_path"):
        get_local_kernel(value)
    with pytest.raises(TypeError, match="repo must"):
        get_kernel_variants(value)


@pytest.mark.parametrize("value", [0, ("anvil",)])
def test_a_backend_of_the_wrong_type_is_named(anvil: Backend, value: object) -> None:
    with pytest.raises(TypeError, match="backend"):
        get_local_kernel(Path("anywhere"), backend=value)
    with pytest.raises(TypeError, match="backend"):
        get_kernel_variants(Path("anywhere"), backend=value)


def test_a_backend_that_is_not_available_is_an_error(
    installed_plugins: object, make_repository: MakeRepository
) -> None:
    installed_plugins.install("anvil", detection='Detection(0, reason="no hammer")')
    path = make_repository({"torch-universal": kernel()})
    with pytest.raises(BackendUnavailableError, match="no hammer"):
        get_local_kernel(path)
    with pytest.raises(BackendUnavailableError, match="no hammer"):
        get_local_kernel(path, backend="anvil")
    with pytest.raises(BackendNotInstalledError, match="kernels-backend-cpu"):
        get_local_kernel(path, backend="cpu")
    with pytest.raises(UnknownDeviceError, match="abacus"):
        get_kernel_variants(path, backend="abacus")
