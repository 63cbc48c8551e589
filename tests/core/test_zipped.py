"""Kernel repositories in zip archives: copied to the cache once, verified, private."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels_core import errors
from kernels_core.host import HostInfo, TorchInfo
from kernels_core.plugins import Backend
from kernels_core.repository import zipped
from kernels_core.repository.importer import import_build
from kernels_core.repository.local import LocalRepository

# A machine with torch, which these tests do not need.
HOST = HostInfo(
    os="linux",
    cpu="x86_64",
    os_version="6.1",
    python=(3, 12),
    free_threaded=False,
    torch=TorchInfo(version="2.13.0", release=(2, 13), cxx11_abi=True),
)

MakeArchive = Callable[..., Path]
SOURCE = "from .ops import answer"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    start_again()
    return tmp_path / "cache" / "kernels-core" / "unpacked"


def start_again() -> None:
    """Forget the copies, as a new process does."""
    zipped._copy_of.cache_clear()


@pytest.fixture
def make_archive(make_repository: Callable[..., Path], tmp_path: Path) -> MakeArchive:
    """Write an archive with a package that has a kernel repository; return the repository in it."""

    def make(
        answer: object = 42, *, variant: str = "torch-anvil", before: bytes = b"", **also: str
    ) -> Path:
        files = {"__init__.py": SOURCE, "ops.py": f"answer = {answer!r}", **also}
        made = make_repository({variant: files}, name="kernels")
        archive = tmp_path / "app.zip"
        archive.write_bytes(before)
        with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as target:
            target.writestr("__main__.py", "")
            for file in sorted(made.rglob("*")):
                target.write(file, Path("vendor", "package", file.relative_to(made.parent)))
        shutil.rmtree(made)
        return archive / "vendor" / "package" / "kernels"

    return make


def answer_of(path: Path, anvil: Backend) -> object:
    return import_build(LocalRepository(path).best_build(anvil, host=HOST)).answer


def copies(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("ops.py"))


@pytest.mark.parametrize("inside", ["", "build", "build/torch-anvil"])
def test_a_repository_in_an_archive_is_used(
    make_archive: MakeArchive, anvil: Backend, cache: Path, inside: str
) -> None:
    path = make_archive() / inside
    repository = LocalRepository(path)
    assert repository.builds() == ("torch-anvil",)
    assert [decision.accepted for decision in repository.decisions(anvil, host=HOST)] == [True]
    build = repository.best_build(anvil, 0, host=HOST)
    assert build.repository == str(path)
    assert import_build(build).answer == 42
    assert copies(cache) == [build.path / "ops.py"]


def test_a_program_in_front_of_the_archive_does_not_matter(
    make_archive: MakeArchive, anvil: Backend
) -> None:
    assert answer_of(make_archive(before=b"#!/usr/bin/env python3\n"), anvil) == 42


def test_the_metadata_says_what_a_build_in_an_archive_is_for(
    make_archive: MakeArchive, anvil: Backend
) -> None:
    metadata = '{"backend": {"type": "anvil"}}'
    path = make_archive(variant="any-name", **{"metadata.json": metadata}) / "build" / "any-name"
    assert answer_of(path, anvil) == 42


def test_another_archive_at_the_same_path_is_another_copy(
    make_archive: MakeArchive, anvil: Backend, cache: Path
) -> None:
    assert answer_of(make_archive("first"), anvil) == "first"
    assert answer_of(make_archive("second one"), anvil) == "second one"
    assert answer_of(make_archive("first"), anvil) == "first"
    assert len(copies(cache)) == 2


def test_the_copy_is_made_once_and_by_one_of_many(
    make_archive: MakeArchive, anvil: Backend, cache: Path
) -> None:
    path = make_archive()
    with ThreadPoolExecutor(8) as pool:
        found = set(
            pool.map(lambda _: zipped._copy_of.__wrapped__(path, path.parents[2]), range(8))
        )
    assert len(found) == 1
    (copy,) = copies(cache)
    written = copy.stat()
    start_again()
    assert answer_of(path, anvil) == 42
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


@pytest.mark.parametrize(
    "damage",
    [
        lambda ops: ops.write_text("raise SystemExit('not from the archive')"),
        lambda ops: ops.with_name("extra.py").write_text("raise SystemExit"),
        lambda ops: ops.unlink(),
        lambda ops: shutil.rmtree(ops.parents[2]),
    ],
    ids=["changed", "added", "removed", "all removed"],
)
def test_a_copy_that_was_changed_is_made_again(
    make_archive: MakeArchive, anvil: Backend, cache: Path, damage: Callable[[Path], object]
) -> None:
    path = make_archive()
    LocalRepository(path).best_build(anvil, host=HOST)
    (copy,) = copies(cache)
    damage(copy)
    start_again()
    assert answer_of(path, anvil) == 42
    assert sorted(file.name for file in copy.parent.glob("*.py")) == ["__init__.py", "ops.py"]


def test_a_copy_that_is_removed_while_the_program_runs_is_made_again(
    make_archive: MakeArchive, anvil: Backend, cache: Path
) -> None:
    path = make_archive()
    LocalRepository(path).best_build(anvil, host=HOST)
    shutil.rmtree(cache)
    assert answer_of(path, anvil) == 42


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_nobody_else_can_write_to_the_copy(
    make_archive: MakeArchive, anvil: Backend, cache: Path
) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    LocalRepository(make_archive()).best_build(anvil, host=HOST)
    for directory in (cache, *cache.iterdir()):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_a_cache_that_is_a_link_of_somebody_is_refused(
    make_archive: MakeArchive, anvil: Backend, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    cache.parent.mkdir(parents=True)
    cache.symlink_to(tmp_path / "theirs")
    with pytest.raises(errors.RepositoryNotFoundError, match=r"is a link.*XDG_CACHE_HOME"):
        LocalRepository(make_archive()).builds()


def test_a_cache_that_cannot_be_written_is_named(
    make_archive: MakeArchive, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(errors.RepositoryNotFoundError, match=r"app\.zip.*set XDG_CACHE_HOME"):
        LocalRepository(make_archive()).builds()


def test_what_is_not_in_the_archive_is_not_found(make_archive: MakeArchive, cache: Path) -> None:
    path = make_archive()
    for wrong in (path / "nothing", path.with_name("kern"), path / "build" / "torch-cpu"):
        with pytest.raises(errors.RepositoryNotFoundError, match="There is no kernel repository"):
            LocalRepository(wrong).builds()
    assert copies(cache) == []


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil.py", "a\\..\\evil.py", "c:evil.py"])
def test_a_path_that_leads_out_of_the_copy_is_refused(
    make_archive: MakeArchive, cache: Path, tmp_path: Path, name: str
) -> None:
    path = make_archive()
    with zipfile.ZipFile(path.parents[2], "a") as archive:
        archive.writestr(f"vendor/package/kernels/build/torch-anvil/{name}", "evil")
    with pytest.raises(errors.RepositoryNotFoundError, match="not the path of a file"):
        LocalRepository(path).builds()
    assert copies(cache) == []


def test_a_damaged_archive_is_an_error(make_archive: MakeArchive, cache: Path) -> None:
    path = make_archive(10**200)
    archive = path.parents[2]
    content = bytearray(archive.read_bytes())
    start = content.index(b"ops.py") + len("ops.py") + 4
    content[start : start + 8] = b"\xff" * 8
    archive.write_bytes(content)
    with pytest.raises(errors.RepositoryNotFoundError, match="cannot be read"):
        LocalRepository(path).builds()
    assert copies(cache) == []


def test_without_a_home_directory_the_variable_to_set_is_named(
    make_archive: MakeArchive, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, "")
    with pytest.raises(errors.RepositoryNotFoundError, match=r"Set (XDG_CACHE_HOME|LOCALAPPDATA)"):
        LocalRepository(make_archive()).builds()
    assert not any(path.name == "kernels-core" for path in tmp_path.rglob("*"))
