"""Bundles: written with access to the Hub, loaded and verified without."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hub_server import Forks, Hub, client_environment, forget, kernel_files

from kernels_core import get_kernel
from kernels_core.bundles.bundle import unpack_bundle, verify_bundle
from kernels_core.cli.main import main
from kernels_core.errors import BundleError

CPU, GPU = "torch-cpu", "torch213-cxx11-cu130-x86_64-linux"
MANIFEST = "kernels-bundle.json"
Load = Callable[..., Any]


@pytest.fixture
def commit(hub: Hub) -> str:
    """org/name with two builds, tagged and on a branch, and what it needs."""
    hub.add("org/base", kernel_files("base", source="answer = 40"), branch="v1")
    needs = [{"repo-id": "org/base", "version": 1}]
    source = """
        from kernels_core import get_kernel_dep
        answer = get_kernel_dep("org/base").answer + 2
        """
    library = {"_ops.abi3.so": bytes(range(256)) * 4096}
    files = kernel_files("name", source=source, digest=True, kernel_depends=needs)
    files |= kernel_files("name", variant=GPU, also=library)
    lfs = [f"build/{GPU}/_ops.abi3.so"]
    return hub.add("org/name", files, branch="v1", tag="v0.1.0", lfs=lfs)


LOAD = """
from pathlib import Path
import kernels_core
try:
    result = kernels_core.{function}("org/name", backend="cpu", {arguments}).answer
except kernels_core.KernelsError as error:
    result = type(error).__name__
"""


@pytest.fixture
def load_elsewhere(hub: Hub, tmp_path: Path, forks: Forks) -> Load:
    """Load org/name from a bundle, on a machine that has nothing else and cannot reach the Hub.

    Returns the kernel's answer, or the name of what was raised.
    """

    def load(
        bundle: Path,
        arguments: str = "version=1",
        function: str = "get_kernel",
        **variables: str,
    ) -> Any:
        hub.stop()
        home = tmp_path / "elsewhere"
        cache = {"KERNELS_CACHE": str(bundle), "HF_HUB_OFFLINE": "1"}
        environment = client_environment(hub.endpoint, home) | cache | variables
        program = LOAD.format(function=function, arguments=arguments)
        answer = forks.start(program, environment).result()
        assert not home.exists(), "something else than the bundle was used"
        return answer

    return load


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def write(path: Path, *arguments: str | Path) -> dict[str, Any]:
    chosen = any("variant" in str(argument) for argument in arguments)
    which = () if chosen else ("--backend", "cpu")
    result = run("bundle", path, "org/name@1", *which, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def variants(report: dict[str, Any]) -> dict[str, list[str]]:
    return {row["repo_id"]: row["variants"] for row in report["kernels"]}


@pytest.mark.parametrize("name", ["bundle", "bundle.tar", "bundle.tar.gz", "bundle.tgz", "b.zip"])
@pytest.mark.parametrize("choice", [(), ("--all-variants",)], ids=["this", "all"])
def test_a_bundle_loads_where_there_is_no_hub(
    commit: str, tmp_path: Path, load_elsewhere: Load, name: str, choice: tuple[str, ...]
) -> None:
    path = tmp_path / "out" / name
    report = write(path, *choice)
    mine = [CPU, GPU] if choice else [CPU]
    assert variants(report) == {"org/base": [CPU], "org/name": mine}
    assert report["bundle"] == str(path)
    directory = path if path.is_dir() else tmp_path / "unpacked"
    unpack = [] if path.is_dir() else [directory]
    result = run("unbundle", path, *unpack, "--digest", report["digest"], "--json")
    assert result.exit_code == 0, result.output
    read = json.loads(result.stdout)
    assert (read["directory"], read["digest"]) == (str(directory), report["digest"])
    assert variants(read) == variants(report)
    assert not [file for file in directory.rglob("*") if file.is_symlink()]
    assert load_elsewhere(directory) == 42
    assert run("unbundle", directory).exit_code == 0  # using it does not change it


@pytest.mark.parametrize(
    "arguments", ["version='>=0.1'", "revision='v0.1.0'", "revision='v1'", "revision={commit!r}"]
)
def test_it_loads_by_version_and_by_revision(
    commit: str, tmp_path: Path, load_elsewhere: Load, arguments: str
) -> None:
    write(tmp_path / "bundle")
    assert load_elsewhere(tmp_path / "bundle", arguments.format(commit=commit)) == 42


def test_an_archive_may_be_unpacked_by_other_programs(
    commit: str, tmp_path: Path, load_elsewhere: Load
) -> None:
    write(tmp_path / "bundle.tar.gz")
    with tarfile.open(tmp_path / "bundle.tar.gz") as archive:
        for member in archive:
            target = tmp_path / "by-hand" / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extractfile(member).read())
    assert run("unbundle", tmp_path / "by-hand").exit_code == 0
    assert load_elsewhere(tmp_path / "by-hand") == 42


def test_of_the_builds_that_fit_the_one_in_the_bundle_is_used(
    hub: Hub, tmp_path: Path, load_elsewhere: Load
) -> None:
    files = kernel_files("name") | kernel_files("name", variant="torch-universal")
    hub.add("org/name", files, branch="v1")
    report = write(tmp_path / "bundle", "--variant", "*universal")
    assert variants(report) == {"org/name": ["torch-universal"]}
    assert load_elsewhere(tmp_path / "bundle") == 42


def test_a_locked_project_is_bundled_at_its_commits(
    hub: Hub, commit: str, tmp_path: Path, load_elsewhere: Load
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text('[tool.kernels.dependencies]\n"org/name" = 1\n')
    assert run("lock", project).exit_code == 0
    hub.add("org/name", kernel_files("name", source="answer = 1"), branch="v1")
    result = run("bundle", tmp_path / "bundle", "--project", project, "--all-variants")
    assert result.exit_code == 0, result.output
    lock = f"lockfile={str(project / 'kernels.lock')!r}"
    assert load_elsewhere(tmp_path / "bundle", lock, "get_locked_kernel") == 42
    assert load_elsewhere(tmp_path / "bundle", lock, "load_kernel") == 42


def test_equal_kernels_give_equal_bundles(commit: str, tmp_path: Path) -> None:
    for suffix in (".tar", ".tar.gz", ".zip"):
        first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        assert write(first)["digest"] == write(second)["digest"]
        assert first.read_bytes() == second.read_bytes()


def test_a_bundle_contains_the_trust_of_the_hub_and_not_that_of_its_maker(
    hub: Hub, commit: str, tmp_path: Path, load_elsewhere: Load
) -> None:
    hub.publishers["org"] = False
    refused = run("bundle", tmp_path / "bundle", "org/name@1", "--backend", "cpu")
    assert refused.exit_code == 1
    assert "not trusted" in refused.output
    assert not (tmp_path / "bundle").exists()
    write(tmp_path / "bundle", "--trust", "org")
    assert load_elsewhere(tmp_path / "bundle") in ("UntrustedError", "TrustUnknownError")
    arguments = "version=1, trust_remote_code=['org']"
    assert load_elsewhere(tmp_path / "bundle", arguments) == 42


def test_the_other_machine_may_have_another_address_for_the_hub(
    commit: str, tmp_path: Path, load_elsewhere: Load
) -> None:
    mirror = "http://mirror.example"
    write(tmp_path / "same")
    write(tmp_path / "mirror", "--endpoint", mirror)
    assert load_elsewhere(tmp_path / "same", HF_ENDPOINT=mirror) == "TrustUnknownError"
    assert load_elsewhere(tmp_path / "same", HF_ENDPOINT=mirror, KERNELS_TRUST="org") == 42
    assert load_elsewhere(tmp_path / "mirror", HF_ENDPOINT=mirror) == 42


def test_any_number_of_processes_may_unpack_a_bundle_to_one_place(
    commit: str, tmp_path: Path, load_elsewhere: Load
) -> None:
    bundle, target = tmp_path / "kernels.tar.gz", tmp_path / "unpacked"
    digest = write(bundle)["digest"]
    command = [sys.executable, "-m", "kernels_core", "unbundle", bundle, target, "--if-missing"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(6)]
    outputs = [process.communicate(timeout=120)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 6
    assert all(digest in output for output in outputs)
    assert [path.name for path in tmp_path.iterdir() if "unpacked" in path.name] == ["unpacked"]
    assert run("unbundle", bundle, target).exit_code == 1
    assert run("unbundle", bundle, target, "--if-missing", "--digest", digest).exit_code == 0
    other = tmp_path / "other.tar.gz"
    write(other, "--variant", GPU)
    result = run("unbundle", other, target, "--if-missing")
    assert (result.exit_code, digest in result.output) == (1, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    result = run("unbundle", bundle, tmp_path / "mine", "--if-missing")
    assert (result.exit_code, "is not a bundle" in result.output) == (1, True)
    assert load_elsewhere(target) == 42


@pytest.mark.parametrize(
    ("change", "loaded"),
    # What does not belong there is removed, and the rest is unchanged.
    [("change", "HubOfflineError"), ("remove", "HubOfflineError"), ("add", 42)],
)
def test_what_was_changed_in_a_bundle_is_noticed_and_never_imported(
    commit: str, tmp_path: Path, load_elsewhere: Load, change: str, loaded: object
) -> None:
    bundle = tmp_path / "bundle"
    write(bundle)
    (source,) = bundle.glob(f"kernels--org--base/snapshots/*/build/{CPU}/__init__.py")
    if change == "change":
        source.write_text("answer = 41")  # of the same size
    elif change == "add":
        source.with_name("other.py").write_text("answer = 41")
    else:
        source.unlink()
    result = run("unbundle", bundle)
    assert result.exit_code == 1
    assert "is damaged" in result.output
    assert load_elsewhere(bundle) == loaded
    assert not source.with_name("other.py").exists()


def test_a_record_that_was_changed_is_noticed(commit: str, tmp_path: Path) -> None:
    write(tmp_path / "bundle")
    (record,) = tmp_path.glob("bundle/kernels--org--name/kernels-core/publisher.json")
    record.write_text(record.read_text().replace("true", "false"))
    assert run("unbundle", tmp_path / "bundle").exit_code == 1


def test_a_directory_that_programs_use_has_the_bundle_still(
    hub: Hub, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, unpacked = tmp_path / "kernels.tar", tmp_path / "unpacked"
    write(bundle)
    arguments = ["unbundle", bundle, unpacked, "--if-missing"]
    assert run(*arguments).exit_code == 0
    before = {path for path in unpacked.rglob("*") if path.is_file()}
    # Online, with a newer commit and another kernel.
    hub.add("org/name", kernel_files("name", source="answer = 43"), branch="v1")
    hub.add("org/another", kernel_files("another"), branch="v1")
    monkeypatch.setenv("KERNELS_CACHE", str(unpacked))
    forget()
    assert get_kernel("org/name", version=1, backend="cpu").answer == 43
    get_kernel("org/another", version=1, backend="cpu")
    assert run(*arguments).exit_code == 0
    for path in before:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        changed = run(*arguments).exit_code
        assert changed == (0 if path.name == "refs.json" else 1), path
        path.write_bytes(content)
    assert run(*arguments).exit_code == 0


def test_a_bundle_that_is_not_the_expected_one_is_refused(commit: str, tmp_path: Path) -> None:
    write(tmp_path / "bundle.tar")
    other = f"sha256:{'0' * 64}"
    result = run("unbundle", tmp_path / "bundle.tar", tmp_path / "there", "--digest", other)
    assert result.exit_code == 1
    assert "was expected" in result.output
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("name", ["bundle.tar", "bundle.tar.gz", "bundle.zip"])
def test_a_truncated_archive_is_refused_wherever_it_ends(
    commit: str, tmp_path: Path, name: str
) -> None:
    write(tmp_path / name, "--all-variants")
    whole = (tmp_path / name).read_bytes()
    cut = tmp_path / f"cut-{name}"
    ends = [0, 1, 100, 511, 512, 1024, len(whole) // 2, len(whole) * 3 // 4]
    for end in ends:
        cut.write_bytes(whole[:end])
        with pytest.raises(BundleError):
            unpack_bundle(cut, tmp_path / "there")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, cut.name, "hf-home"])


def test_every_damaged_byte_of_an_archive_is_noticed(commit: str, tmp_path: Path) -> None:
    write(tmp_path / "bundle.tar.gz")
    whole = (tmp_path / "bundle.tar.gz").read_bytes()
    damaged = tmp_path / "damaged.tar.gz"
    for position in range(20, len(whole), max(1, len(whole) // 60)):
        damaged.write_bytes(
            whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :]
        )
        try:
            unpack_bundle(damaged, tmp_path / f"there-{position}")
        except BundleError:
            assert not (tmp_path / f"there-{position}").exists()
        else:  # a byte that means nothing, such as padding: what was unpacked is right
            verify_bundle(tmp_path / f"there-{position}")


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def pack(path: Path, files: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
        for other in others:
            archive.addfile(other)
    return path


def with_manifest(files: dict[str, bytes], change: Callable[[dict[str, Any]], None]) -> Any:
    manifest = json.loads(files[MANIFEST])
    change(manifest)
    return {**files, MANIFEST: json.dumps(manifest).encode() + b"\n"}


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    about = tarfile.TarInfo(name)
    about.type, about.linkname = kind, target
    return about


HASH_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
NOTHING = {"size": 0, "sha256": HASH_OF_NOTHING}


def hostile(whole: Path, path: Path) -> dict[str, Path]:
    """Malicious archives, made from a good one."""
    good = members(whole)
    build = f"kernels--org--name/snapshots/{'a' * 40}/build/torch-cpu"
    outside = ["../outside", "/outside", "a\\..\\outside", "C:/outside", f"{build}/../../outside"]
    odd = ["elsewhere.py", f"{build}.py", "kernels--org--name/kernels-core/a.py", "refs/a.json"]
    same = [f"{build}/a/b.py", f"{build}/A/B.py"]
    listed = {
        f"listed-{number}": pack(
            path / f"listed-{number}.tar",
            with_manifest(
                {**good, **dict.fromkeys(names, b"")},
                lambda m, n=names: m["files"].update(dict.fromkeys(n, NOTHING)),
            ),
        )
        for number, names in enumerate([*([name] for name in (*outside, *odd)), same])
    }
    first = next(name for name in good if name != MANIFEST)
    return listed | {
        "not listed": pack(path / "a.tar", {**good, "../outside": b""}),
        "a symbolic link": pack(path / "b.tar", good, link("link", "/etc")),
        "a hard link": pack(path / "c.tar", good, link("link", "/etc/passwd", tarfile.LNKTYPE)),
        "a device": pack(path / "d.tar", good, link("device", "", tarfile.CHRTYPE)),
        "no manifest": pack(path / "e.tar", {n: c for n, c in good.items() if n != MANIFEST}),
        "manifest last": pack(path / "f.tar", dict(reversed(good.items()))),
        "missing": pack(path / "g.tar", {n: c for n, c in good.items() if n != first}),
        "another size": pack(path / "h.tar", {**good, first: good[first] + b" "}),
        "another content": pack(path / "i.tar", {**good, first: b" " * len(good[first])}),
        "another format": pack(path / "j.tar", with_manifest(good, lambda m: m.update(format=2))),
        "an unknown key": pack(path / "k.tar", with_manifest(good, lambda m: m.update(x=1))),
        "no archive": _text(path / "l.tar"),
    }


def _text(path: Path) -> Path:
    path.write_text("no archive")
    return path


def test_hostile_archives_are_refused_and_write_nothing(commit: str, tmp_path: Path) -> None:
    write(tmp_path / "bundle.tar")
    folder = tmp_path / "hostile" / "deep"
    folder.mkdir(parents=True)
    target = tmp_path / "in" / "there"
    for what, archive in hostile(tmp_path / "bundle.tar", folder).items():
        with pytest.raises(BundleError):
            unpack_bundle(archive, target)
        assert list((tmp_path / "in").iterdir()) == [], what
        assert not list(tmp_path.glob("**/*outside*")), what


def test_a_member_that_appears_twice_is_refused(commit: str, tmp_path: Path) -> None:
    write(tmp_path / "bundle.tar")
    good = members(tmp_path / "bundle.tar")
    twice = pack(tmp_path / "twice.tar", good, *[tarfile.TarInfo(name) for name in [*good][-1:]])
    with pytest.raises(BundleError):
        unpack_bundle(twice, tmp_path / "there")


def test_a_zip_with_a_bomb_stops_at_what_the_manifest_says(commit: str, tmp_path: Path) -> None:
    write(tmp_path / "bundle.zip")
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(tmp_path / "bundle.zip") as good, zipfile.ZipFile(bomb, "w") as bad:
        for name in good.namelist():
            content = good.read(name) if name == MANIFEST else bytes(50_000_000)
            bad.writestr(name, content, zipfile.ZIP_DEFLATED)
            if name != MANIFEST:
                break
    with pytest.raises(BundleError, match="its manifest does not"):
        unpack_bundle(bomb, tmp_path / "there")


def test_an_existing_path_is_not_overwritten(commit: str, tmp_path: Path) -> None:
    (tmp_path / "bundle.tar").write_text("mine")
    result = run("bundle", tmp_path / "bundle.tar", "org/name@1", "--backend", "cpu")
    assert result.exit_code == 1
    assert (tmp_path / "bundle.tar").read_text() == "mine"
    write(tmp_path / "other.tar")
    (tmp_path / "there").mkdir()
    assert run("unbundle", tmp_path / "other.tar", tmp_path / "there").exit_code == 1
    assert list((tmp_path / "there").iterdir()) == []


def test_nothing_is_written_when_a_kernel_is_not_available(commit: str, tmp_path: Path) -> None:
    arguments = ["bundle", tmp_path / "out" / "bundle", "org/name@1", "org/none@1"]
    result = run(*arguments, "--backend", "cpu")
    assert result.exit_code == 1
    assert "org/none failed. " in result.output
    assert "No bundle was written." in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["bundle", "{tmp}/bundle"],
        ["bundle", "{tmp}/bundle", "name"],
        ["bundle", "{tmp}/bundle", "../name@1"],
        ["unbundle", "{tmp}/none.tar"],
        ["unbundle", "{tmp}", "{tmp}/there"],
        ["unbundle", "{tmp}/bundle.tar"],
    ],
)
def test_wrong_arguments_are_a_usage_error(hub: Hub, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "bundle.tar").touch()
    assert run(*[argument.format(tmp=tmp_path) for argument in arguments]).exit_code == 2


def test_builds_by_name_are_bundled_without_any_backend(
    commit: str, tmp_path: Path, fresh_python: Any
) -> None:
    program = f"""
import json, sys
from kernels_core.cli.main import main
try:
    main(["bundle", {str(tmp_path / "bundle")!r}, "org/name@1", "--all-variants"])
except SystemExit as done:
    print(json.dumps([done.code, "torch" in sys.modules]))
"""
    assert fresh_python(program, KERNELS_BACKENDS="") == [0, False]
    assert (tmp_path / "bundle" / MANIFEST).is_file()


def test_a_directory_that_local_kernels_names_is_not_bundled(
    commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_repository: Any
) -> None:
    local = make_repository({CPU: {"__init__.py": ""}})
    monkeypatch.setenv("LOCAL_KERNELS", f"org/name={local}")
    result = run("bundle", tmp_path / "bundle", "org/name@1", "--backend", "cpu")
    assert result.exit_code == 1
    assert "LOCAL_KERNELS" in result.output


def test_people_are_told_what_to_do_next(commit: str, tmp_path: Path) -> None:
    bundle = run("bundle", tmp_path / "bundle.tar", "org/name@1", "--backend", "cpu").output
    assert "kernels-core unbundle bundle.tar DIRECTORY --digest sha256:" in bundle
    unbundle = run("unbundle", tmp_path / "bundle.tar", tmp_path / "there").output
    assert f"export KERNELS_CACHE={tmp_path / 'there'}" in unbundle
    assert "org/base" in unbundle
