"""Files and directories that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels_core.repository.atomic import replacing


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "kernels.lock"
    path.write_text("old")
    with replacing(path) as new:
        new.write_text("new")
        assert path.read_text() == "old"
        assert new.parent == path.parent
        assert new.name.startswith(".")
        assert new.name.endswith(".kernels.lock")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_directory", [False, True])
def test_when_the_block_fails_nothing_changes_and_nothing_is_left(
    tmp_path: Path, is_directory: bool
) -> None:
    path = tmp_path / "kernels.lock"
    path.write_text("old")

    def make(new: Path) -> None:
        if is_directory:
            (new / "inside").mkdir(parents=True)
        else:
            new.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(path) as new:
        make(new)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_is_moved_whole(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    with replacing(path) as new:
        new.mkdir()
        (new / "manifest").write_text("new")
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")] == [
        "bundle",
        "bundle/manifest",
    ]


def test_a_link_is_replaced_and_what_it_shows_is_not(tmp_path: Path) -> None:
    path, shown = tmp_path / "link", tmp_path / "shown"
    shown.write_text("shown")
    try:
        path.symlink_to(shown)
    except OSError as error:
        pytest.skip(f"no symbolic links: {error}")
    with replacing(path) as new:
        new.write_text("new")
    assert (path.read_text(), shown.read_text()) == ("new", "shown")


def test_the_name_is_given_by_prefix_and_suffix_and_used_once(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 60)
    names = set()
    for _ in range(2):
        with replacing(path, prefix="blob", suffix=".incomplete") as new:
            new.touch()
        names.add(new.name)
        assert new.name.startswith("blob.")
        assert new.name.endswith(".incomplete")
    assert len(names) == 2
