"""The cache on disk: shared with the Hub client, verified once, downloaded once, repaired."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hub_server import Forks, Hub, client_environment, forget, kernel_files

from kernels_core import errors, get_kernel, install_kernel
from kernels_core.repository import hashes, integrity

REPOSITORY = "org/activation"
WEIGHTS = bytes(range(256)) * 4096


@pytest.fixture
def commit(hub: Hub) -> str:
    files = kernel_files(also={"weights.bin": WEIGHTS}, digest=True)
    return hub.add(REPOSITORY, files, lfs=["*.bin"])


@pytest.fixture
def build(hub: Hub, commit: str) -> Path:
    """The directory of an installed build; the requests for it are forgotten."""
    path = install_kernel(REPOSITORY)
    forget()
    hub.forget()
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed from here on."""
    names: list[str] = []
    original = hashes.hash_file_as

    def hash_file_as(path: Path, algorithms: object) -> dict[str, str]:
        names.append(Path(path).name)
        return original(path, algorithms)

    for module in (hashes, integrity):
        monkeypatch.setattr(module, "hash_file_as", hash_file_as)
    return names


def fetched(hub: Hub) -> list[str]:
    """The files that were requested, without the redirected requests for large ones."""
    return [r.path.partition("/build/")[2] for r in hub.requests if "/build/" in r.path]


# Receipts


def test_an_unchanged_build_is_not_hashed_again(build: Path, hashed: list[str]) -> None:
    assert install_kernel(REPOSITORY) == build
    assert hashed == []


@pytest.mark.parametrize("what", ["touched", "replaced by a copy", "linked to another file"])
def test_a_build_that_may_have_changed_is_hashed_and_found_right(
    hub: Hub, build: Path, hashed: list[str], what: str
) -> None:
    file = build / "layers.py"
    if what == "touched":
        os.utime(file)
    else:
        copy = build.parent.parent / "copy"
        copy.write_bytes(file.read_bytes())
        file.unlink()
        shutil.move(copy, file) if what == "replaced by a copy" else file.symlink_to(copy)
    install_kernel(REPOSITORY)
    assert sorted(set(hashed)) == ["__init__.py", "layers.py", "metadata.json", "weights.bin"]
    assert fetched(hub) == []
    forget()
    hashed.clear()
    install_kernel(REPOSITORY)
    assert hashed == [], "the receipt is of what is there now"


@pytest.mark.parametrize("name", ["__init__.py", "metadata.json", "weights.bin"])
def test_a_file_that_was_changed_is_removed_and_fetched_again(
    hub: Hub, build: Path, name: str
) -> None:
    blob = (build / name).resolve()
    content = blob.read_bytes()
    times = blob.stat().st_mtime_ns
    blob.chmod(blob.stat().st_mode | stat.S_IWUSR)
    blob.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(blob, ns=(times, times))
    assert install_kernel(REPOSITORY) == build
    assert (build / name).read_bytes() == content
    assert fetched(hub) == [f"torch-cpu/{name}"]


def test_a_file_that_is_lost_is_fetched_again(hub: Hub, build: Path) -> None:
    (build / "layers.py").resolve().unlink()
    install_kernel(REPOSITORY)
    assert fetched(hub) == ["torch-cpu/layers.py"]


def test_what_does_not_belong_there_is_removed(hub: Hub, build: Path, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (build / "planted.py").write_text("raise AssertionError")
    (build / "linked").symlink_to(tmp_path / "package")
    install_kernel(REPOSITORY)
    names = sorted(path.name for path in build.iterdir())
    assert names == ["__init__.py", "layers.py", "metadata.json", "weights.bin"]
    assert (tmp_path / "package" / "__init__.py").exists()
    assert fetched(hub) == []


def test_bytecode_that_other_programs_leave_there_does_no_harm(
    hub: Hub, build: Path, hashed: list[str]
) -> None:
    (build / "__pycache__").mkdir()
    (build / "__pycache__" / "layers.cpython-311.pyc").write_bytes(b"not of this build")
    assert get_kernel(REPOSITORY).answer == 42
    assert hashed == []


def test_a_cache_that_was_copied_is_verified_where_it_lies(
    hub: Hub,
    build: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hashed: list[str],
) -> None:
    root = build.parents[4]
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "copy"))
    assert install_kernel(REPOSITORY) == tmp_path / "copy" / build.relative_to(root)
    assert "layers.py" in hashed
    assert fetched(hub) == []


@pytest.mark.parametrize("record", ["refs", "publisher", "trees/{}", "builds/{}/torch-cpu"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 9}', '{"format": 1}'])
def test_a_record_that_cannot_be_read_is_no_record(
    hub: Hub, build: Path, commit: str, record: str, content: str
) -> None:
    path = build.parents[3] / "kernels-core" / f"{record.format(commit)}.json"
    assert path.is_file()
    path.write_text(content)
    assert install_kernel(REPOSITORY) == build
    assert fetched(hub) == []


# The cache as a whole


def test_the_cache_may_be_elsewhere(
    hub: Hub, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "elsewhere"))
    path = install_kernel(REPOSITORY)
    assert path.is_relative_to(tmp_path / "elsewhere")
    assert not (tmp_path / "hf-home" / "hub").exists()


def test_a_cache_that_cannot_be_written_is_named(
    hub: Hub, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "file"))
    with pytest.raises(errors.CacheError, match="KERNELS_CACHE"):
        install_kernel(REPOSITORY)


def test_the_hub_client_finds_what_was_fetched_and_the_other_way_round(
    hub: Hub, commit: str, tmp_path: Path
) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir

    name = "build/torch-cpu/weights.bin"
    theirs = hf_hub_download(REPOSITORY, name, repo_type="kernel", revision=commit)
    hub.forget()
    ours = install_kernel(REPOSITORY)
    assert Path(theirs) == ours / "weights.bin"
    assert "torch-cpu/weights.bin" not in fetched(hub)
    hub.forget()
    other = hf_hub_download(
        REPOSITORY, "build/torch-cpu/layers.py", repo_type="kernel", revision=commit
    )
    assert Path(other) == ours / "layers.py"
    assert hub.requests == []
    found = scan_cache_dir()
    assert found.warnings == []
    (revision,) = next(iter(found.repos)).revisions
    assert revision.refs == {"main"}


@pytest.mark.parametrize("by", ["hub client", "this package"])
def test_refs_with_slashes_are_recorded_as_the_hub_client_does(
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    reread_environment: Callable[[], None],
    tmp_path: Path,
    by: str,
) -> None:
    from huggingface_hub import scan_cache_dir, snapshot_download

    cache = tmp_path / "hf-home" / "hub"
    commit = hub.add(REPOSITORY, kernel_files(), branch="feature/x", ref="refs/pr/1")
    for ref in ("refs/pr/1", "feature/x"):
        if by == "this package":
            install_kernel(REPOSITORY, revision=ref)
        else:
            snapshot_download(REPOSITORY, repo_type="kernel", revision=ref)
    ((revision,),) = [repo.revisions for repo in scan_cache_dir(cache).repos]
    assert revision.refs == {"refs/pr/1", "feature/x"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reread_environment()
    forget()
    for ref in ("refs/pr/1", "feature/x"):
        path = install_kernel(REPOSITORY, revision=ref, trust_remote_code=True)
        assert commit in path.parts


def test_without_symbolic_links(
    hub: Hub,
    commit: str,
    monkeypatch: pytest.MonkeyPatch,
    reread_environment: Callable[[], None],
    hashed: list[str],
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    reread_environment()
    path = install_kernel(REPOSITORY)
    assert not any(file.is_symlink() for file in path.iterdir())
    forget()
    hashed.clear()
    install_kernel(REPOSITORY)
    assert hashed == []


def test_the_same_content_is_downloaded_once(hub: Hub) -> None:
    same = {"a.bin": WEIGHTS, "b.bin": WEIGHTS}
    first = hub.add(REPOSITORY, kernel_files(also=same), lfs=["*.bin"])
    second = hub.add(REPOSITORY, kernel_files(also={"c.bin": WEIGHTS}), lfs=["*.bin"])
    for commit in (first, second):
        install_kernel(REPOSITORY, revision=commit)
    assert len([name for name in fetched(hub) if name.endswith(".bin")]) == 1


# Downloads


def test_a_download_that_broke_off_goes_on_where_it_stopped(hub: Hub, commit: str) -> None:
    hub.fault("truncate", lambda request: request.path.startswith("/large-files/"))
    path = install_kernel(REPOSITORY)
    assert (path / "weights.bin").read_bytes() == WEIGHTS
    first, second = (r for r in hub.requests if r.path.startswith("/large-files/"))
    assert "range" not in first.headers
    start = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start < len(WEIGHTS)


def test_what_killed_processes_left_is_removed_in_time(hub: Hub, build: Path) -> None:
    blob = (build / "layers.py").resolve()
    old, new = (blob.with_name(f"{blob.name}.{name}.incomplete") for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    blob.unlink()
    install_kernel(REPOSITORY)
    assert new.exists()
    assert not old.exists()


# Threads and processes


def test_threads_that_load_the_same_kernel_fetch_it_once(hub: Hub, commit: str) -> None:
    hub.latency = 0.02
    with ThreadPoolExecutor(16) as pool:
        modules = list(pool.map(lambda _: get_kernel(REPOSITORY), range(16)))
    assert all(module is modules[0] for module in modules)
    assert len(hub.requests) == len({request.line for request in hub.requests})


def test_a_failure_is_raised_in_all_waiting_threads_and_is_not_kept(hub: Hub, commit: str) -> None:
    hub.fault("500", "tree", times=4)

    def load(_: int) -> str:
        try:
            return str(get_kernel(REPOSITORY).answer)
        except errors.HubUnreachableError:
            return "unreachable"

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(load, range(8))) <= {"unreachable", "42"}
    assert get_kernel(REPOSITORY).answer == 42


def test_processes_that_load_the_same_kernel_fetch_it_once(
    hub: Hub, commit: str, forks: Forks, tmp_path: Path
) -> None:
    hub.latency = 0.05
    environment = client_environment(hub.endpoint, tmp_path / "shared")
    program = f"from kernels_core import get_kernel\nresult = get_kernel({REPOSITORY!r}).answer"
    started = [forks.start(program, environment) for _ in range(6)]
    assert [fork.result() for fork in started] == [42] * 6
    assert sorted(fetched(hub)) == sorted(set(fetched(hub)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_process_that_was_forked_while_others_were_asking_can_load(
    hub: Hub, commit: str, fresh_python: Callable[..., object]
) -> None:
    hub.add("org/other", kernel_files("other"))
    program = f"""
import json, os, threading, time
from kernels_core import get_kernel
get_kernel("org/other")  # imports what a forked process could not, while others import it
thread = threading.Thread(target=get_kernel, args=({REPOSITORY!r},))
thread.start()
time.sleep(0.2)
child = os.fork()
if not child:
    os._exit(get_kernel({REPOSITORY!r}).answer)
_, status = os.waitpid(child, 0)
thread.join()
print(json.dumps(os.waitstatus_to_exitcode(status)))
"""
    hub.latency = 0.5
    assert fresh_python(program) == 42
    assert len([request for request in hub.requests if request.kind == "tree"]) == 3
