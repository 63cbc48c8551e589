"""Rules: the files and directories of a repository, and their names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kernels_core.check.facts.build_names import SYSTEMS_WITH_CXX_TAG, backend_text, misspelt
from kernels_core.check.facts.repository import Build, Entry, Kind, Repository
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.repository.integrity import is_bytecode
from kernels_core.repository.paths import collisions, is_safe
from kernels_core.variants.names import NativeVariant, NoarchVariant, Torch

_BYTECODE_FOLDER = "__pycache__"

# What a variant directory of the older layout has next to its package.
_BESIDE_PACKAGE = frozenset({"metadata.json", "metadata.json.sigstore", _BYTECODE_FOLDER})

_NEVER_RIGHT = (Kind.LINK, Kind.OTHER)

# Windows reserves these names for devices, with any suffix.
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_WINDOWS_REFUSES = frozenset('<>:"|?*')
_LONGEST_NAME = 255
# Of the 259 characters of a path, 105 are for C:\Users\ with a name of 20,
# \.cache\huggingface\hub\, \snapshots\ and a commit, and 34 for the repository's folder there.
_LONGEST_ON_WINDOWS = 120


@rule(Scope.REPOSITORY, Severity.ERROR)
def layout_builds(repository: Repository) -> Iterator[Problem]:
    """A repository has at least one build.

    Why: without a directory for a variant in `build` there is nothing to load anywhere.

    Fix: build the kernel into `build/<variant>/`, for example `build/torch-universal/` when it has
    no native code.
    """
    if not repository.all_variants:
        yield Problem("'build' has no directory for a variant", "build")


@rule(Scope.BUILD, Severity.ERROR)
def layout_variant_name(build: Build) -> Iterator[Problem]:
    """The name of a build's directory is a valid variant name.

    Why: loaders choose a build by its name. A directory with an invalid name is never chosen, and
    an ambiguous name is rejected.

    Fix: use a name such as `torch-universal`, `torch213-cxx11-cu130-x86_64-linux` or
    `torch-stable-abi210-cpu-aarch64-darwin`, or remove it.
    """
    if build.variant is None and build.name != _BYTECODE_FOLDER:
        yield Problem(build.invalid_name, build.path)


@rule(Scope.BUILD, Severity.ERROR)
def layout_backend(build: Build) -> Iterator[Problem]:
    """The backend in a variant's name is spelled as loaders spell it.

    Why: each backend defines its name and how its versions are written. A name that is spelled
    differently belongs to no backend, and the build is never loaded.

    Fix: rename the directory.
    """
    if build.variant is not None and (spelling := misspelt(build.variant)):
        text = backend_text(build.variant)
        yield Problem(f"{text!r} is not a backend; expected {spelling}", build.path)


@rule(Scope.BUILD, Severity.WARNING)
def layout_cxx_tag(build: Build) -> Iterator[Problem]:
    """Builds for one release of torch name their C++ ABI on Linux, and on no other system.

    Why: torch exists with two C++ ABIs on Linux. A build without the tag is assumed to fit both,
    and then fails to load with one of them. Other systems have only one, and older loaders do not
    know the tag there.

    Fix: add `cxx11` (or `cxx98`) after the release, as in `torch213-cxx11-cpu-x86_64-linux`, or
    remove it from the names of builds for other systems.
    """
    variant = build.variant
    if not isinstance(variant, NativeVariant) or not isinstance(variant.framework, Torch):
        return
    has_tag = variant.framework.cxx11_abi is not None
    if has_tag != (variant.os in SYSTEMS_WITH_CXX_TAG):
        what = f"has a C++ ABI tag, on {variant.os}" if has_tag else "has no C++ ABI tag"
        yield Problem(f"{build.name} {what}", build.path)


@rule(Scope.REPOSITORY, Severity.ERROR)
def layout_variant_directory(repository: Repository) -> Iterator[Problem]:
    """Every build is a directory, not a symbolic link to one.

    Why: the Hub does not store links: a link becomes a small file that contains a path, or a copy.

    Fix: replace the link by a copy of its target.
    """
    for entry in _in_build(repository):
        if entry.kind is not Kind.FILE:
            yield Problem(_what_it_is(entry), entry.path)


@rule(Scope.REPOSITORY, Severity.WARNING)
def layout_stray_file(repository: Repository) -> Iterator[Problem]:
    """`build` contains directories of variants and nothing else.

    Why: a file directly in `build` is downloaded, but never loaded.

    Fix: move it out of `build`, or remove it.
    """
    for entry in _in_build(repository):
        if entry.kind is Kind.FILE:
            yield Problem("is not a directory of a variant", entry.path)


@rule(Scope.BUILD, Severity.ERROR)
def layout_package(build: Build) -> Iterator[Problem]:
    """A build is a Python package, or contains exactly one.

    Why: without an `__init__.py` there is nothing to import; with two packages it is ambiguous
    which one to import.

    Fix: put `__init__.py` and the modules that it imports directly into the variant's directory.
    """
    if "" in build.packages or build.name == _BYTECODE_FOLDER:
        return
    inits = ("__init__.py", *(f"{name}/__init__.py" for name in _directories(build)))
    if any(build.inner(entry) in inits for entry in build.entries if entry.kind is Kind.LINK):
        return  # layout-regular-files reports links
    if not build.packages:
        yield Problem("has no __init__.py, and no directory with one", build.path)
    elif len(build.packages) > 1:
        names = ", ".join(build.packages)
        yield Problem(f"has no __init__.py, and more than one package: {names}", build.path)


@rule(Scope.BUILD, Severity.ERROR)
def layout_package_name(build: Build) -> Iterator[Problem]:
    """A package inside a variant's directory has the repository's name, with `_` instead of `-`.

    Why: loaders of the older layout find the package by that name.

    Fix: rename the package, or put its `__init__.py` into the variant's directory.
    """
    if build.name == _BYTECODE_FOLDER:
        return
    for name in build.packages:
        path = f"{build.path}/{name}"
        if name and not name.isidentifier():
            yield Problem(f"{name!r} is not a name that Python can import", path)
    if len(build.packages) != 1 or not build.packages[0].isidentifier():
        return
    (package,) = build.packages
    expected = {name.replace("-", "_") for name in _names(build)}
    if expected and package not in expected:
        yield Problem(
            f"the package is {package!r}; expected {' or '.join(map(repr, sorted(expected)))}",
            f"{build.path}/{package}",
        )


@rule(Scope.BUILD, Severity.WARNING)
def layout_beside_package(build: Build) -> Iterator[Problem]:
    """In the older layout, a variant's directory contains only the package and its metadata.

    Why: only the package is imported. Relative imports do not find what is outside it, and some
    loaders treat another directory as a second package.

    Fix: move it into the package, or remove it.
    """
    if "" in build.packages or len(build.packages) != 1:
        return
    for entry in build.entries:
        inner = build.inner(entry)
        if entry.kind in _NEVER_RIGHT or is_bytecode(inner):
            continue  # other rules report these
        if "/" not in inner and inner not in {*build.packages, *_BESIDE_PACKAGE}:
            yield Problem(f"is outside the package {build.packages[0]!r}", entry.path)


@rule(Scope.BUILD, Severity.ERROR)
def layout_regular_files(build: Build) -> Iterator[Problem]:
    """A build contains only directories and regular files, no links.

    Why: the Hub and Windows do not support links, and a link can point outside the build, to files
    that were not published and checked.

    Fix: replace the link by a copy of its target, or remove it.
    """
    for entry in build.entries:
        if entry.kind in _NEVER_RIGHT:
            yield Problem(_what_it_is(entry), entry.path)


@rule(Scope.BUILD, Severity.ERROR)
def layout_bytecode(build: Build) -> Iterator[Problem]:
    """A build contains no bytecode that Python would import instead of source.

    Why: bytecode works with one version of Python only, cannot be reviewed, and no digest covers
    it.

    Fix: remove it, and keep the source that it was compiled from.
    """
    for entry in build.files():
        if is_bytecode(entry.path) and entry.path.split("/")[-2] != _BYTECODE_FOLDER:
            yield Problem("is bytecode", entry.path)


@rule(Scope.BUILD, Severity.WARNING)
def layout_pycache(build: Build) -> Iterator[Problem]:
    """A repository contains no `__pycache__` directories.

    Why: they are left over from building or testing the kernel. No digest covers the bytecode in
    them, and other loaders may run it instead of the source.

    Fix: remove them, and set `PYTHONDONTWRITEBYTECODE=1` where the kernel is built.
    """
    if build.name == _BYTECODE_FOLDER:
        yield Problem("is a directory of bytecode among the variants", build.path)
    for entry in build.entries:
        if entry.name == _BYTECODE_FOLDER and entry.kind is Kind.DIRECTORY:
            yield Problem("is a directory of bytecode", entry.path)


@rule(Scope.REPOSITORY, Severity.ERROR)
def layout_collisions(repository: Repository) -> Iterator[Problem]:
    """No two paths differ only in case or in Unicode normalization.

    Why: macOS and Windows treat them as the same path, so that one file silently overwrites the
    other.

    Fix: rename one of them.
    """
    for one, other in collisions(repository.all_variants):
        yield Problem(f"is the same path as build/{one} on some systems", f"build/{other}")
    for build in repository.builds:
        paths = [e.path for e in build.entries if e.kind is not Kind.DIRECTORY and is_safe(e.path)]
        pairs = (_where_they_differ(one, other) for one, other in collisions(paths))
        for one, other in dict.fromkeys(pairs):
            yield Problem(f"is the same path as {one} on some systems", other)


@rule(Scope.REPOSITORY, Severity.ERROR)
def layout_safe_paths(repository: Repository) -> Iterator[Problem]:
    r"""All paths are safe to write on every system.

    Why: a path with `..`, a backslash, a colon or unprintable characters may refer to a place
    outside the repository. Loaders reject the whole repository.

    Fix: rename the file. Names consist of printable characters other than `\` and `:`.
    """
    for path, reason in repository.unwritable:
        yield Problem(reason, path)
    for build in repository.builds:
        for entry in build.entries:
            inside_unsafe = not is_safe(entry.path.rpartition("/")[0])
            if not is_safe(entry.path) and not inside_unsafe:
                yield Problem(f"{entry.path!r} is not safe to write everywhere", entry.path)


@rule(Scope.REPOSITORY, Severity.ERROR)
def layout_windows_names(repository: Repository) -> Iterator[Problem]:
    """File names are valid on Windows.

    Why: Windows reserves names like `aux.py` and `con` for devices, forbids some characters, and
    drops trailing dots and spaces. The repository cannot be downloaded or checked out there.

    Fix: rename the file.
    """
    for build in repository.builds:
        for entry in build.entries:
            reason = _windows_refuses(entry.name)
            if reason and is_safe(entry.path):
                yield Problem(f"Windows {reason}", entry.path)


@rule(Scope.BUILD, Severity.WARNING)
def layout_path_length(build: Build) -> Iterator[Problem]:
    """The paths of builds that Windows loads are short enough for Windows.

    Why: by default, Windows limits paths to 259 characters, and the Hub's cache directory takes up
    more than half of them.

    Fix: use shorter names or fewer directories.
    """
    for entry in build.files() if _loads_on_windows(build) else ():
        if len(entry.path) > _LONGEST_ON_WINDOWS:
            yield Problem(
                f"has {len(entry.path)} characters, more than {_LONGEST_ON_WINDOWS}", entry.path
            )


def _in_build(repository: Repository) -> Iterator[Entry]:
    """The entries directly in `build` that are not directories."""
    return (entry for entry in repository.entries if entry.path.startswith("build/"))


def _directories(build: Build) -> Iterator[str]:
    for entry in build.entries:
        if entry.kind is Kind.DIRECTORY and "/" not in build.inner(entry):
            yield entry.name


def _names(build: Build) -> Iterator[str]:
    if build.metadata and build.metadata.name:
        yield build.metadata.name
    if build.hub:
        yield build.hub.repo_id.rpartition("/")[2]
    # Not the name of a directory on disk: people clone into directories of any name.


def _what_it_is(entry: Entry) -> str:
    if entry.kind is Kind.LINK:
        return f"is a link to {entry.target}"
    return "is neither a file nor a directory"


def _where_they_differ(one: str, other: str) -> tuple[str, str]:
    """The directories or files in two colliding paths whose names collide."""
    ones, others = one.split("/"), other.split("/")
    for count, names in enumerate(zip(ones, others, strict=False), start=1):
        if names[0] != names[1]:
            return "/".join(ones[:count]), "/".join(others[:count])
    return one, other


def _windows_refuses(name: str) -> str:
    if _WINDOWS_DEVICES.fullmatch(name):
        return "reserves the name for a device"
    if found := sorted(_WINDOWS_REFUSES & set(name)):
        return f"does not allow {' '.join(found)} in names"
    if name != name.rstrip(". "):
        return "drops the trailing dot or space of the name"
    if len(name) > _LONGEST_NAME:
        return f"allows at most {_LONGEST_NAME} characters in a name"
    return ""


def _loads_on_windows(build: Build) -> bool:
    variant = build.variant
    return isinstance(variant, NoarchVariant) or (
        isinstance(variant, NativeVariant) and variant.os == "windows"
    )
