"""Malicious repositories and servers: refused or bounded, and their code never runs.

Every kernel here would leave a mark when it was imported. Outside the cache nothing may change.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hub_server import Forks, Hub, client_environment, kernel_files

REPOSITORY = "org/activation"

# Loads the kernel and returns the outcome. An error that is not ours fails the test.
LOAD = f"""
import importlib, resource, time
from pathlib import Path
from kernels_core import get_kernel
from kernels_core.errors import KernelsError

before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
try:
    module = get_kernel({REPOSITORY!r}, version=1)
    result = {{"answer": module.answer, "package": str(Path(module.__file__).parent)}}
    for name in SUBMODULES:
        try:
            found = importlib.import_module(f"{{module.__name__}}.{{name}}")
        except ModuleNotFoundError:
            continue
        # Python makes a package without any code of a folder that is empty.
        assert getattr(found, "__file__", None) is None, f"{{name}} can be imported"
except KernelsError as error:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    result = {{"error": type(error).__name__, "kinds": kinds, "message": str(error)}}
result["seconds"] = time.monotonic() - start
# of the operating system's making: kilobytes on Linux, where the tests run
result["megabytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
"""


class Victim:
    """Loads in processes of its own, and knows what they must not do."""

    def __init__(self, hub: Hub, forks: Forks, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self.home = folder / "some" / "where" / "home"
        self.home.mkdir(parents=True)
        self.mark = folder / "imported"
        self.environment = client_environment(hub.endpoint, self.home)
        self._forks = forks

    @property
    def source(self) -> str:
        """Source of a module that leaves a mark."""
        return f"open({str(self.mark)!r}, 'a').close()\nanswer = 42\n"

    @property
    def python(self) -> bytes:
        """The same as bytes."""
        return self.source.encode()

    def publish(self, files: dict[str, bytes] | None = None, **kernel: Any) -> None:
        """Publish the kernel with more files of the repository; see `kernel_files`."""
        made = kernel_files(**{"source": self.source, **kernel})
        self.hub.add(REPOSITORY, {**made, **(files or {})}, branch="v1")

    def load(self, submodules: list[str] | None = None, timeout: float = 60, **env: str) -> Any:
        """Load in a fresh process; what this leaves outside its cache fails the test."""
        program = f"SUBMODULES = {submodules or []!r}\n{LOAD}"
        before = self._outside()
        outcome = self._forks.start(program, self.environment | env).result(timeout)
        assert self._outside() - before <= {self.mark}
        assert not self.mark.exists() or "answer" in outcome, "its code ran"
        return outcome

    def _outside(self) -> set[Path]:
        return {path for path in self.folder.rglob("*") if self.home not in path.parents}

    def refused(self, *kinds: str, timeout: float = 60, **env: str) -> Any:
        """Load, which must fail with an error of one of these kinds, and quickly."""
        outcome = self.load(timeout=timeout, **env)
        assert "error" in outcome, "it was loaded"
        assert set(kinds) & set(outcome["kinds"]), outcome
        assert not self.mark.exists(), "its code ran"
        return outcome


@pytest.fixture
def victim(forks: Forks, tmp_path: Path):
    with Hub() as hub:
        yield Victim(hub, forks, tmp_path)


def all_refused(
    forks: Forks, folder: Path, kind: str, arrange: Callable[[Hub, Any], None], cases: list[Any]
) -> None:
    """Every case is refused; in parallel, since most of it is waiting for another attempt."""

    def check(number: int) -> None:
        with Hub() as hub:
            home = folder / str(number)
            home.mkdir()
            victim = Victim(hub, forks, home)
            victim.publish()
            arrange(hub, cases[number])
            victim.refused(kind)

    with ThreadPoolExecutor(len(cases)) as pool:
        list(pool.map(check, range(len(cases))))


def test_the_kernel_without_malice_loads_and_leaves_its_mark(victim: Victim) -> None:
    victim.publish()
    assert victim.load()["answer"] == 42
    assert victim.mark.exists()


# Paths

CLIMBING = [
    "build/torch-cpu/../../../../../../evil.py",
    "build/torch-cpu/..\\..\\..\\..\\evil.py",
    "build/../../../../../evil/__init__.py",
    "build/torch-cpu//evil.py",
    "build/torch-cpu/./evil.py",
    "build/torch-cpu/C:/evil.py",
    "build/torch-cpu/.. /evil.py",
    "build/torch-cpu/evil\0.py",
    "build/torch-cpu/evil\n.py",
    "build/torch-cpu/" + "deep/" * 500 + "evil.py",
]


@pytest.mark.parametrize("path", CLIMBING, ids=lambda path: repr(path)[:40])
def test_paths_that_lead_elsewhere_are_refused(victim: Victim, path: str) -> None:
    victim.publish({path: victim.python})
    victim.refused("HubAnswerError", "DigestError")
    assert not [request for request in victim.hub.requests if "evil" in request.path]


@pytest.mark.parametrize("path", ["{outside}/evil.py", "../../../evil.py", "builds/evil.py", ""])
def test_a_listing_of_something_that_is_not_below_build_brings_nothing(
    victim: Victim, path: str
) -> None:
    victim.publish()
    entry = {"type": "file", "oid": "0" * 40, "size": 1}
    entry["path"] = path.format(outside=victim.folder)
    victim.hub.repository(REPOSITORY).more_entries.append(entry)
    outcome = victim.load(submodules=["evil"])
    assert "answer" in outcome or "HubAnswerError" in outcome["kinds"]
    assert not [request for request in victim.hub.requests if "evil" in request.path]


@pytest.mark.parametrize(
    "files",
    [
        {"build/torch-cpu/Layers.py": b"x = 1", "build/torch-cpu/layers.py": b"x = 2"},
        {"build/torch-cpu/ops": b"x = 1", "build/torch-cpu/ops/a.py": b"x = 2"},
    ],
    ids=["letters of another case", "a file and a directory"],
)
def test_files_that_would_overwrite_each_other_are_refused(
    victim: Victim, files: dict[str, bytes]
) -> None:
    victim.publish(files)
    victim.refused("HubAnswerError", "DigestError")


BROKEN_ENTRIES: list[Any] = [
    {"type": "file", "path": "build/torch-cpu/x.py", "size": 1, "oid": "../../../../evil"},
    {"type": "file", "path": "build/torch-cpu/x.py", "size": -1, "oid": "0" * 40},
    {"type": "file", "path": "build/torch-cpu/x.py", "size": "1", "oid": "0" * 40},
    {"type": "file", "path": ["build"], "size": 1, "oid": "0" * 40},
    {"type": "file", "path": "build/torch-cpu/x.py", "size": 1},
    {
        "type": "file",
        "path": "build/torch-cpu/x.py",
        "size": 1,
        "oid": "0" * 40,
        "lfs": {"oid": "../../../../../evil", "size": 1, "pointerSize": 1},
    },
    "build/torch-cpu/x.py",
    None,
]


def test_a_listing_that_breaks_the_protocol_is_refused(forks: Forks, tmp_path: Path) -> None:
    def arrange(hub: Hub, entry: Any) -> None:
        hub.repository(REPOSITORY).more_entries.append(entry)

    all_refused(forks, tmp_path, "HubAnswerError", arrange, BROKEN_ENTRIES)


def commit_of_refs(commit: str) -> Callable[[bytes], bytes]:
    def change(body: bytes) -> bytes:
        refs = json.loads(body)
        for ref in refs["branches"]:
            ref["targetCommit"] = commit
        return json.dumps(refs).encode()

    return change


def test_a_commit_that_is_none_is_refused(forks: Forks, tmp_path: Path) -> None:
    def arrange(hub: Hub, commit: str) -> None:
        hub.fault("corrupt", "refs", times=None, change=commit_of_refs(commit))

    commits = ["../../../../evil", "main", "", "0" * 41]
    all_refused(forks, tmp_path, "HubAnswerError", arrange, commits)


@pytest.mark.parametrize(
    "metadata",
    [
        {"digest": {"algorithm": "sha256", "files": {"../../../../evil.py": "A" * 44}}},
        {"kernel_depends": [{"repo-id": "../../evil", "version": 1}]},
        {"kernel_depends": [{"repo-id": "org/../evil", "version": 1}]},
        {"kernel_depends": [{"repo-id": "org/evil", "revision": "../../../x"}]},
        {"name": "../../evil"},
        {"id": "__import__('os').abort()"},
        {"python_depends": ["evil @ https://example.org/evil.whl"]},
        {"python_depends": ["--index-url=https://example.org evil"]},
    ],
    ids=lambda metadata: json.dumps(metadata)[:60],
)
def test_metadata_that_names_something_else_is_refused(
    victim: Victim, metadata: dict[str, Any]
) -> None:
    victim.publish(**metadata)
    victim.refused("MetadataError", "HubNotFoundError")


# Links and bytecode


@pytest.mark.parametrize("kind", ["symlink", "submodule", "../../evil", None, 7])
def test_an_entry_that_is_neither_file_nor_folder_brings_nothing(
    victim: Victim, kind: object
) -> None:
    victim.publish()
    entry = {"type": kind, "path": "build/torch-cpu/evil.py", "size": 9, "oid": "0" * 40}
    victim.hub.repository(REPOSITORY).more_entries.append(entry)
    outcome = victim.load(submodules=["evil"])
    assert "answer" in outcome or "HubAnswerError" in outcome["kinds"]


def test_a_link_comes_as_the_text_that_git_holds(victim: Victim) -> None:
    target = victim.folder / "evil.py"
    victim.publish({"build/torch-cpu/linked.txt": str(target).encode()})
    outcome = victim.load()
    linked = Path(outcome["package"], "linked.txt")
    assert linked.read_text() == str(target)


def bytecode(source: str, folder: Path) -> bytes:
    import py_compile

    (folder / "evil.py").write_text(source)
    compiled = py_compile.compile(
        str(folder / "evil.py"),
        str(folder / "evil.pyc"),
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    assert compiled
    return Path(compiled).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "build/torch-cpu/__pycache__/{module}.{tag}.pyc",
        "build/torch-cpu/__pycache__/{module}.{tag}.opt-1.pyc",
        "build/torch-cpu/{module}.pyc",
    ],
)
def test_bytecode_in_the_repository_never_runs(victim: Victim, path: str, tmp_path: Path) -> None:
    import sys

    evil = bytecode("answer = 'evil'\n", tmp_path)
    files = {
        path.format(module=module, tag=sys.implementation.cache_tag): evil
        for module in ("__init__", "evil")
    }
    victim.publish(files)
    outcome = victim.load(submodules=["evil"])
    assert outcome.get("answer") == 42 or "DigestError" in outcome["kinds"]


def test_bytecode_instead_of_the_package_is_no_package(victim: Victim, tmp_path: Path) -> None:
    victim.publish()
    evil = bytecode(victim.source, tmp_path)
    metadata = kernel_files()["build/torch-cpu/metadata.json"]
    files = {"build/torch-cpu/__init__.pyc": evil, "build/torch-cpu/metadata.json": metadata}
    victim.hub.add(REPOSITORY, files, branch="v1")
    victim.refused("RepositoryNotFoundError", "DigestError")


# What somebody put into the cache after a load

SNEAKY = "raise SystemError('its code ran')\n"


def plant_a_module(package: Path, outside: Path) -> None:
    (package / "sneaky.py").write_text(SNEAKY)


def plant_a_package(package: Path, outside: Path) -> None:
    (package / "sneaky").mkdir()
    (package / "sneaky" / "__init__.py").write_text(SNEAKY)


def plant_a_linked_module(package: Path, outside: Path) -> None:
    (outside / "sneaky.py").write_text(SNEAKY)
    (package / "sneaky.py").symlink_to(outside / "sneaky.py")


def plant_a_linked_package(package: Path, outside: Path) -> None:
    (outside / "target").mkdir()
    (outside / "target" / "__init__.py").write_text(SNEAKY)
    (package / "sneaky").symlink_to(outside / "target")


def replace_the_source(package: Path, outside: Path) -> None:
    (package / "__init__.py").unlink()
    (package / "__init__.py").write_text(SNEAKY)


def change_the_blob(package: Path, outside: Path) -> None:
    (package / "__init__.py").resolve().write_text(SNEAKY)


def change_a_blob_and_its_times(package: Path, outside: Path) -> None:
    import os

    blob = (package / "__init__.py").resolve()
    before = blob.stat()
    text = blob.read_text()
    blob.write_text(text.replace("answer = 42", "answer = 66"))
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))


def link_the_source_elsewhere(package: Path, outside: Path) -> None:
    (outside / "evil.py").write_text(SNEAKY)
    (package / "__init__.py").unlink()
    (package / "__init__.py").symlink_to(outside / "evil.py")


@pytest.mark.parametrize(
    "plant",
    [
        plant_a_module,
        plant_a_package,
        plant_a_linked_module,
        plant_a_linked_package,
        replace_the_source,
        change_the_blob,
        change_a_blob_and_its_times,
        link_the_source_elsewhere,
    ],
)
@pytest.mark.parametrize("offline", ["", "1"])
def test_what_was_put_into_the_cache_later_never_runs(
    victim: Victim, tmp_path: Path, plant: Callable[[Path, Path], None], offline: str
) -> None:
    victim.publish()
    package = Path(victim.load()["package"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    plant(package, elsewhere)
    victim.mark.unlink()
    outcome = victim.load(submodules=["sneaky"], HF_HUB_OFFLINE=offline)
    assert outcome.get("answer") == 42 or {"DigestError", "HubOfflineError"} & set(
        outcome["kinds"]
    ), outcome
    if not offline:
        assert outcome.get("answer") == 42, "what is wrong is fetched again"


# Digests


def digest_of(*names: str, files: dict[str, bytes]) -> dict[str, Any]:
    import hashlib

    hashes = {
        name: base64.b64encode(hashlib.sha256(files[name]).digest()).decode() for name in names
    }
    return {"algorithm": "sha256", "files": hashes}


def test_a_digest_that_lists_too_few_files_is_refused(victim: Victim) -> None:
    files = {"__init__.py": victim.python}
    victim.publish(
        {"build/torch-cpu/more.py": victim.python}, digest=digest_of("__init__.py", files=files)
    )
    assert "more.py" in victim.refused("DigestError")["message"]


def test_a_digest_of_other_content_is_refused(victim: Victim) -> None:
    victim.publish(digest=digest_of("__init__.py", files={"__init__.py": b"something else"}))
    victim.refused("DigestError")


def test_a_digest_of_files_that_are_not_there_is_refused(victim: Victim) -> None:
    files = {"__init__.py": victim.python, "more.py": b""}
    victim.publish(digest=digest_of("__init__.py", "more.py", files=files))
    victim.refused("DigestError")


def test_files_that_do_not_match_the_tree_are_refused_and_do_not_stay(victim: Victim) -> None:
    victim.publish()
    evil = victim.python.replace(b"answer = 42", b"answer = 66")
    victim.hub.fault("corrupt", "file", times=None, change=lambda body: evil)
    victim.refused("DigestError", "HubUnreachableError", "HubAnswerError")
    for path in victim.home.rglob("*"):
        assert path.suffix == ".incomplete" or not path.is_file() or path.read_bytes() != evil


# Too much of something


def test_ten_thousand_variants(victim: Victim) -> None:
    many = {
        f"build/torch2{minor}-cxx11-cu1{cuda}-x86_64-linux/__init__.py": b"x = 1"
        for minor in range(100)
        for cuda in range(100)
    }
    victim.publish(many)
    outcome = victim.load()
    assert outcome["answer"] == 42
    assert outcome["seconds"] < 20
    assert outcome["megabytes"] < 200


def test_fifty_megabytes_of_metadata_are_not_fetched(victim: Victim) -> None:
    victim.publish({"build/torch-cpu/metadata.json": b" " * 50_000_000 + b"{}"})
    outcome = victim.refused("LoadError")
    assert outcome["seconds"] < 10
    assert not [request for request in victim.hub.requests if request.kind == "file"]


@pytest.mark.parametrize("kind", ["organization", "refs", "tree", "file"])
def test_an_answer_without_end_is_cut_short(victim: Victim, kind: str) -> None:
    victim.publish()
    victim.hub.fault("corrupt", kind, times=None, change=lambda body: b"[" * 200_000_000)
    outcome = victim.refused("LoadError")
    assert outcome["megabytes"] < 150
    assert outcome["seconds"] < 30


NONSENSE = [b"[" * 100_000, b'{"a":' * 100_000, b"null", b"7", b"[]", b"{}", b"", b"\xff", b'"x"']


@pytest.mark.parametrize("kind", ["organization", "refs", "tree"])
def test_an_answer_that_is_nothing_of_the_kind_is_refused(
    forks: Forks, tmp_path: Path, kind: str
) -> None:
    def arrange(hub: Hub, body: bytes) -> None:
        hub.fault("corrupt", kind, times=None, change=lambda _: body)

    all_refused(forks, tmp_path, "LoadError", arrange, NONSENSE)


def test_a_listing_that_goes_on_forever_is_cut_short(victim: Victim) -> None:
    victim.publish()
    victim.hub.repository(REPOSITORY).pages_forever = True
    outcome = victim.refused("HubAnswerError")
    assert len(victim.hub.requests) < 150
    assert outcome["seconds"] < 30
    assert outcome["megabytes"] < 200


def test_a_listing_that_goes_on_where_it_was_is_cut_short(victim: Victim) -> None:
    victim.publish()
    repository = victim.hub.repository(REPOSITORY)
    repository.next_page = f"{victim.hub.endpoint}/api/kernels/{REPOSITORY}/tree/v1/build"
    victim.refused("HubAnswerError")
    assert len(victim.hub.requests) < 150


# Other hosts


def test_a_listing_that_goes_on_elsewhere_does_not_take_the_token_there(victim: Victim) -> None:
    victim.publish()
    with Hub() as other:
        victim.hub.repository(REPOSITORY).next_page = f"{other.endpoint}/api/kernels/x/y/tree/v1"
        victim.refused("HubAnswerError", HF_TOKEN="hf_secret")
        assert not [request for request in other.requests if "authorization" in request.headers]
    listings = [request for request in victim.hub.requests if request.kind == "tree"]
    assert listings[0].headers["authorization"] == "Bearer hf_secret"


def test_large_files_on_another_host_are_fetched_without_the_token(victim: Victim) -> None:
    files = kernel_files(source=victim.source)
    victim.hub.add(REPOSITORY, files, branch="v1", lfs=["*.py"])
    assert victim.load(HF_TOKEN="hf_secret")["answer"] == 42
    large = [request for request in victim.hub.requests if "large-files" in request.path]
    assert large
    assert not [request for request in large if "authorization" in request.headers]


# Kernels that depend on each other


def depend(victim: Victim, name: str, *on: str) -> None:
    depends = [{"repo-id": f"org/{other}", "version": 1} for other in on]
    files = kernel_files(name, source=victim.source, kernel_depends=depends)
    victim.hub.add(f"org/{name}", files, branch="v1")


@pytest.mark.parametrize(
    "circle", [["activation"], ["activation", "relu"], ["activation", "relu", "norm"]]
)
def test_kernels_that_depend_on_each_other_in_a_circle_are_refused(
    victim: Victim, circle: list[str]
) -> None:
    for name, after in zip(circle, circle[1:] + circle[:1], strict=True):
        depend(victim, name, after)
    outcome = victim.refused("DependencyCycleError")
    assert all(f"org/{name}" in outcome["message"] for name in circle)


def test_a_chain_of_kernels_without_end_is_cut_short(victim: Victim) -> None:
    depend(victim, "activation", "link-0")
    for number in range(200):
        depend(victim, f"link-{number}", f"link-{number + 1}")
    victim.refused("DependencyCycleError", "DependencyError")
    assert len(victim.hub.requests) < 400


def test_many_paths_to_a_kernel_are_one(victim: Victim) -> None:
    layers = [["activation"], *([f"a{depth}", f"b{depth}"] for depth in range(8))]
    for above, below in zip(layers, [*layers[1:], []], strict=True):
        for name in above:
            depend(victim, name, *below)
    assert victim.load()["answer"] == 42  # 2 to the power of 8 paths to 17 kernels
    assert len(victim.hub.requests) < 17 * 5
