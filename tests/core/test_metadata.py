"""Strict reading of `metadata.json`."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_core.errors import LoadError, MetadataError
from kernels_core.repository.metadata import (
    BackendMetadata,
    Digest,
    KernelDependency,
    Metadata,
    read_metadata,
)
from kernels_core.repository.schema import MAX_BYTES

HASH = bytes(range(32))
FULL: dict[str, Any] = {
    "name": "activation",
    "id": "_activation_3a9c",
    "version": 2,
    "license": "Apache-2.0",
    "python-depends": ["einops", "nvidia-cutlass-dsl>=4"],
    "kernel-depends": [
        {"repo-id": "org/base", "version": 1},
        {"repo-id": "org/other", "revision": "main"},
    ],
    "backend": {"type": "anvil", "archs": ["iron", "steel"]},
    "upstream": "https://example.org/activation",
    "source": "https://example.org/source",
    "digest": {
        "algorithm": "sha256",
        "files": {"__init__.py": base64.b64encode(HASH).decode()},
    },
    "provenance": {"kernel": {"commit": "0" * 40, "dirty": False}},
    "kernels-minver": "0.12.3",
    "of a later format": {"anything": [1, None]},
}


def read(content: bytes | str | object) -> Metadata | None:
    if not isinstance(content, (bytes, str)):
        content = json.dumps(content)
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    with TemporaryDirectory() as folder:
        path = Path(folder, "metadata.json")
        path.write_bytes(content)
        return read_metadata(path, repository="org/name")


def error_of(content: bytes | str | object) -> MetadataError:
    with pytest.raises(MetadataError) as caught:
        read(content)
    return caught.value


def test_every_key_is_read() -> None:
    assert read(FULL) == Metadata(
        name="activation",
        id="_activation_3a9c",
        version=2,
        license="Apache-2.0",
        python_depends=("einops", "nvidia-cutlass-dsl>=4"),
        kernel_depends=(
            KernelDependency("org/base", version=1),
            KernelDependency("org/other", revision="main"),
        ),
        backend=BackendMetadata("anvil", ("iron", "steel")),
        upstream=("https://example.org/activation",),
        source="https://example.org/source",
        digest=Digest("sha256", (("__init__.py", HASH),)),
        kernels_minver=(0, 12, 3),
    )


@pytest.mark.parametrize("key", FULL)
def test_every_key_is_optional(key: str) -> None:
    without = {name: value for name, value in FULL.items() if name != key}
    attribute = key.replace("-", "_")
    metadata = read(without)
    assert metadata is not None
    if hasattr(metadata, attribute):
        assert getattr(metadata, attribute) == getattr(Metadata(), attribute)


@pytest.mark.parametrize("key", ["upstream", "source", "digest", "provenance", "kernels-minver"])
def test_null_stands_for_an_absent_value_where_writers_use_it(key: str) -> None:
    assert read({key: None}) == Metadata()
    assert read({"backend": {"type": "cpu", "archs": None}}) == Metadata(
        backend=BackendMetadata("cpu")
    )


def test_several_upstreams_are_read() -> None:
    assert read({"upstream": ["a", "b"]}) == Metadata(upstream=("a", "b"))


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert read_metadata(tmp_path / "metadata.json") is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a"),
        ("name", "Activation"),
        ("name", "activation-"),
        ("name", "activation\n"),
        ("name", None),
        ("id", "3a"),
        ("id", "a-b"),
        ("id", "class"),
        ("id", ""),
        ("version", -1),
        ("version", True),
        ("version", 1.0),
        ("version", "1"),
        ("version", None),
        ("license", ["MIT"]),
        ("license", None),
        ("python-depends", "einops"),
        ("python-depends", None),
        ("kernel-depends", {}),
        ("backend", "cuda"),
        ("backend", None),
        ("upstream", ""),
        ("source", 1),
        ("digest", []),
        ("provenance", "me"),
        ("kernels-minver", "1.2"),
        ("kernels-minver", "1.2.3rc1"),
        ("kernels-minver", 1),
    ],
)
def test_a_wrong_value_is_named_by_file_and_key(key: str, value: object) -> None:
    error = error_of({**FULL, key: value})
    assert error.key == key
    assert error.path.name == "metadata.json"
    assert str(error).startswith(f"{error.path}: key '{key}' must be ")
    assert error.repository == "org/name"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"python-depends": ["einops", 3]}, "python-depends[1]"),
        ({"python-depends": ["no name at all"]}, "python-depends[0]"),
        ({"python-depends": ["x @ https://example.org/x.whl"]}, "python-depends[0]"),
        ({"backend": {}}, "backend.type"),
        ({"backend": {"type": 1}}, "backend.type"),
        ({"backend": {"type": "cuda", "archs": "9.0"}}, "backend.archs"),
        ({"backend": {"type": "cuda", "archs": [9.0]}}, "backend.archs[0]"),
        ({"kernel-depends": ["org/name"]}, "kernel-depends[0]"),
        ({"kernel-depends": [{"version": 1}]}, "kernel-depends[0].repo-id"),
        ({"kernel-depends": [{"repo-id": "name", "version": 1}]}, "kernel-depends[0].repo-id"),
        ({"kernel-depends": [{"repo-id": "../x", "version": 1}]}, "kernel-depends[0].repo-id"),
        ({"kernel-depends": [{"repo-id": "o/n"}]}, "kernel-depends[0]"),
        (
            {"kernel-depends": [{"repo-id": "o/n", "version": 1, "revision": "x"}]},
            "kernel-depends[0]",
        ),
        ({"kernel-depends": [{"repo-id": "o/n", "version": "1"}]}, "kernel-depends[0].version"),
        ({"kernel-depends": [{"repo-id": "o/n", "revision": 1}]}, "kernel-depends[0].revision"),
        ({"digest": {"files": {}}}, "digest.algorithm"),
        ({"digest": {"algorithm": "md5", "files": {}}}, "digest.algorithm"),
        ({"digest": {"algorithm": "sha256"}}, "digest.files"),
        ({"digest": {"algorithm": "sha256", "files": {"a": "!"}}}, "digest.files.a"),
        ({"digest": {"algorithm": "sha512", "files": {"a": "AAAA"}}}, "digest.files.a"),
        ({"digest": {"algorithm": "sha256", "files": {"../a": ""}}}, "digest.files.../a"),
        ({"digest": {"algorithm": "sha256", "files": {"/a": ""}}}, "digest.files./a"),
        ({"digest": {"algorithm": "sha256", "files": {"a\\b": ""}}}, "digest.files.a\\b"),
    ],
)
def test_a_wrong_value_inside_is_named_by_its_path(content: object, key: str) -> None:
    assert error_of(content).key == key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"name": "a-b", "name": "a-b"}', "name"),
        ('{"backend": {"type": "cpu", "type": "cuda"}}', "backend.type"),
        ('{"of a later format": [1, {"a": 1, "a": 2}]}', "of a later format[1].a"),
    ],
)
def test_a_duplicate_key_is_refused_wherever_it_is(text: str, key: str) -> None:
    error = error_of(text)
    assert error.key == key
    assert "twice" in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"license": "\xff"}',
        b"{} {}",
        b"{} x",
        b'{"version": NaN}',
        b'{"x": Infinity}',
        b'{"x": ' + b"9" * 5000 + b"}",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"x": ' * 50_000 + b"1" + b"}" * 50_000,
    ],
)
def test_a_file_that_is_no_json_object_is_refused(content: bytes) -> None:
    assert error_of(content).key == ""


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").mkdir()
    with pytest.raises(MetadataError, match="cannot be read"):
        read_metadata(tmp_path / "metadata.json")


def test_the_error_is_a_load_error_a_value_error_and_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(error_of({"version": "1"})))
    assert isinstance(error, LoadError)
    assert isinstance(error, ValueError)
    assert (error.key, error.repository) == ("version", "org/name")


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(str(error_of({"version": "9" * 10_000}))) < 300


def test_metadata_is_hashable() -> None:
    assert hash(read(FULL)) == hash(read(FULL))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
valid = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"[a-z][-a-z0-9]*[a-z0-9]", fullmatch=True),
        "id": st.from_regex(r"_[a-z0-9_]*", fullmatch=True),
        "version": st.integers(0),
        "license": texts,
        "python-depends": st.lists(st.sampled_from(["einops", "tvm-ffi", "nki"])),
        "kernel-depends": st.lists(
            st.one_of(
                st.fixed_dictionaries({"repo-id": st.just("o/n"), "version": st.integers(0)}),
                st.fixed_dictionaries({"repo-id": st.just("o/n"), "revision": texts}),
            )
        ),
        "backend": st.fixed_dictionaries({"type": texts}, optional={"archs": st.lists(texts)}),
        "upstream": st.lists(texts),
        "source": texts,
        "kernels-minver": st.tuples(*[st.integers(0, 999)] * 3).map(
            lambda version: "{}.{}.{}".format(*version)
        ),
    },
)


def as_json(metadata: Metadata) -> dict[str, Any]:
    """What the file said, from what was read; keys with empty lists left out."""
    dependencies = [
        {"repo-id": d.repo_id}
        | ({"version": d.version} if d.revision is None else {"revision": d.revision})
        for d in metadata.kernel_depends
    ]
    backend = metadata.backend and {"type": metadata.backend.type} | (
        {"archs": list(metadata.backend.archs)} if metadata.backend.archs else {}
    )
    minimum = metadata.kernels_minver and ".".join(map(str, metadata.kernels_minver))
    values = {
        "name": metadata.name,
        "id": metadata.id,
        "version": metadata.version,
        "license": metadata.license,
        "python-depends": list(metadata.python_depends) or None,
        "kernel-depends": dependencies or None,
        "backend": backend,
        "upstream": list(metadata.upstream) or None,
        "source": metadata.source,
        "kernels-minver": minimum,
    }
    return {key: value for key, value in values.items() if value is not None}


@given(valid)
def test_what_is_valid_is_read_unchanged(content: dict[str, Any]) -> None:
    metadata = read(content)
    assert metadata is not None
    if not content.get("backend", {}).get("archs", True):
        del content["backend"]["archs"]
    assert as_json(metadata) == {key: value for key, value in content.items() if value != []}


def test_a_file_of_any_size_is_refused_before_it_is_parsed() -> None:
    content = b'{"name": "' + b"a" * MAX_BYTES + b'"}'
    assert f"larger than {MAX_BYTES} bytes" in str(error_of(content))


names = st.sampled_from([*FULL, "type", "archs", "algorithm", "files", "repo-id", "revision"])
any_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), names),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(names, st.text()), inner, max_size=6),
    ),
    max_leaves=12,
)


def error_or_none(content: object) -> MetadataError | None:
    """Anything that is neither metadata nor a MetadataError fails the test."""
    try:
        metadata = read(content)
    except MetadataError as error:
        return error
    assert isinstance(metadata, Metadata)
    return None


@given(st.one_of(st.binary(), any_json.map(lambda value: json.dumps(value).encode())))
def test_any_content_gives_metadata_or_an_error_that_names_the_file(content: bytes) -> None:
    error = error_or_none(content)
    assert error is None or str(error).startswith(f"{error.path}: ")


@given(st.sampled_from(sorted(FULL)), any_json)
def test_a_wrong_value_is_blamed_on_no_other_key(key: str, value: object) -> None:
    error = error_or_none({**FULL, key: value})
    assert error is None or error.key == "" or error.key.startswith(key)
