"""`check` of repositories on the Hub: downloaded to be checked, never trusted, never imported."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hub_server import Hub, kernel_files

from kernels_core.check import Report, check
from kernels_core.cli.main import main
from kernels_core.errors import CheckError

CUDA = "torch213-cxx11-cu130-x86_64-linux"
FAMILIES = ["layout", "metadata"]

# What is imported leaves a mark.
SOURCE = "import os, pathlib\npathlib.Path(os.environ['MARK']).touch()\n"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("MARK", str(tmp_path / "imported"))
    return scratch


def found(report: Report) -> list[tuple[str, str]]:
    return [(each.rule.id, each.problem.path) for each in report.findings]


def test_a_repository_is_checked_and_nothing_of_it_stays(
    hub: Hub, tmp_path: Path, scratch: Path
) -> None:
    files = kernel_files("activation", source=SOURCE, digest=True)
    files |= kernel_files("activation", variant=CUDA, source=SOURCE, backend={"type": "cuda"})
    files["README.md"] = b"beside the builds"
    commit = hub.add("org/activation", files, branch="v1", lfs=["*.py"])
    report = check("org/activation", select=FAMILIES)
    assert report.subject == f"org/activation at v1 ({commit[:12]})"
    assert report.root is None
    assert report.variants == ("torch-cpu", CUDA)
    assert found(report) == [("metadata-has-digest", f"build/{CUDA}/metadata.json")]
    assert not any("README" in request.path for request in hub.requests)
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "imported").exists()
    # A program that loads it later does not get what nobody trusted.
    assert not list(tmp_path.glob("hf-home/hub/kernels--*"))


def test_the_publisher_need_not_be_trusted(hub: Hub) -> None:
    hub.add("org/activation", kernel_files(digest=True), branch="v1", publisher_trusted=False)
    assert check("org/activation", select=FAMILIES).clean
    assert "organization" not in {request.kind for request in hub.requests}


def test_the_newest_version_is_checked_unless_a_revision_is_given(hub: Hub) -> None:
    nine = kernel_files(digest=True, version=9)
    one = hub.add("org/activation", nine, branch="v9", tag="v9.0.1", ref="refs/pr/9")
    two = kernel_files(digest=True, version=10)
    hub.add("org/activation", two, branch="v10")
    hub.add("org/activation", kernel_files(version=11), branch="main")
    assert check("org/activation", select=FAMILIES).subject.startswith("org/activation at v10 (")
    for revision in ("v9", "v9.0.1", "refs/tags/v9.0.1", "refs/pr/9", one[:8], one):
        report = check("org/activation", revision=revision, select=FAMILIES)
        assert (report.clean, one[:12] in report.subject) == (True, True)
    assert not check("org/activation", revision="main", select=FAMILIES).clean


def test_without_versions_it_is_main_and_older_types_are_found(hub: Hub) -> None:
    hub.add("org/activation", kernel_files(digest=True), repo_type="model")
    report = check("org/activation", select=FAMILIES)
    assert (report.clean, report.subject[:22]) == (True, "org/activation at main")


@pytest.mark.parametrize(
    ("where", "version", "is_right"),
    [
        ({"branch": "v1"}, 1, True),
        ({"branch": "v1"}, 2, False),
        ({"branch": "main"}, 2, True),
        ({"branch": None, "tag": "v0.3.1"}, 0, True),
        ({"branch": None, "tag": "v0.3.1"}, 3, False),
    ],
)
def test_the_version_is_held_against_the_branch_or_tag(
    hub: Hub, where: dict[str, str], version: int, is_right: bool
) -> None:
    hub.add("org/activation", kernel_files(digest=True, version=version), **where)
    revision = where.get("tag") or where["branch"]
    report = check("org/activation", revision=revision, select=FAMILIES)
    assert found(report) == (
        [] if is_right else [("metadata-version", "build/torch-cpu/metadata.json")]
    )


@pytest.mark.parametrize(
    ("repository", "name", "is_right"),
    [
        ("org/fused-norm", "fused-norm", True),
        ("org/fused_norm", "fused-norm", True),
        ("org/Fused.Norm", "fused-norm", True),
        ("org/activation", "fused-norm", False),
    ],
)
def test_the_name_is_held_against_the_repository(
    hub: Hub, repository: str, name: str, is_right: bool
) -> None:
    hub.add(repository, kernel_files(name, digest=True))
    assert found(check(repository, select=FAMILIES)) == (
        [] if is_right else [("metadata-name", "build/torch-cpu/metadata.json")]
    )


def test_the_package_of_an_older_build_is_named_like_the_repository(hub: Hub) -> None:
    files = {"build/torch-cpu/fused_norm/__init__.py": "", "build/torch-cuda/norm/__init__.py": ""}
    hub.add("org/fused-norm", files)
    assert found(check("org/fused-norm", select=["layout"])) == [
        ("layout-package-name", "build/torch-cuda/norm")
    ]


def test_a_kernel_that_needs_itself(hub: Hub) -> None:
    needs = [{"repo-id": "org/activation", "version": 1}]
    hub.add("org/activation", kernel_files(digest=True, kernel_depends=needs))
    assert found(check("org/activation", select=FAMILIES)) == [
        ("metadata-dependencies", "build/torch-cpu/metadata.json")
    ]


def test_only_the_builds_that_are_requested_are_downloaded(hub: Hub) -> None:
    files = kernel_files(digest=True) | kernel_files(variant=CUDA, digest=True)
    hub.add("org/activation", files | {"build/README.md": b""})
    report = check("org/activation", variants=["*-cpu"], select=["layout", "metadata"])
    assert report.variants == ("torch-cpu",)
    assert found(report) == [("layout-stray-file", "build/README.md")]
    assert not [r.path for r in hub.requests if r.kind == "download" and CUDA in r.path]
    # The others are downloaded all the same.
    report = check("org/activation", variants=[CUDA], select=["completeness"])
    assert "lacks 5 of the 6 builds" in report.findings[0].problem.message
    with pytest.raises(CheckError, match="No variant"):
        check("org/activation", variants=["nothing"])


def test_paths_that_lead_out_are_found_and_not_written(hub: Hub, scratch: Path) -> None:
    files = kernel_files(digest=True)
    hub.add("org/activation", files)
    commit = hub.repository("org/activation").branches["main"]
    outside = ["build/../../outside.py", "/outside.py", "build/torch-cpu/a\\b.py", "build/C:x.py"]
    for path in outside:
        entry = {"type": "file", "oid": "0" * 40, "size": 3, "path": path}
        hub.repository("org/activation").more_entries.append(entry)
    report = check("org/activation", select=["layout"])
    assert sorted(found(report)) == sorted(("layout-safe-paths", path) for path in outside)
    assert list(scratch.parent.rglob("outside.py")) == []
    assert commit[:12] in report.subject


def test_paths_that_another_file_is_in_the_way_of(hub: Hub) -> None:
    files = kernel_files(digest=True)
    hub.add("org/activation", files)
    for path in ("build/torch-cpu/__init__.py/a.py", "build/torch-cpu/" + "a" * 300):
        entry = {"type": "file", "oid": "0" * 40, "size": 3, "path": path}
        hub.repository("org/activation").more_entries.append(entry)
    report = check("org/activation", select=["layout"])
    assert {rule for rule, _ in found(report)} == {"layout-safe-paths"}
    assert len(report.findings) == 2


def test_names_that_collide_are_downloaded_and_found(hub: Hub) -> None:
    hub.add("org/activation", kernel_files(also={"Layers.py": "", "a.PY": "", "a.py": ""}))
    assert found(check("org/activation", select=["layout"])) == [
        ("layout-collisions", "build/torch-cpu/a.py"),
        ("layout-collisions", "build/torch-cpu/layers.py"),
    ]


def test_a_repository_without_builds(hub: Hub) -> None:
    hub.add("org/activation", {"README.md": b""})
    assert found(check("org/activation", select=["layout"])) == [("layout-builds", "build")]


# What could not be checked


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("org/nothing", "HTTP 40"),
        ("activation", "no file or directory .*, and it is not the name"),
        ("./missing/place", "no file or directory .*, and it is not the name"),
        ("org/name/more", "no file or directory .*, and it is not the name"),
        ("", "."),
    ],
)
def test_a_name_that_leads_nowhere(
    hub: Hub, subject: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckError, match=message):
        check(subject)


def test_a_revision_that_is_not_there(hub: Hub) -> None:
    hub.add("org/activation", kernel_files())
    for revision in ("v7", "0" * 40):
        with pytest.raises(CheckError, match="org/activation could not be checked"):
            check("org/activation", revision=revision)


def test_revisions_are_for_the_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="no revision 'v1'"):
        check(tmp_path, revision="v1")


def test_a_hub_that_is_away_or_off(
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    reread_environment: Callable[[], None],
) -> None:
    hub.add("org/activation", kernel_files())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reread_environment()
    with pytest.raises(CheckError, match="HF_HUB_OFFLINE"):
        check("org/activation")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    reread_environment()
    hub.stop()
    with pytest.raises(CheckError, match="failed"):
        check("org/activation")


def test_a_file_that_arrives_garbled_is_requested_again(hub: Hub, scratch: Path) -> None:
    hub.add("org/activation", kernel_files(digest=True))
    hub.fault("corrupt", lambda request: request.path.endswith("layers.py"))
    assert check("org/activation", select=FAMILIES).clean
    hub.fault("corrupt", lambda request: request.path.endswith("layers.py"), times=None)
    with pytest.raises(CheckError, match=r"layers\.py of org/activation .* twice"):
        check("org/activation", select=FAMILIES)
    assert list(scratch.iterdir()) == []


def test_the_command_tells_what_it_found_and_what_it_could_not(hub: Hub) -> None:
    hub.add("org/activation", kernel_files(digest=True), branch="v1")
    run = CliRunner()
    options = ["--select", ",".join(FAMILIES), "--format", "json"]
    result = run.invoke(main, ["check", "org/activation", "--revision", "v1", *options])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["subject"].startswith("org/activation at v1 (")
    result = run.invoke(main, ["check", "org/nothing", *options])
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["type"]) == (2, "CheckError")
    assert error["message"].startswith("org/nothing could not be checked. ")
    assert "Traceback" not in result.output
    result = run.invoke(main, ["check", "org/nothing", *options[:2]])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: org/nothing could not be checked. ")
    assert os.linesep + "Traceback" not in result.stderr
