"""Lock files: both formats are read strictly, the current one is written, digests beside it."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_core.errors import LoadError, LockFileError, LockFileNotFoundError, NotLockedError
from kernels_core.locks.files import (
    digests_path,
    digests_text,
    lock_text,
    parse_lock,
    read_lock,
)
from kernels_core.locks.lock import Lock, LockedKernel
from kernels_core.repository.metadata import KernelDependency

A, B, C = "a" * 40, "b" * 40, "c" * 40
HASH = "sha256-" + "0" * 64
PATH = Path("project", "kernels.lock")


def entry(commit: str = A, **dependency: object) -> dict[str, Any]:
    return {
        "dependency": {"repo-id": "org/name"}
        | {k.replace("_", "-"): v for k, v in dependency.items()},
        "lock": {"commit": commit},
    }


def old_entry(**changed: object) -> dict[str, Any]:
    variants = {"torch-cpu": {"hash": HASH, "hash_type": "git_lfs_concat"}}
    return {"repo_id": "org/name", "sha": A, "variants": variants} | changed


def detail(**changed: object) -> dict[str, Any]:
    return {
        "dependency": {"repo-id": "org/name", "version": 1},
        "commit": A,
        "direct": True,
        "depends": [{"repo-id": "org/base", "revision": "main"}],
        "variants": {"torch-cpu": {"hash": HASH, "hash_type": "git_lfs_concat"}},
    } | changed


def locked(
    repo_id: str = "org/name",
    *,
    version: int | None = None,
    revision: str | None = None,
    commit: str = A,
    **more: Any,
) -> LockedKernel:
    return LockedKernel(KernelDependency(repo_id, version, revision), commit, **more)


def parse(content: object, digests: object = None) -> Lock:
    def encoded(value: object) -> bytes:
        return value if isinstance(value, bytes) else json.dumps(value).encode()

    return parse_lock(encoded(content), None if digests is None else encoded(digests), path=PATH)


def error_of(content: object, digests: object = None) -> LockFileError:
    with pytest.raises(LockFileError) as caught:
        parse(content, digests)
    return caught.value


def test_the_current_format_is_read() -> None:
    lock = parse([entry(version=1), entry(B, repo_id="org/other", revision="v0.0.3")])
    assert lock.kernels == (
        locked(version=1),
        locked("org/other", revision="v0.0.3", commit=B),
    )
    assert lock.kernel("org/other").commit == B


def test_the_older_format_is_read_with_its_digests() -> None:
    lock = parse([old_entry()])
    assert lock.kernel("org/name").commit == A
    assert lock.kernel("org/name").variants == {"torch-cpu": HASH}


def test_commits_are_compared_in_lower_case() -> None:
    assert parse([entry("A" * 40, version=1)]).kernel("org/name").commit == A


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ([{**entry(version=1), "x": 1}], "[0].x"),
        ([entry(version=1, x=1)], "[0].dependency.x"),
        ([{**entry(version=1), "lock": {"commit": A, "x": 1}}], "[0].lock.x"),
        ([entry(version=1), entry(version="2")], "[1].dependency.version"),
        ([entry(version=">=1")], "[0].dependency.version"),
        ([entry(version=True)], "[0].dependency.version"),
        ([entry(version=-1)], "[0].dependency.version"),
        ([entry(version=1, revision="main")], "[0].dependency"),
        ([entry()], "[0].dependency"),
        ([entry(revision="")], "[0].dependency.revision"),
        ([entry(repo_id="name", version=1)], "[0].dependency.repo-id"),
        ([entry(repo_id="../name", version=1)], "[0].dependency.repo-id"),
        ([entry(A[1:], version=1)], "[0].lock.commit"),
        ([entry("main", version=1)], "[0].lock.commit"),
        ([{"lock": {"commit": A}}], "[0].dependency"),
        ([{"dependency": {"repo-id": "org/name", "version": 1}}], "[0].lock"),
        ([old_entry(x=1)], "[0].x"),
        ([old_entry(sha="main")], "[0].sha"),
        ([old_entry(variants=[])], "[0].variants"),
        (
            [old_entry(variants={"v": {"hash": HASH, "hash_type": "sha1"}})],
            "[0].variants.v.hash_type",
        ),
        (
            [old_entry(variants={"v": {"hash": "sha256-0", "hash_type": "git_lfs_concat"}})],
            "[0].variants.v.hash",
        ),
        ([old_entry(), entry(version=1)], "[1].dependency"),
        ([1], "[0]"),
        ({}, ""),
        ([entry(version=1), entry(B, version=1)], ""),
        (b"[", ""),
        (b"\xef\xbb\xbf[]", ""),
    ],
    ids=str,
)
def test_a_malformed_lock_is_an_error_that_names_file_and_key(content: object, key: str) -> None:
    error = error_of(content)
    assert error.key == key
    assert str(error).startswith(f"{PATH}: ")


@pytest.mark.parametrize(
    ("digests", "key"),
    [
        ({"format": 2, "kernels": []}, "format"),
        ({"kernels": []}, "format"),
        ({"format": 1, "kernels": [detail(x=1)]}, "kernels[0].x"),
        ({"format": 1, "kernels": [detail(direct=1)]}, "kernels[0].direct"),
        ({"format": 1, "kernels": [detail(depends=[{}])]}, "kernels[0].depends[0].repo-id"),
        ({"format": 1, "kernels": [detail(variants=None)]}, "kernels[0].variants"),
        ({"format": 1, "kernels": [detail(), detail()]}, ""),
    ],
    ids=str,
)
def test_malformed_digests_are_an_error_that_names_file_and_key(digests: object, key: str) -> None:
    error = error_of([entry(version=1)], digests)
    assert error.key == key
    assert str(error).startswith(f"{PATH}.digests.json: ")


def test_digests_are_read_from_beside_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "kernels.lock"
    path.write_text(json.dumps([entry(version=1)]))
    assert read_lock(path).kernel("org/name") == locked(version=1)
    digests_path(path).write_text(json.dumps({"format": 1, "kernels": [detail()]}))
    assert read_lock(path).kernel("org/name") == locked(
        version=1,
        variants={"torch-cpu": HASH},
        direct=True,
        depends=(KernelDependency("org/base", revision="main"),),
    )


@pytest.mark.parametrize("kernels", [[], [detail(commit=B)], [detail(), detail(commit=B)]])
def test_digests_of_another_lock_are_refused(kernels: list[object]) -> None:
    error = error_of([entry(version=1)], {"format": 1, "kernels": kernels})
    assert "kernels-core lock" in str(error) or "twice" in str(error)


def test_a_missing_lock_is_an_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LockFileNotFoundError, match="kernels-core lock") as caught:
        read_lock(tmp_path / "kernels.lock")
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, LoadError)
    assert caught.value.source == str(tmp_path / "kernels.lock")


def test_a_lock_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LockFileError, match="cannot be read"):
        read_lock(tmp_path)


def test_a_kernel_that_is_not_locked_is_an_error_that_lists_what_is() -> None:
    with pytest.raises(NotLockedError, match=r"only org/name \(version 1\)") as caught:
        parse([entry(version=1)]).kernel("org/other")
    assert caught.value.repository == "org/other"
    assert isinstance(caught.value, LookupError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_of_two_versions_the_one_that_the_project_requires_is_its_kernel() -> None:
    kernels = (locked(version=1, commit=A, direct=False), locked(version=2, commit=B, direct=True))
    assert Lock(kernels).kernel("org/name").commit == B


def test_two_versions_without_digests_are_ambiguous_not_guessed() -> None:
    lock = parse([entry(A, version=1), entry(B, version=2)])
    with pytest.raises(NotLockedError, match=r"version 1.*version 2"):
        lock.kernel("org/name")
    assert lock.dependency(KernelDependency("org/name", version=2)).commit == B
    # If both have the same commit, there is nothing to choose.
    assert parse([entry(A, version=1), entry(A, revision="main")]).kernel("org/name").commit == A


def test_a_dependency_that_is_not_locked_is_an_error() -> None:
    with pytest.raises(NotLockedError, match=r"does not lock org/name \(version 2\)"):
        parse([entry(version=1)]).dependency(KernelDependency("org/name", version=2))


def test_kernels_are_sorted_by_repository_then_version_as_a_number_then_revision() -> None:
    written = lock_text(
        Lock(
            (
                locked("org/b", version=1),
                locked("org/a", revision="main"),
                locked("org/a", version=10),
                locked("org/a", version=9),
            )
        )
    )
    wanted = [("org/a", 9), ("org/a", 10), ("org/a", "main"), ("org/b", 1)]
    found = [entry["dependency"] for entry in json.loads(written)]
    assert [(d["repo-id"], d.get("version", d.get("revision"))) for d in found] == wanted


commits = st.text("0123456789abcdef", min_size=40, max_size=40)
dependencies = st.builds(
    lambda repo_id, at: KernelDependency(repo_id, **at),
    st.from_regex(r"[a-z][a-z0-9-]{0,3}/[A-Za-z0-9][A-Za-z0-9._-]{0,3}", fullmatch=True),
    st.one_of(
        st.fixed_dictionaries({"version": st.integers(0, 20)}),
        st.fixed_dictionaries({"revision": st.text(min_size=1, max_size=8)}),
    ),
)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256-{}".format)
kernels = st.builds(
    LockedKernel,
    dependencies,
    commits,
    st.dictionaries(st.text(max_size=8), hashes, max_size=3),
    st.booleans(),
    st.lists(dependencies, max_size=2).map(tuple),
)
locks = st.lists(kernels, max_size=5, unique_by=lambda kernel: kernel.dependency).map(
    lambda found: Lock(tuple(found), str(PATH))
)


@given(locks)
def test_what_is_written_is_read_again(lock: Lock) -> None:
    content = lock_text(lock).encode()
    assert parse_lock(content, digests_text(lock).encode(), path=PATH) == lock
    bare = tuple(LockedKernel(kernel.dependency, kernel.commit) for kernel in lock.kernels)
    assert parse_lock(content, None, path=PATH).kernels == bare


@given(locks, st.randoms())
def test_the_order_in_which_kernels_were_locked_does_not_show(lock: Lock, random: Any) -> None:
    shuffled = list(lock.kernels)
    random.shuffle(shuffled)
    assert lock_text(Lock(tuple(shuffled))) == lock_text(lock)


@given(
    st.one_of(
        st.binary(),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.just(A)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(
                        ["dependency", "lock", "repo-id", "version", "commit", "repo_id"]
                    ),
                    inner,
                ),
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_content_gives_a_lock_or_the_typed_error(content: bytes) -> None:
    with contextlib.suppress(LockFileError):
        assert isinstance(parse_lock(content, content, path=PATH), Lock)


@settings(deadline=None)  # the first run imports Hugging Face kernels
@given(locks)
def test_hf_kernels_writes_the_same_and_reads_ours(lock: Lock) -> None:
    hf_kernels = pytest.importorskip(
        "kernels._rust", reason="needs Hugging Face kernels: pip install kernels"
    )

    def theirs(dependency: KernelDependency) -> Any:
        if dependency.revision is None:
            version = hf_kernels.KernelVersion.Version(dependency.version)
        else:
            version = hf_kernels.KernelVersion.Revision(dependency.revision)
        return hf_kernels.KernelDependency(repo_id=dependency.repo_id, version=version)

    pairs = [(theirs(k.dependency), hf_kernels.KernelLock(k.commit)) for k in lock.kernels]
    content = lock_text(lock)
    assert dict(hf_kernels.KernelLocks.from_json(content).items()) == dict(pairs)
    assert json.loads(hf_kernels.KernelLocks(dict(pairs)).to_json()) == json.loads(content)
