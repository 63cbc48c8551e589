"""A kernel repository on disk: which build is chosen, and which package in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from kernels_core.errors import (
    DependencyError,
    LoadError,
    MetadataError,
    NoFittingBuildError,
    RepositoryNotFoundError,
)
from kernels_core.host import HostInfo, TorchInfo
from kernels_core.loading.loaded import check_packages, load_build
from kernels_core.plugins import Backend
from kernels_core.repository.builds import Build
from kernels_core.repository.local import LocalRepository

MakeRepository = Callable[..., Path]

HOST = HostInfo(
    os="linux",
    cpu="x86_64",
    os_version="6.1",
    python=(3, 12),
    free_threaded=False,
    torch=TorchInfo(version="2.13.0", release=(2, 13), cxx11_abi=True),
)
NATIVE = "torch213-cxx11-anvil23-x86_64-linux"


def best_build(path: Path, backend: Backend, index: int | None = 0, **kwargs: str) -> Build:
    return LocalRepository(path, **kwargs).best_build(backend, index, host=HOST)


def only(files: dict[str, object]) -> dict[str, dict[str, object]]:
    return {"torch-anvil": files}


# Where the builds are


def test_builds_that_come_and_go_are_noticed(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    path = make_repository({"torch-universal": {"__init__.py": ""}})
    metadata = path / "build" / "torch-universal" / "metadata.json"
    assert best_build(path, anvil).variant == "torch-universal"
    make_repository(only({"__init__.py": ""}))
    assert best_build(path, anvil).variant == "torch-anvil"
    (path / "build" / "torch-anvil").rename(path / "build" / "torch-metal")
    assert best_build(path, anvil).variant == "torch-universal"
    metadata.write_text('{"name": "renamed", "version": 1}', encoding="utf-8")
    build = best_build(path, anvil)
    assert build.metadata is not None
    assert build.metadata.name == "renamed"
    (path / "build" / "torch-universal").rename(path / "build" / "torch-cpu")
    with pytest.raises(NoFittingBuildError):
        best_build(path, anvil)


def test_the_best_build_is_chosen(anvil: Backend, make_repository: MakeRepository) -> None:
    metadata = {"name": "activation", "version": 1}
    path = make_repository(
        {
            "torch-universal": {"__init__.py": ""},
            NATIVE: {"__init__.py": "", "metadata.json": metadata},
            "torch-cpu": {"__init__.py": ""},
        }
    )
    build = best_build(path, anvil)
    variant = path / "build" / NATIVE
    assert (build.repository, build.variant) == (str(path), NATIVE)
    assert (build.path, build.package) == (variant, variant)
    assert build.metadata is not None
    assert build.metadata.name == "activation"
    assert build.commit is None


@pytest.mark.parametrize("inside", ["", "build", "build/torch-anvil"])
def test_the_build_directory_and_a_variant_directory_are_accepted_too(
    anvil: Backend, make_repository: MakeRepository, inside: str
) -> None:
    path = make_repository(only({"__init__.py": ""}))
    assert best_build(path / inside, anvil).path == path / "build" / "torch-anvil"


@pytest.mark.parametrize("name", ["result", "torch-from-source", "ANVIL build"])
@pytest.mark.parametrize("backend", ["anvil", "hammer"])
def test_a_build_directory_has_any_name_when_its_metadata_says_the_backend(
    anvil: Backend, tmp_path: Path, name: str, backend: str
) -> None:
    path = tmp_path / name
    path.mkdir()
    (path / "__init__.py").touch()
    metadata = {"name": "activation", "backend": {"type": backend, "archs": ["iron"]}}
    (path / "metadata.json").write_text(json.dumps(metadata))
    if backend == "anvil":
        build = best_build(path, anvil, None)
        assert (build.path, build.variant) == (path, name)
        (decision,) = LocalRepository(path).decisions(anvil, None, host=HOST)
        assert (decision.name, decision.accepted) == (name, True)
        return
    with pytest.raises(NoFittingBuildError, match="made for 'hammer' according to its metadata"):
        best_build(path, anvil, None)
    (decision,) = LocalRepository(path).decisions(anvil, None, host=HOST)
    assert (decision.accepted, decision.reason) == (
        False,
        "made for 'hammer' according to its metadata; the active one is 'anvil'",
    )


def test_a_build_directory_of_any_name_without_a_backend_fits_nothing(
    anvil: Backend, tmp_path: Path
) -> None:
    (tmp_path / "__init__.py").touch()
    (tmp_path / "metadata.json").write_text('{"name": "activation"}')
    with pytest.raises(NoFittingBuildError, match="made for no backend according to its metadata"):
        best_build(tmp_path, anvil)


def test_the_name_of_a_variant_counts_for_more_than_its_metadata(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    files = {"__init__.py": "", "metadata.json": {"backend": {"type": "anvil"}}}
    path = make_repository({"torch-hammer": files})
    with pytest.raises(NoFittingBuildError, match="made for backend 'hammer'"):
        best_build(path / "build" / "torch-hammer", anvil)


def test_a_relative_path_stays_what_it_meant(
    anvil: Backend,
    make_repository: MakeRepository,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = make_repository(only({"__init__.py": ""}))
    monkeypatch.chdir(path.parent)
    repository = LocalRepository(path.name)
    monkeypatch.chdir("/")
    assert repository.best_build(anvil, host=HOST).path == path / "build" / "torch-anvil"


def test_a_linked_variant_directory_is_followed(
    anvil: Backend, make_repository: MakeRepository, tmp_path: Path
) -> None:
    path = make_repository({})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "__init__.py").touch()
    (path / "build" / "torch-anvil").symlink_to(tmp_path / "elsewhere")
    assert best_build(path, anvil).path == path / "build" / "torch-anvil"


def test_what_is_no_build_is_not_looked_at(make_repository: MakeRepository) -> None:
    path = make_repository({"torch-anvil": {}, ".git": {}, "__pycache__": {}, "not-a-variant": {}})
    (path / "build" / "README.md").touch()
    assert LocalRepository(path).builds() == ("not-a-variant", "torch-anvil")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.touch(), "Not a directory"),
        (lambda path: path.mkdir(), "is not a kernel repository"),
        (lambda path: (path / "src").mkdir(parents=True), "is not a kernel repository"),
    ],
)
def test_a_path_without_a_repository_is_an_error(
    anvil: Backend, tmp_path: Path, make: Callable[[Path], object], problem: str
) -> None:
    path = tmp_path / "activation"
    make(path)
    with pytest.raises(RepositoryNotFoundError, match=problem) as caught:
        best_build(path, anvil)
    assert caught.value.repository == str(path)
    assert isinstance(caught.value, FileNotFoundError)


# Builds that do not fit


def test_without_a_fitting_build_every_build_has_its_reason(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    names = ["torch-cpu", "torch212-anvil23-x86_64-linux", "not-a-variant"]
    path = make_repository({name: {"__init__.py": ""} for name in names})
    with pytest.raises(NoFittingBuildError) as caught:
        best_build(path, anvil)
    error = caught.value
    assert sorted(decision.name for decision in error.decisions) == sorted(names)
    for decision in error.decisions:
        assert not decision.accepted
        assert decision.reason
        assert f"{decision.name}: {decision.reason}" in str(error)
    assert error.repository == str(path)


def test_a_repository_without_builds_fits_nothing(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    with pytest.raises(NoFittingBuildError, match="contains no builds"):
        best_build(make_repository({}), anvil)


def backend_metadata(*archs: str) -> dict[str, object]:
    return {"backend": {"type": "anvil", "archs": list(archs)}}


def test_a_build_for_other_architectures_gives_way_to_the_next(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    path = make_repository(
        {
            NATIVE: {"__init__.py": "", "metadata.json": backend_metadata("steel", "bronze")},
            "torch-anvil": {"__init__.py": "", "metadata.json": backend_metadata()},
        }
    )
    assert best_build(path, anvil).variant == "torch-anvil"
    decisions = LocalRepository(path).decisions(anvil, 0, host=HOST)
    assert [(d.name, d.accepted) for d in decisions] == [("torch-anvil", True), (NATIVE, False)]
    assert decisions[1].reason == "built for steel, bronze, and anvil device is iron"


def test_a_build_that_covers_the_device_is_chosen(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    path = make_repository(
        {
            NATIVE: {"__init__.py": "", "metadata.json": backend_metadata("iron", "steel")},
            "torch-anvil": {"__init__.py": ""},
        }
    )
    assert best_build(path, anvil).variant == NATIVE


def test_architectures_do_not_matter_without_a_particular_device(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    path = make_repository(only({"__init__.py": "", "metadata.json": backend_metadata("steel")}))
    assert best_build(path, anvil, None).variant == "torch-anvil"
    with pytest.raises(NoFittingBuildError, match="torch-anvil: built for steel"):
        best_build(path, anvil, 0)


def test_broken_metadata_of_the_best_build_is_not_passed_over(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    path = make_repository(
        {
            NATIVE: {"__init__.py": "", "metadata.json": {"version": "1"}},
            "torch-anvil": {"__init__.py": ""},
        }
    )
    with pytest.raises(MetadataError) as caught:
        best_build(path, anvil)
    assert caught.value.path == path / "build" / NATIVE / "metadata.json"
    assert caught.value.repository == str(path)
    decisions = LocalRepository(path).decisions(anvil, 0, host=HOST)
    assert [(d.name, d.accepted) for d in decisions] == [("torch-anvil", True), (NATIVE, False)]
    assert "key 'version'" in decisions[1].reason


def test_broken_metadata_of_a_build_that_does_not_fit_does_no_harm(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    path = make_repository(
        {"torch-cpu": {"metadata.json": "{"}, "torch-anvil": {"__init__.py": ""}}
    )
    assert best_build(path, anvil).variant == "torch-anvil"


# The package in a build


@pytest.mark.parametrize(
    ("files", "package"),
    [
        ({"__init__.py": "", "activation/__init__.py": ""}, "."),
        ({"activation/__init__.py": "", "other/__init__.py": ""}, "activation"),
        ({"only/__init__.py": "", "data/x.json": "", "__pycache__/__init__.py": ""}, "only"),
        (
            {
                "metadata.json": {"name": "silu-and-mul"},
                "silu_and_mul/__init__.py": "",
                "activation/__init__.py": "",
            },
            "silu_and_mul",
        ),
    ],
)
def test_both_generations_of_layout_are_read(
    anvil: Backend, make_repository: MakeRepository, files: dict[str, object], package: str
) -> None:
    build = best_build(make_repository(only(files)), anvil)
    assert build.package == build.path / package


def test_the_repository_name_with_dashes_names_the_package(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    files: dict[str, object] = {"silu_and_mul/__init__.py": "", "other/__init__.py": ""}
    path = make_repository(only(files), name="silu-and-mul")
    assert best_build(path, anvil).package.name == "silu_and_mul"


def test_a_named_package_is_taken_from_an_old_build(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    path = make_repository(only({"activation/__init__.py": "", "other/__init__.py": ""}))
    assert best_build(path, anvil, package_name="other").package.name == "other"


def test_a_named_package_does_no_harm_to_a_new_build(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    path = make_repository(only({"__init__.py": "", "activation/__init__.py": ""}))
    assert best_build(path, anvil, package_name="activation").package.name == "torch-anvil"


@pytest.mark.parametrize(
    ("files", "package_name", "said"),
    [
        ({"a/__init__.py": "", "b/__init__.py": ""}, None, "it contains the packages a, b"),
        ({"kernel.py": ""}, None, "it contains no package"),
        ({"a/__init__.py": ""}, "b", "no package 'b'"),
        ({"a/__init__.py": ""}, "../x", "no package '../x'"),
    ],
)
def test_a_build_without_the_package_is_an_error(
    anvil: Backend,
    make_repository: MakeRepository,
    files: dict[str, object],
    package_name: str | None,
    said: str,
) -> None:
    with pytest.raises(RepositoryNotFoundError) as caught:
        best_build(make_repository(only(files)), anvil, package_name=package_name)
    assert said in str(caught.value)


# Dependencies


def depending(**keys: object) -> dict[str, dict[str, object]]:
    return only({"__init__.py": "", "metadata.json": keys})


def test_dependencies_that_are_there_are_fine(
    anvil: Backend,
    make_repository: MakeRepository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One by its distribution, one with a version, one that only can be imported.
    (tmp_path / "only_a_module.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    depends = {"python-depends": ["pluggy", "attrs>=20", "only-a-module"]}
    check_packages(best_build(make_repository(depending(**depends)), anvil))
    assert "only_a_module" not in sys.modules


def test_a_directory_left_of_a_package_is_no_package(
    anvil: Backend,
    make_repository: MakeRepository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "left_over" / "lib").mkdir(parents=True)
    (tmp_path / "damaged-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    path = make_repository(depending(**{"python-depends": ["left-over", "damaged"]}))
    build = best_build(path, anvil)
    with pytest.raises(DependencyError) as caught:
        load_build(build)
    assert caught.value.missing == ("left-over", "damaged")


@pytest.mark.parametrize(
    ("declared", "to_install"),
    [
        ("no-such-package", "no-such-package"),
        ("attrs>=2000", "'attrs>=2000'"),
        ("tvm-ffi", "apache-tvm-ffi"),
    ],
)
def test_missing_python_packages_are_named_with_what_to_install(
    anvil: Backend, make_repository: MakeRepository, declared: str, to_install: str
) -> None:
    path = make_repository(depending(**{"python-depends": ["attrs", declared]}))
    build = best_build(path, anvil)  # to download it ahead of use, nothing has to be installed
    with pytest.raises(DependencyError) as caught:
        load_build(build)
    assert f"pip install {to_install}" in str(caught.value)
    assert caught.value.missing == (to_install.strip("'"),)
    assert isinstance(caught.value, ImportError)


def test_dependencies_of_a_build_that_is_not_chosen_do_not_matter(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    builds = depending(**{"python-depends": ["no-such-package"]})
    path = make_repository({**builds, NATIVE: {"__init__.py": ""}})
    assert best_build(path, anvil).variant == NATIVE


def test_the_repository_is_a_value_and_every_error_names_it(
    anvil: Backend, make_repository: MakeRepository
) -> None:
    path = make_repository({})
    assert LocalRepository(path) == LocalRepository(str(path))
    assert hash(LocalRepository(path)) == hash(LocalRepository(str(path)))
    with pytest.raises(LoadError) as caught:
        LocalRepository(path).best_build(anvil, host=attrs.evolve(HOST, torch=None))
    assert caught.value.repository == str(path)
