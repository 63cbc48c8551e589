"""What is said, once per process, of kernels that load without a failure."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, forget, kernel_files

from kernels_core import get_kernel, get_local_kernel, has_kernel, notices


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", {})


def said_by(work: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    for warning in caught:
        assert warning.category is RuntimeWarning
        assert warning.filename == __file__
    return [str(warning.message) for warning in caught]


def publish(hub: Hub, *branches: str, tags: tuple[str, ...] = ()) -> str:
    commit = ""
    for number, branch in enumerate(branches):
        commit = hub.add("org/norm", kernel_files(source=f"number = {number}"), branch=branch)
    for number, tag in enumerate(tags):
        commit = hub.add("org/norm", kernel_files(source=f"tagged = {number}"), tag=tag)
    return commit


def test_a_branch_that_may_change(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    publish(hub, "v1", "v3", "main")
    with caplog.at_level(logging.WARNING, "kernels_core"):
        (text,) = said_by(lambda: get_kernel("org/norm"))
    assert "neither revision nor version is given" in text
    assert "Pass version=3." in text
    assert [record.getMessage() for record in caplog.records] == [text]
    forget()
    assert said_by(lambda: get_kernel("org/norm")) == [], "once per process"
    assert said_by(lambda: get_kernel("org/norm", revision="main")) == [], "the user's choice"
    assert said_by(lambda: has_kernel("org/norm")) == []


def test_a_version_with_a_newer_one(hub: Hub) -> None:
    commit = publish(hub, "v1", "v2", "v3")
    (text,) = said_by(lambda: get_kernel("org/norm", version=1))
    assert "org/norm: v1 is used, and a newer version is available, v3." in text
    assert said_by(lambda: get_kernel("org/norm", revision="v1")) == [], "the same version"
    assert len(said_by(lambda: get_kernel("org/norm", revision="v2"))) == 1
    assert said_by(lambda: get_kernel("org/norm", version=3)) == []
    assert said_by(lambda: get_kernel("org/norm", revision=commit)) == []


def test_a_specifier_with_a_newer_version(hub: Hub) -> None:
    publish(hub, tags=("v0.1.0", "v0.1.1", "v0.2.0", "v0.3.0rc1"))
    (text,) = said_by(lambda: get_kernel("org/norm", version="<0.2"))
    assert "v0.1.1 is used, and a newer version is available, v0.2.0." in text
    assert said_by(lambda: get_kernel("org/norm", version=">=0.2")) == []


def test_no_request_is_sent_for_it(hub: Hub) -> None:
    publish(hub, "v1", "v2", "main")
    get_kernel("org/norm", revision="main")
    paths = [request.path for request in hub.requests]
    assert len(paths) == len(set(paths))
    hub.stop()
    assert len(said_by(lambda: get_kernel("org/norm"))) == 1


def test_a_build_from_sources_with_changes(hub: Hub, tmp_path: Path) -> None:
    provenance = {"kernel": {"dirty": True}, "builder": {"dirty": False}}
    files = kernel_files(source="dirt = 1", provenance=provenance)
    hub.add("org/dirty", files, branch="v1")
    (text,) = said_by(lambda: get_kernel("org/dirty", version=1))
    assert "org/dirty (torch-cpu)" in text
    assert "uncommitted changes: provenance.kernel.dirty" in text
    assert said_by(lambda: get_kernel("org/dirty", version=1)) == []
    for name, content in files.items():
        (tmp_path / "kernel" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "kernel" / name).write_bytes(content)
    assert len(said_by(lambda: get_local_kernel(tmp_path / "kernel", backend="cpu"))) == 1


def test_a_failed_import_names_kernel_and_variant(hub: Hub) -> None:
    hub.add("org/broken", kernel_files(source="import absent_module"), branch="v1")
    with pytest.raises(ModuleNotFoundError) as caught:
        get_kernel("org/broken", version=1)
    assert caught.value.__notes__ == ["While importing org/broken, variant torch-cpu."]
