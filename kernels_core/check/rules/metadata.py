"""Rules: the metadata of a build, and the digest of its files."""

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

    Why: it lists the Python packages and kernels that the build depends on and the devices that it
    was compiled for, and its digest verifies the files. Only builds of old tools lack it.

    Fix: add one to the variant's directory, with at least `name`, `id` and `version`.
    """
    path = _path(build)
    # Other rules report a directory that is not a package, and a link.
    if build.packages and not any(entry.path == path for entry in build.entries):
        yield Problem(f"has no {_FILE}", build.path)


@rule(Scope.BUILD, Severity.ERROR)
def metadata_schema(build: Build) -> Iterator[Problem]:
    """`metadata.json` is valid JSON, and its keys have valid values.

    Why: loaders reject a build with invalid metadata.

    Fix: correct the key. The file must be UTF-8 without a BOM, and each key may occur once.
    """
    error = build.invalid_metadata
    if error is not None:
        message = str(error).removeprefix(f"{error.path}: ")
        yield Problem(message, _path(build), symbol=error.key or None)


@rule(Scope.BUILD, Severity.WARNING)
def metadata_keys(build: Build) -> Iterator[Problem]:
    """The metadata has the kernel's name, its version, and the namespace of its operators.

    Why: reports, locks and messages identify a kernel by them, and the namespace separates the
    operators of two builds in one process.

    Fix: add the key. `id` is a Python identifier that is unique to the build, such as the name with
    a short hash of the source commit.
    """
    for key in _KEYS if build.metadata else ():
        if getattr(build.metadata, key) is None:
            yield Problem(f"lacks the key {key!r}", _path(build), symbol=key)


@rule(Scope.BUILD, Severity.WARNING)
def metadata_name(build: Build) -> Iterator[Problem]:
    """On the Hub, the kernel has the name of its repository.

    Why: loaders of the older layout derive the name of the package from the repository, and people
    search for the repository by the name that they see in messages.

    Fix: give the repository and the kernel the same name.
    """
    if build.hub is None or build.metadata is None or build.metadata.name is None:
        return
    repository = build.hub.repo_id.rpartition("/")[2]
    if build.metadata.name != re.sub(r"[._]", "-", repository.lower()):
        yield Problem(
            f"the name is {build.metadata.name!r}, but the repository is {repository!r}",
            _path(build),
            symbol="name",
        )


@rule(Scope.BUILD, Severity.WARNING)
def metadata_version(build: Build) -> Iterator[Problem]:
    """On the Hub, the version in the metadata is that of the branch or tag.

    Why: programs that request version 2 get what is on the branch `v2`, whatever its metadata says.

    Fix: build again with the right version, or move the build to the branch of its version.
    """
    if build.hub is None or build.metadata is None or build.metadata.version is None:
        return
    match = _MAJOR_OF_REF.fullmatch(build.hub.revision)
    if match and int(match[1]) != build.metadata.version:
        yield Problem(
            f"the version is {build.metadata.version}, but the revision is {build.hub.revision!r}",
            _path(build),
            symbol="version",
        )


@rule(Scope.REPOSITORY, Severity.ERROR)
def metadata_agreement(repository: Repository) -> Iterator[Problem]:
    """All builds of a repository have the same name and version.

    Why: the machine decides which build is loaded. The same program would get a different kernel on
    another machine, for example an old build that was left behind.

    Fix: build all variants from one commit, and remove those that are no longer built.
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
                    f"the {key} is {value!r}, but {usual!r} in {count} of {len(described)} builds",
                    _path(build),
                    symbol=key,
                )


@rule(Scope.BUILD, Severity.ERROR)
def metadata_backend(build: Build) -> Iterator[Problem]:
    """The backend in the metadata is the one in the variant's name.

    Why: a build is chosen by its name, and its architectures are then interpreted as those of that
    backend.

    Fix: correct the metadata, or the name of the directory.
    """
    if build.variant is None or build.metadata is None or build.metadata.backend is None:
        return
    backend, said = backend_of(build.variant), build.metadata.backend.type
    if backend is not None and said not in names_of(backend):
        yield Problem(
            f"the backend is {said!r}, but the build is for {backend_text(build.variant)!r}",
            _path(build),
            symbol="backend.type",
        )


@rule(Scope.BUILD, Severity.ERROR)
def metadata_dependencies(build: Build) -> Iterator[Problem]:
    """The metadata lists each dependency once, and not the kernel itself.

    Why: of two requirements for one package, both would have to be met; and a kernel that depends
    on itself can never be complete.

    Fix: remove the duplicate, or the kernel itself.
    """
    if build.metadata is None:
        return
    for key, name in _twice(build.metadata):
        yield Problem(f"{name} is listed more than once", _path(build), symbol=key)
    for dependency in build.metadata.kernel_depends:
        if build.hub and dependency.repo_id == build.hub.repo_id:
            yield Problem(
                f"the kernel depends on itself: {dependency}",
                _path(build),
                symbol="kernel-depends",
            )


@rule(Scope.BUILD, Severity.WARNING)
def metadata_provenance(build: Build) -> Iterator[Problem]:
    """A build is made from committed sources.

    Why: the provenance names a commit, but the build contains changes that are in no commit. Nobody
    can reproduce it or review its sources.

    Fix: commit the changes, and build again.
    """
    for key in build.metadata.dirty if build.metadata else ():
        yield Problem("the sources had uncommitted changes", _path(build), symbol=key)


@rule(Scope.BUILD, Severity.WARNING)
def metadata_has_digest(build: Build) -> Iterator[Problem]:
    """On the Hub, the metadata has a digest of the build's files.

    Why: with it, a copy of the build can be verified anywhere, without a request to the Hub.

    Fix: build with a tool that writes the digest, or add it to the metadata: the hash of each
    file, in base64.
    """
    if build.hub and build.metadata and build.metadata.digest is None:
        yield Problem("has no digest", _path(build), symbol="digest")


@rule(Scope.BUILD, Severity.ERROR)
def metadata_digest(build: Build) -> Iterator[Problem]:
    """The digest lists exactly the files of the build, with their hashes.

    Why: loaders reject a build with a file that is missing, changed or not listed: it may be
    damaged or tampered with.

    Fix: write the digest as the last step of the build, and change no file afterwards.
    """
    regular = {build.inner(entry) for entry in build.files()}
    existing = {build.inner(entry) for entry in build.entries}
    for problem in build.digest_problems():
        # Other rules report bytecode, links and the like.
        if problem.path in existing and (problem.path not in regular or is_bytecode(problem.path)):
            continue
        if problem.got.startswith("the same as"):
            continue  # a collision
        yield Problem(
            f"expected {problem.expected}, got {problem.got}", f"{build.path}/{problem.path}"
        )


@rule(Scope.BUILD, Severity.WARNING)
def metadata_digest_order(build: Build) -> Iterator[Problem]:
    """The digest lists files sorted by the bytes of their paths.

    Why: then every tool writes the same digest for the same build, byte for byte.

    Fix: sort the paths by their UTF-8 bytes.
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
