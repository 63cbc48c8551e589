"""Whether the files of a build are those that were published."""

from __future__ import annotations

import base64
import hashlib
import importlib.machinery
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_core.errors import DigestError, LoadError
from kernels_core.repository.hashes import (
    FileHash,
    hash_file,
    hash_file_as,
    tree_digest,
    variant_hash,
)
from kernels_core.repository.integrity import (
    is_ignored,
    verify_build,
    verify_file,
    verify_tree,
)
from kernels_core.repository.metadata import Digest, Metadata
from kernels_core.repository.paths import first_collision

FILES = {
    "__init__.py": b"from . import layers\n",
    "layers.py": b"answer = 42\n",
    "ops/__init__.py": b"",
    "ops/_kernel.abi3.so": bytes(range(256)) * 5000,
    "ops/config=8.json": b"{}",
    "metadata.json": b"{}",
}


def write(directory: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def git_sha1(content: bytes) -> FileHash:
    return FileHash("git-sha1", hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


def sha256(content: bytes) -> FileHash:
    return FileHash("sha256", hashlib.sha256(content).hexdigest())


def tree_of(files: Mapping[str, bytes]) -> dict[str, FileHash]:
    """As the Hub lists it: native code in LFS, everything else in Git."""
    return {
        name: (sha256 if name.endswith(".so") else git_sha1)(content)
        for name, content in files.items()
    }


def digest_of(files: Mapping[str, bytes], algorithm: str = "sha256") -> Metadata:
    return Metadata(
        digest=Digest(
            algorithm,
            tuple(
                (name, hashlib.new(algorithm, content).digest())
                for name, content in sorted(files.items())
                if name != "metadata.json"
            ),
        )
    )


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return write(tmp_path / "build" / "torch-cpu", FILES)


def verify_digest(build: Path, metadata: Metadata) -> None:
    verify_build(build, None, metadata)


def refused(build: Path, expected: Mapping[str, FileHash] | None = None) -> DigestError:
    """The error of the tree; that of the digest in the metadata must name the same files."""
    with pytest.raises(DigestError) as tree:
        verify_tree(build, tree_of(FILES) if expected is None else expected)
    if expected is None:
        with pytest.raises(DigestError) as digest:
            verify_digest(build, digest_of(FILES))
        assert digest.value.files == tree.value.files
    return tree.value


def verify_both(build: Path, files: Mapping[str, bytes] = FILES) -> None:
    verify_tree(build, tree_of(files))
    verify_digest(build, digest_of(files, "sha256"))
    verify_digest(build, digest_of(files, "sha512"))
    verify_build(build, tree_of(files), digest_of(files))


# Hashes


def test_a_git_hash_is_that_of_git(build: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for name in FILES:
        path = build / name
        run = subprocess.run(
            ["git", "hash-object", "--no-filters", str(path)], capture_output=True, text=True
        )
        assert hash_file(path, "git-sha1") == run.stdout.strip()


@given(content=st.binary(max_size=200), times=st.sampled_from([0, 1, 100, 10_000]))
def test_hashes_in_pieces_are_those_of_the_whole(content: bytes, times: int) -> None:
    content *= times
    with TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(content)
        assert hash_file_as(path, ["git-sha1", "sha256", "sha512"]) == {
            "git-sha1": git_sha1(content).value,
            "sha256": hashlib.sha256(content).hexdigest(),
            "sha512": hashlib.sha512(content).hexdigest(),
        }


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [
        ("md5", "0" * 32),
        ("sha1", "0" * 40),
        ("git-sha1", "0" * 39),
        ("sha256", "0" * 40),
        ("sha256", "A" * 64),
        ("sha256", "g" * 64),
        ("sha512", ""),
    ],
)
def test_a_malformed_hash_is_refused(algorithm: str, value: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        FileHash(algorithm, value)


def test_an_unknown_algorithm_is_refused(build: Path) -> None:
    with pytest.raises(ValueError, match="md5"):
        hash_file(build / "layers.py", "md5")


# Builds as they should be


def test_a_build_as_it_was_published_passes(build: Path) -> None:
    verify_both(build)


def test_a_build_without_a_digest_has_nothing_to_verify(build: Path) -> None:
    verify_digest(build, Metadata())


def test_links_to_files_are_followed_since_the_cache_is_made_of_them(
    build: Path, tmp_path: Path
) -> None:
    blob = tmp_path / "blob"
    (build / "layers.py").rename(blob)
    (build / "layers.py").symlink_to(blob)
    verify_both(build)
    blob.write_bytes(b"answer = 43\n")
    assert refused(build).files == ("layers.py",)


def test_bytecode_that_another_program_left_does_not_matter(build: Path) -> None:
    write(build, {"__pycache__/layers.cpython-311.pyc": b"?", "ops/__pycache__/x.pyc": b"?"})
    verify_both(build)


def test_bytecode_that_was_published_is_neither_needed_nor_compared(build: Path) -> None:
    published = FILES | {"__pycache__/layers.cpython-311.pyc": b"published"}
    verify_both(build, published)
    write(build, {"__pycache__/layers.cpython-311.pyc": b"written anew by Python"})
    verify_both(build, published)


def test_a_signature_of_the_metadata_is_not_in_the_digest(build: Path) -> None:
    write(build, {"metadata.json.sigstore": b"{}"})
    verify_digest(build, digest_of(FILES))
    with pytest.raises(DigestError):
        verify_tree(build, tree_of(FILES))


def test_a_build_below_a_directory_named_pycache_is_verified_all_the_same(tmp_path: Path) -> None:
    build = write(tmp_path / "__pycache__" / "build" / "torch-cpu", FILES)
    verify_both(build)
    write(build, {"layers.py": b"evil = 1\n"})
    assert refused(build).files == ("layers.py",)
    with pytest.raises(DigestError):
        verify_digest(build, digest_of({}))


# Builds that are not


def test_a_changed_file_is_named_with_what_was_expected_and_got(build: Path) -> None:
    content = b"answer = 43\n"  # of the same size
    write(build, {"layers.py": content})
    error = refused(build)
    assert error.path == "layers.py"
    assert error.expected == str(git_sha1(FILES["layers.py"]))
    assert error.got == str(git_sha1(content))
    assert str(build / "layers.py") in str(error)
    assert error.expected in str(error)
    assert error.got in str(error)
    assert isinstance(error, LoadError)
    assert pickle.loads(pickle.dumps(error)).files == ("layers.py",)


def test_all_files_that_are_wrong_are_listed_so_that_all_can_be_fetched_anew(build: Path) -> None:
    write(build, {name: b"x" for name in FILES if name != "metadata.json"})
    write(build, {f"extra{n}.txt": b"" for n in range(50)})
    error = refused(build)
    assert len(error.files) == len(FILES) - 1 + 50
    assert "50 more" in str(error)


def test_a_truncated_file_is_refused(build: Path) -> None:
    os.truncate(build / "ops" / "_kernel.abi3.so", 1024)
    assert refused(build).files == ("ops/_kernel.abi3.so",)


def test_a_missing_file_is_refused(build: Path) -> None:
    (build / "ops" / "config=8.json").unlink()
    assert refused(build).got == "no such file"


def test_a_missing_build_is_refused(tmp_path: Path) -> None:
    assert "unreadable directory" in refused(tmp_path / "nothing", {}).got


@pytest.mark.parametrize(
    "name",
    [
        "evil.py",
        "layers.abi3.so",  # found before layers.py
        "layers/__init__.py",  # a package is found before a module
        "layers.pyc",
        "evil.pyc",
        "__init__.pyc",
        "ops/evil.PYC",
        "__pycache__/evil.py",
        "__pycache__/evil.abi3.so",
        "__pycache__/deeper/evil.pyc",
        "metadata.json.sigstore/evil.py",
        "ops/metadata.json",
        "README.md",
        ".hidden",
    ],
)
def test_what_was_not_hashed_is_refused(build: Path, name: str) -> None:
    write(build, {name: b""})
    assert refused(build).files == (name,)


def test_bytecode_instead_of_the_source_is_refused(build: Path) -> None:
    (build / "layers.py").unlink()
    write(build, {"layers.pyc": b"", "__pycache__/layers.cpython-311.pyc": b""})
    assert set(refused(build).files) == {"layers.py", "layers.pyc"}


def test_bytecode_that_was_published_as_a_module_is_refused(build: Path) -> None:
    files = {"layers.pyc": b"compiled elsewhere"}
    write(build, files)
    with pytest.raises(DigestError, match="bytecode"):
        verify_tree(build, tree_of(FILES | files))
    with pytest.raises(DigestError, match="bytecode"):
        verify_digest(build, digest_of(FILES | files))


@pytest.mark.parametrize("name", ["linked", "__pycache__", "ops/deeper", "linked.pyc"])
def test_a_linked_directory_is_refused(build: Path, tmp_path: Path, name: str) -> None:
    (build / name).symlink_to(write(tmp_path / "elsewhere", {"evil.py": b""}))
    error = refused(build)
    assert error.files == (name,)
    assert "link to a directory" in error.got


def test_a_link_in_place_of_bytecode_is_refused_too(build: Path, tmp_path: Path) -> None:
    (build / "__pycache__").mkdir()
    (build / "__pycache__" / "x.pyc").symlink_to(write(tmp_path / "elsewhere", {"evil.py": b""}))
    assert "link to a directory" in refused(build).got


def test_a_directory_replaced_by_a_link_to_its_equal_is_refused(
    build: Path, tmp_path: Path
) -> None:
    (build / "ops").rename(tmp_path / "ops")
    (build / "ops").symlink_to(tmp_path / "ops")
    assert "ops" in refused(build).files


def test_a_link_that_leads_round_in_a_circle_is_refused(build: Path) -> None:
    (build / "ops" / "again").symlink_to(build)
    (build / "itself").symlink_to(build / "itself")
    assert refused(build).files == ("itself", "ops/again")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["pipe.py", "layers.py"])
def test_a_pipe_is_refused_and_not_waited_for(build: Path, name: str) -> None:
    (build / name).unlink(missing_ok=True)
    os.mkfifo(build / name)
    assert "not a regular file" in refused(build).got or name in refused(build).files
    with pytest.raises(DigestError):
        verify_file(build / name, git_sha1(b""))
    with pytest.raises(OSError, match="not a regular file"):
        hash_file(build / name, "sha256")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_a_file_that_cannot_be_read_is_refused(build: Path) -> None:
    (build / "layers.py").chmod(0)
    assert "unreadable" in refused(build).got


def test_a_directory_in_place_of_a_file_is_refused(build: Path) -> None:
    (build / "layers.py").unlink()
    (build / "layers.py").mkdir()
    assert refused(build).files == ("layers.py",)


@pytest.mark.parametrize(
    "path",
    ["../evil.py", "ops/../layers.py", "/etc/passwd", "ops\\evil.py", "C:/evil.py", "", "a\n"],
)
def test_an_expected_path_that_could_lead_elsewhere_is_refused(build: Path, path: str) -> None:
    (build.parent / "evil.py").touch()
    for files in (FILES | {path: b""}, {path: b""}):
        with pytest.raises(DigestError, match="unsafe path"):
            verify_tree(build, tree_of(files))
        with pytest.raises(DigestError, match="unsafe path"):
            verify_digest(build, digest_of(files))
    with pytest.raises(ValueError, match="not the path of a file"):
        tree_digest({path: git_sha1(b"")})
    with pytest.raises(ValueError, match="not the path of a file"):
        variant_hash({path: git_sha1(b"")})


def test_expected_paths_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    files = {"__init__.py": b"", "layers.py": b"harmless\n", "Layers.py": b"evil\n"}
    build = write(tmp_path, files)
    for check in (
        lambda: verify_tree(build, tree_of(files)),
        lambda: verify_digest(build, digest_of(files)),
    ):
        with pytest.raises(DigestError, match="the same as"):
            check()


@pytest.mark.parametrize("left_out", ["layers.py", "ops/__init__.py", "ops/_kernel.abi3.so"])
def test_a_list_that_leaves_out_a_file_is_refused(build: Path, left_out: str) -> None:
    listed = {name: content for name, content in FILES.items() if name != left_out}
    with pytest.raises(DigestError, match="not listed") as tree:
        verify_tree(build, tree_of(listed))
    with pytest.raises(DigestError, match="not listed") as digest:
        verify_digest(build, digest_of(listed))
    with pytest.raises(DigestError, match="not listed"):
        verify_build(build, tree_of(FILES), digest_of(listed))
    assert tree.value.files == digest.value.files == (left_out,)


def test_a_tree_and_a_digest_that_contradict_each_other_are_refused(build: Path) -> None:
    other = FILES | {"layers.py": b"another\n"}
    with pytest.raises(DigestError) as caught:
        verify_build(build, tree_of(FILES), digest_of(other))
    assert caught.value.expected.startswith("sha256 ")
    with pytest.raises(DigestError):
        verify_build(build, tree_of(other), digest_of(FILES))


def test_the_repository_is_named_when_it_is_known(build: Path) -> None:
    with pytest.raises(DigestError) as caught:
        verify_tree(build, {}, repository="org/name")
    assert caught.value.repository == "org/name"


def test_a_single_file_is_verified(build: Path) -> None:
    verify_file(build / "layers.py", git_sha1(FILES["layers.py"]))
    with pytest.raises(DigestError, match="git-sha1"):
        verify_file(build / "layers.py", git_sha1(b"other"))
    with pytest.raises(DigestError, match="unreadable"):
        verify_file(build / "nothing.py", git_sha1(b""))


def test_no_descriptor_stays_open(build: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open descriptors cannot be counted here")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("layers.py", "ops", "nothing"):
        with pytest.raises(DigestError):
            verify_file(build / name, git_sha1(b"?"))
    assert len(os.listdir("/proc/self/fd")) == before


# For any build

_parts = st.sampled_from(["a", "b", "B", "__init__", "__pycache__", "é", "x y"])
_suffixes = st.sampled_from(["", ".py", ".pyc", *importlib.machinery.EXTENSION_SUFFIXES])
_paths = st.builds(
    lambda parts, suffix: "/".join(parts) + suffix,
    st.lists(_parts, min_size=1, max_size=3),
    _suffixes,
)
builds = st.dictionaries(_paths, st.binary(max_size=20), max_size=8).filter(
    lambda files: first_collision(files) is None
)


def is_importable(path: str) -> bool:
    """Whether Python's own import system would run this file as a module."""
    return path.endswith(tuple(importlib.machinery.all_suffixes()))


@given(published=builds, there=builds)
def test_whatever_could_be_imported_was_published_and_is_unchanged(
    published: dict[str, bytes], there: dict[str, bytes]
) -> None:
    there = {**there, **{path: published[path] for path in list(published)[::2]}}
    if first_collision(there):
        return
    needed = {path: content for path, content in published.items() if not is_ignored(path)}
    same = needed == {path: content for path, content in there.items() if not is_ignored(path)}
    loose = any(path.endswith(".pyc") and not is_ignored(path) for path in there)
    with TemporaryDirectory() as folder:
        build = write(Path(folder), there)
        for check in (
            lambda: verify_tree(build, tree_of(published)),
            lambda: verify_digest(build, digest_of(published)),
        ):
            if same and not loose:
                check()
            else:
                with pytest.raises(DigestError):
                    check()
    if same and not loose:
        for path in filter(is_importable, there):
            assert is_ignored(path) or there[path] == published[path]


@given(files=builds, data=st.data())
def test_any_single_change_is_noticed(files: dict[str, bytes], data: st.DataObject) -> None:
    files = {path: content for path, content in files.items() if not path.endswith(".pyc")}
    if not files:
        return
    path = data.draw(st.sampled_from(sorted(files)))
    change = data.draw(st.sampled_from(["flip", "append", "remove"]))
    with TemporaryDirectory() as folder:
        build = write(Path(folder), files)
        verify_tree(build, tree_of(files))
        if change == "remove":
            (build / path).unlink()
        elif change == "append" or not files[path]:
            (build / path).write_bytes(files[path] + b"!")
        else:
            at = data.draw(st.integers(0, len(files[path]) - 1))
            content = bytearray(files[path])
            content[at] ^= 1 << data.draw(st.integers(0, 7))
            (build / path).write_bytes(content)
        assert path in refused(build, tree_of(files)).files


# One text for a whole build


def test_the_hash_of_older_lock_files() -> None:
    files = {
        "ops.so": sha256(b"native"),
        "__init__.py": git_sha1(b"source"),
        "é.py": git_sha1(b"last, by its bytes"),
        "z.py": git_sha1(b"before it"),
    }
    concatenated = b"".join(
        name.encode() + bytes.fromhex(files[name].value)
        for name in ("__init__.py", "ops.so", "z.py", "é.py")
    )
    assert variant_hash(files) == f"sha256-{hashlib.sha256(concatenated).hexdigest()}"


def test_the_digest_of_a_tree_is_that_of_a_plain_listing() -> None:
    files = {"ops.so": sha256(b"native"), "__init__.py": git_sha1(b"source")}
    listing = f"{git_sha1(b'source')} __init__.py\n{sha256(b'native')} ops.so\n"
    assert tree_digest(files) == f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"


trees = builds.map(tree_of)


@given(one=trees, other=trees)
def test_equal_texts_mean_equal_files(one: dict[str, FileHash], other: dict[str, FileHash]) -> None:
    for text in (tree_digest, variant_hash):
        assert (text(one) == text(other)) == (one == other)
        assert text(dict(reversed(one.items()))) == text(one)


# The ecosystem's own digests


def test_the_digest_that_the_ecosystem_writes_is_understood(build: Path) -> None:
    hf_kernels = pytest.importorskip(
        "kernels._rust", reason="needs Hugging Face kernels: pip install kernels"
    )
    for algorithm in (hf_kernels.DigestAlgorithm.SHA256, hf_kernels.DigestAlgorithm.SHA512):
        written = hf_kernels.Digest.hash_variant(algorithm, build)
        pairs = ((name, base64.b64decode(text)) for name, text in written.files.items())
        digest = Digest(str(algorithm).lower(), tuple(pairs))
        verify_digest(build, Metadata(digest=digest))
        assert {name for name, _ in digest.files} == FILES.keys() - {"metadata.json"}


def test_large_files_do_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.so"
    with path.open("wb") as file:
        file.truncate(256 * 1024 * 1024)  # sparse
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from kernels_core.repository.hashes import hash_file\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "hash_file(Path(sys.argv[1]), 'sha256')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    if sys.platform != "linux":
        pytest.skip("the unit of ru_maxrss differs between systems")
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 32 * 1024  # KiB
