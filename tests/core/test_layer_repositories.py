"""Layer repositories are values: declaring and comparing them touches nothing."""

import pickle

import pytest

from kernels_core import LayerRepository, LocalLayerRepository, LockedLayerRepository


@pytest.mark.parametrize(
    "make",
    [
        lambda: LayerRepository("org/kernel", "Layer"),
        lambda: LayerRepository(repo_id="org/kernel", layer_name="Layer", revision="v0.0.3"),
        lambda: LayerRepository("org/kernel", layer_name="Layer", version=">=0.0.3,<0.1"),
        lambda: LayerRepository("org/kernel", "Layer", version=1),
        lambda: LayerRepository("org/kernel", "Layer", trust_remote_code=["org/kernel"]),
        lambda: LayerRepository("org/kernel", "Layer", user_agent={"app": "1"}),
        lambda: LocalLayerRepository("some/where", layer_name="Layer"),
        lambda: LocalLayerRepository("some/where", layer_name="Layer", package_name="old"),
        lambda: LockedLayerRepository("org/kernel", layer_name="Layer"),
        lambda: LockedLayerRepository("org/kernel", layer_name="Layer", lockfile="kernels.lock"),
    ],
)
def test_equal_arguments_make_equal_objects(make):
    assert make() == make()
    assert hash(make()) == hash(make())
    assert pickle.loads(pickle.dumps(make())) == make()


def test_different_arguments_make_different_objects():
    made = [
        LayerRepository("org/kernel", "Layer"),
        LayerRepository("org/kernel", "Layer", revision="v1"),
        LayerRepository("org/kernel", "Layer", version=1),
        LayerRepository("org/kernel", "Layer", trust_remote_code=True),
        LayerRepository("org/kernel", "Other"),
        LockedLayerRepository("org/kernel", layer_name="Layer"),
    ]
    assert len(set(made)) == len(made)


def test_revision_and_version_exclude_each_other():
    with pytest.raises(ValueError, match="revision or version, not both"):
        LayerRepository("org/kernel", "Layer", revision="main", version=1)


@pytest.mark.parametrize(
    "repo_id", ["kernel", "a/b/c", "/b", "a/", "", "or g/na me", "../x", "a/-b"]
)
def test_malformed_repo_ids(repo_id):
    with pytest.raises(ValueError, match="repo_id must"):
        LayerRepository(repo_id, "Layer")


@pytest.mark.parametrize("version", ["1.0", "newest", ">=x", -1])
def test_malformed_versions(version):
    with pytest.raises(ValueError, match="version"):
        LayerRepository("org/kernel", "Layer", version=version)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"version": 1.5}, "version"),
        ({"version": True}, "version"),
        ({"revision": 3}, "revision"),
        ({"trust_remote_code": "org/kernel"}, "trust_remote_code"),
    ],
)
def test_wrong_types_name_the_argument(arguments, name):
    with pytest.raises(TypeError, match=name):
        LayerRepository("org/kernel", "Layer", **arguments)


def test_a_local_path_must_be_a_path():
    with pytest.raises(TypeError, match="repo_path must be a path"):
        LocalLayerRepository(7, layer_name="Layer")
    with pytest.raises(ValueError, match="layer_name must not be empty"):
        LocalLayerRepository("somewhere", layer_name="")


def test_a_relative_path_is_that_of_the_moment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    repository = LocalLayerRepository("kernel", layer_name="Layer")
    assert repository.repo_path == tmp_path / "kernel"
