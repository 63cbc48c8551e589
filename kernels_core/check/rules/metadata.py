"""Rules: what a build says about itself, and the digest of its files."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kernels_core.check.facts.build_names import backend_of, backend_text, names_of
from kernels_core.check.facts.repository import Build, Repository
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.repository.integrity import is_bytecode
from kernels_core.repository.metadata import Metadata

_FILE = "metadata.json"
_KEYS = ("name", "id", "version")

_MAJOR_OF_REF = re.compile(r"(?:refs/(?:heads|tags)/)?v([0-9]{1,9})(?:\.[0-9.]+)?")


@rule(Scope.BUILD, Severity.WARNING)
def metadata_file(build: Build) -> Iterator[Problem]:
    """A build has a `metadata.json`.

    Why: without it nothing is known of the Python packages and kernels that the build needs, of the
    devices that its code was compiled for, and of whether its files are complete. Only builds of
    old tools lack it.

    Mend: write one into the variant's directory, at least with `name`, `id` and `version`.
    """
    path = _path(build)
    # What is no package is no build either; and a link is wrong for a reason of its own.
    if build.packages and not any(entry.path == path for entry in build.entries):
        yield Problem(f"has no {_FILE}", build.path)


@rule(Scope.BUILD, Severity.ERROR)
def metadata_schema(build: Build) -> Iterator[Problem]:
    """The `metadata.json` is JSON, and its keys have the values that they may have.

    Why: loaders refuse a build whose metadata they cannot understand.

    Mend: correct the key. JSON is UTF-8 without a BOM, and has each key once.
    """
    error = build.invalid_metadata
    if error is not None:
        message = str(error).removeprefix(f"{error.path}: ")
        yield Problem(message, _path(build), symbol=error.key or None)


@rule(Scope.BUILD, Severity.WARNING)
def metadata_keys(build: Build) -> Iterator[Problem]:
    """The metadata says the kernel's name, its version, and the namespace of its operators.

    Why: reports, locks and messages name a kernel by them, and the namespace tells apart the
    operators of two builds in one process.

    Mend: add the key. `id` is a Python identifier that no other build has, such as the name with a
    short hash of the source commit.
    """
    for key in _KEYS if build.metadata else ():
        if getattr(build.metadata, key) is None:
            yield Problem(f"lacks the key {key!r}", _path(build), symbol=key)


@rule(Scope.BUILD, Severity.WARNING)
def metadata_name(build: Build) -> Iterator[Problem]:
    """On the Hub, the kernel is named like its repository.

    Why: loaders of the older layout derive the name of the package from the repository, and people
    look for the repository by the name that messages tell.

    Mend: give the repository and the kernel one name.
    """
    if build.hub is None or build.metadata is None or build.metadata.name is None:
        return
    repository = build.hub.repo_id.rpartition("/")[2]
    if build.metadata.name != re.sub(r"[._]", "-", repository.lower()):
        yield Problem(
            f"the name is {build.metadata.name!r}, in the repository {repository!r}",
            _path(build),
            symbol="name",
        )


@rule(Scope.BUILD, Severity.WARNING)
def metadata_version(build: Build) -> Iterator[Problem]:
    """On the Hub, the version is that of the branch or tag that the build is on.

    Why: programs ask for version 2 and get what is on the branch `v2`, whatever it says it is.

    Mend: build again with the right version, or move the build to the branch of its version.
    """
    if build.hub is None or build.metadata is None or build.metadata.version is None:
        return
    match = _MAJOR_OF_REF.fullmatch(build.hub.revision)
    if match and int(match[1]) != build.metadata.version:
        yield Problem(
            f"the version is {build.metadata.version}, on {build.hub.revision!r}",
            _path(build),
            symbol="version",
        )


@rule(Scope.REPOSITORY, Severity.ERROR)
def metadata_agreement(repository: Repository) -> Iterator[Problem]:
    """All builds of a repository have one name and one version.

    Why: the machine decides which build is loaded. A program that asks for one kernel would get
    another one on another machine, for example an old build that was left behind.

    Mend: build all variants from one commit, and remove those that are no longer built.
    """
    described = [(build, build.metadata) for build in repository.builds if build.metadata]
    for key in ("name", "version"):
        values = Counter(getattr(metadata, key) for _, metadata in described)
        values.pop(None, None)
        if len(values) < 2:
            continue
        (usual, count), *_ = values.most_common(1)
        for build, metadata in described:
            value = getattr(metadata, key)
            if value not in (None, usual):
                yield Problem(
                    f"the {key} is {value!r}, in {count} of {len(described)} builds {usual!r}",
                    _path(build),
                    symbol=key,
                )


@rule(Scope.BUILD, Severity.ERROR)
def metadata_backend(build: Build) -> Iterator[Problem]:
    """The backend in the metadata is that of the variant's name.

    Why: a build is chosen by its name, and its architectures are then taken for those of that
    backend.

    Mend: correct the metadata, or the name of the directory.
    """
    if build.variant is None or build.metadata is None or build.metadata.backend is None:
        return
    backend, said = backend_of(build.variant), build.metadata.backend.type
    if backend is not None and said not in names_of(backend):
        yield Problem(
            f"the backend is {said!r}, in a build for {backend_text(build.variant)!r}",
            _path(build),
            symbol="backend.type",
        )


@rule(Scope.BUILD, Severity.ERROR)
def metadata_dependencies(build: Build) -> Iterator[Problem]:
    """A kernel names each package and kernel that it needs once, and not itself.

    Why: of two requirements for one thing, both would have to be met; and a kernel that needs
    itself is never complete.

    Mend: remove what is there twice, or the kernel itself.
    """
    if build.metadata is None:
        return
    for key, name in _twice(build.metadata):
        yield Problem(f"{name} is there more than once", _path(build), symbol=key)
    for dependency in build.metadata.kernel_depends:
        if build.hub and dependency.repo_id == build.hub.repo_id:
            yield Problem(
                f"the kernel needs {dependency}, which is itself",
                _path(build),
                symbol="kernel-depends",
            )


@rule(Scope.BUILD, Severity.WARNING)
def metadata_provenance(build: Build) -> Iterator[Problem]:
    """A build is made from what is committed.

    Why: the provenance names a commit, and the build holds changes that are in no commit. Nobody
    can build it again, or review what it was made of.

    Mend: commit the changes, and build again.
    """
    for key in build.metadata.dirty if build.metadata else ():
        yield Problem("sources had uncommitted changes", _path(build), symbol=key)


@rule(Scope.BUILD, Severity.WARNING)
def metadata_has_digest(build: Build) -> Iterator[Problem]:
    """On the Hub, the metadata has a digest of the build's files.

    Why: with it, a build can be verified wherever it is copied to, without asking the Hub which
    files it should have.

    Mend: build with a tool that writes the digest, or add it to the metadata: the hash of each
    file, in base64.
    """
    if build.hub and build.metadata and build.metadata.digest is None:
        yield Problem("has no digest", _path(build), symbol="digest")


@rule(Scope.BUILD, Severity.ERROR)
def metadata_digest(build: Build) -> Iterator[Problem]:
    """The digest lists every file of the build, with its hash, and nothing else.

    Why: loaders refuse a build with a file that is missing, changed or not listed: it may have been
    damaged, or put there by somebody.

    Mend: write the digest as the last step of the build, and change no file afterwards.
    """
    regular = {build.inner(entry) for entry in build.files()}
    there = {build.inner(entry) for entry in build.entries}
    for problem in build.digest_problems():
        # Bytecode, links and the like are wrong for reasons of their own.
        if problem.path in there and (problem.path not in regular or is_bytecode(problem.path)):
            continue
        if problem.got.startswith("the same as"):
            continue  # a collision
        yield Problem(
            f"expected {problem.expected}, got {problem.got}", f"{build.path}/{problem.path}"
        )


@rule(Scope.BUILD, Severity.WARNING)
def metadata_digest_order(build: Build) -> Iterator[Problem]:
    """The digest lists files in the byte order of their paths.

    Why: the same build is then described by the same text, byte for byte, whoever writes it.

    Mend: sort the paths by their UTF-8 bytes.
    """
    if build.metadata is None or build.metadata.digest is None:
        return
    paths = [path for path, _ in build.metadata.digest.files]
    for before, after in itertools.pairwise(paths):
        if after.encode() < before.encode():
            yield Problem(f"{after!r} comes after {before!r}", _path(build), symbol="digest.files")
            return


def _path(build: Build) -> str:
    return f"{build.path}/{_FILE}"


def _twice(metadata: Metadata) -> Iterator[tuple[str, str]]:
    packages = (canonicalize_name(Requirement(text).name) for text in metadata.python_depends)
    kernels = (dependency.repo_id for dependency in metadata.kernel_depends)
    yield from (("python-depends", name) for name in _repeated(packages))
    yield from (("kernel-depends", name) for name in _repeated(kernels))


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
