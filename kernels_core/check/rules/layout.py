"""Rules: what lies where in a repository, and what it is called."""

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

# What a variant directory of the older layout has beside its package.
_BESIDE_PACKAGE = frozenset({"metadata.json", "metadata.json.sigstore", _BYTECODE_FOLDER})

_NEVER_RIGHT = (Kind.LINK, Kind.OTHER)

# Windows keeps these names for devices, with any ending.
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_WINDOWS_REFUSES = frozenset('<>:"|?*')
_LONGEST_NAME = 255
# Of the 259 characters of a path, 105 are for C:\Users\ with a name of 20,
# \.cache\huggingface\hub\, \snapshots\ and a commit, and 34 for the repository's folder there.
_LONGEST_ON_WINDOWS = 120


@rule(Scope.REPOSITORY, Severity.ERROR)
def layout_builds(repository: Repository) -> Iterator[Problem]:
    """There is at least one build.

    Why: without a directory for some variant below `build` there is nothing to load anywhere.

    Mend: build the kernel into `build/<variant>/`, for example `build/torch-universal/` when it has
    no native code.
    """
    if not repository.all_variants:
        yield Problem("'build' holds no directory of a variant", "build")


@rule(Scope.BUILD, Severity.ERROR)
def layout_variant_name(build: Build) -> Iterator[Problem]:
    """The directory of a build is named by the grammar of variants.

    Why: loaders choose a build by its name. A directory with another name is never chosen, and a
    name that can be read in two ways is refused.

    Mend: name it like `torch-universal`, `torch213-cxx11-cu130-x86_64-linux` or
    `torch-stable-abi210-cpu-aarch64-darwin`, or remove it.
    """
    if build.variant is None and build.name != _BYTECODE_FOLDER:
        yield Problem(build.invalid_name, build.path)


@rule(Scope.BUILD, Severity.ERROR)
def layout_backend(build: Build) -> Iterator[Problem]:
    """The backend in a variant's name is spelt as loaders spell it.

    Why: the names of backends, and how their versions are written, belong to the backends. What is
    spelt in another way is for no backend at all, and never loaded.

    Mend: rename the directory.
    """
    if build.variant is not None and (spelling := misspelt(build.variant)):
        text = backend_text(build.variant)
        yield Problem(f"{text!r} is no backend, expected {spelling}", build.path)


@rule(Scope.BUILD, Severity.WARNING)
def layout_cxx_tag(build: Build) -> Iterator[Problem]:
    """Builds for a release of torch say their C++ ABI on Linux, and on no other system.

    Why: torch exists with two C++ ABIs on Linux. A build without the tag is taken to fit both, and
    then fails to load with one of them; elsewhere there is only one, and older loaders do not know
    the tag.

    Mend: put `cxx11` (or `cxx98`) behind the release, as in `torch213-cxx11-cpu-x86_64-linux`, or
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
    """Every build is a directory of its own, not a link to one.

    Why: the Hub has no links: what was one is a small file with a path in it, or a copy.

    Mend: copy what the link leads to.
    """
    for entry in _in_build(repository):
        if entry.kind is not Kind.FILE:
            yield Problem(_what_it_is(entry), entry.path)


@rule(Scope.REPOSITORY, Severity.WARNING)
def layout_stray_file(repository: Repository) -> Iterator[Problem]:
    """In `build` there are directories of variants and nothing else.

    Why: nobody ever loads a file that lies there. It is downloaded all the same.

    Mend: move it out of `build`, or remove it.
    """
    for entry in _in_build(repository):
        if entry.kind is Kind.FILE:
            yield Problem("a file among the directories of variants", entry.path)


@rule(Scope.BUILD, Severity.ERROR)
def layout_package(build: Build) -> Iterator[Problem]:
    """A build is a package, or holds exactly one.

    Why: without an `__init__.py` there is nothing to import; of two packages, the one to import
    cannot be told.

    Mend: put the `__init__.py` into the variant's directory, and beside it what it imports.
    """
    if "" in build.packages or build.name == _BYTECODE_FOLDER:
        return
    inits = ("__init__.py", *(f"{name}/__init__.py" for name in _directories(build)))
    if any(build.inner(entry) in inits for entry in build.entries if entry.kind is Kind.LINK):
        return  # a link is wrong for a reason of its own
    if not build.packages:
        yield Problem("has no __init__.py, and no directory with one", build.path)
    elif len(build.packages) > 1:
        names = ", ".join(build.packages)
        yield Problem(f"has no __init__.py, and more than one package: {names}", build.path)


@rule(Scope.BUILD, Severity.ERROR)
def layout_package_name(build: Build) -> Iterator[Problem]:
    """A package inside the variant's directory is named like the repository, with `_` for `-`.

    Why: loaders of the older layout look for the package by that name, and import it by it.

    Mend: rename the package, or put its `__init__.py` into the variant's directory.
    """
    if build.name == _BYTECODE_FOLDER:
        return
    for name in build.packages:
        path = f"{build.path}/{name}"
        if name and not name.isidentifier():
            yield Problem(f"{name!r} is no name that Python can import", path)
    if len(build.packages) != 1 or not build.packages[0].isidentifier():
        return
    (package,) = build.packages
    wanted = {name.replace("-", "_") for name in _names(build)}
    if wanted and package not in wanted:
        yield Problem(
            f"the package is {package!r}, expected {' or '.join(map(repr, sorted(wanted)))}",
            f"{build.path}/{package}",
        )


@rule(Scope.BUILD, Severity.WARNING)
def layout_beside_package(build: Build) -> Iterator[Problem]:
    """In the older layout, nothing but the metadata lies beside the package.

    Why: only the package is imported. What lies beside it is not found by relative imports, and
    some loaders take another directory for a second package.

    Mend: move it into the package, or remove it.
    """
    if "" in build.packages or len(build.packages) != 1:
        return
    for entry in build.entries:
        inner = build.inner(entry)
        if entry.kind in _NEVER_RIGHT or is_bytecode(inner):
            continue  # wrong for a reason of its own
        if "/" not in inner and inner not in {*build.packages, *_BESIDE_PACKAGE}:
            yield Problem(f"lies beside the package {build.packages[0]!r}", entry.path)


@rule(Scope.BUILD, Severity.ERROR)
def layout_regular_files(build: Build) -> Iterator[Problem]:
    """A build is made of directories and files, without links.

    Why: the Hub and Windows have no links, and a link can lead out of the build: what it leads to
    is not what was published and checked.

    Mend: copy what the link leads to, or remove it.
    """
    for entry in build.entries:
        if entry.kind in _NEVER_RIGHT:
            yield Problem(_what_it_is(entry), entry.path)


@rule(Scope.BUILD, Severity.ERROR)
def layout_bytecode(build: Build) -> Iterator[Problem]:
    """There is no bytecode that Python would import instead of source.

    Why: bytecode works with one version of Python only, cannot be reviewed, and no digest covers
    it.

    Mend: remove it, and keep the source that it was made of.
    """
    for entry in build.files():
        if is_bytecode(entry.path) and entry.path.split("/")[-2] != _BYTECODE_FOLDER:
            yield Problem("bytecode", entry.path)


@rule(Scope.BUILD, Severity.WARNING)
def layout_pycache(build: Build) -> Iterator[Problem]:
    """There are no `__pycache__` directories.

    Why: they are left by the Python that built or tried the kernel. No digest covers the bytecode
    in them, and other loaders may run it in place of the source.

    Mend: remove them, and set `PYTHONDONTWRITEBYTECODE=1` where the kernel is built.
    """
    if build.name == _BYTECODE_FOLDER:
        yield Problem("a directory for bytecode among those of variants", build.path)
    for entry in build.entries:
        if entry.name == _BYTECODE_FOLDER and entry.kind is Kind.DIRECTORY:
            yield Problem("a directory for bytecode", entry.path)


@rule(Scope.REPOSITORY, Severity.ERROR)
def layout_collisions(repository: Repository) -> Iterator[Problem]:
    """No two paths differ only in upper and lower case, or in the form of Unicode characters.

    Why: on macOS and Windows they are one path. One of the two files overwrites the other, unseen.

    Mend: rename one of them.
    """
    for one, other in collisions(repository.all_variants):
        yield Problem(f"some systems take it for build/{one}", f"build/{other}")
    for build in repository.builds:
        paths = [e.path for e in build.entries if e.kind is not Kind.DIRECTORY and is_safe(e.path)]
        pairs = (_where_they_differ(one, other) for one, other in collisions(paths))
        for one, other in dict.fromkeys(pairs):
            yield Problem(f"some systems take it for {one}", other)


@rule(Scope.REPOSITORY, Severity.ERROR)
def layout_safe_paths(repository: Repository) -> Iterator[Problem]:
    r"""Paths can be written as they are, inside the repository, on every system.

    Why: a path with `..`, a backslash, a colon or characters that cannot be printed may be taken
    for one outside of the repository. Loaders refuse the whole repository.

    Mend: rename the file. Names are made of printable characters, without `\` and `:`.
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
    """File names are ones that Windows has.

    Why: Windows keeps names like `aux.py` and `con` for devices, refuses some characters, and drops
    dots and spaces at the end. There the repository cannot be downloaded or checked out.

    Mend: rename the file.
    """
    for build in repository.builds:
        for entry in build.entries:
            reason = _windows_refuses(entry.name)
            if reason and is_safe(entry.path):
                yield Problem(f"Windows {reason}", entry.path)


@rule(Scope.BUILD, Severity.WARNING)
def layout_path_length(build: Build) -> Iterator[Problem]:
    """The paths of builds that Windows loads are short enough for it.

    Why: Windows takes paths of at most 259 characters unless it is set up otherwise, and more than
    half of them are needed for where the Hub's files are kept.

    Mend: use shorter names or fewer directories.
    """
    for entry in build.files() if _loads_on_windows(build) else ():
        if len(entry.path) > _LONGEST_ON_WINDOWS:
            yield Problem(
                f"has {len(entry.path)} characters, more than {_LONGEST_ON_WINDOWS}", entry.path
            )


def _in_build(repository: Repository) -> Iterator[Entry]:
    """What lies in `build` and is no directory."""
    return (entry for entry in repository.entries if entry.path.startswith("build/"))


def _directories(build: Build) -> Iterator[str]:
    for entry in build.entries:
        if entry.kind is Kind.DIRECTORY and "/" not in build.inner(entry):
            yield entry.name


def _names(build: Build) -> Iterator[str]:
    """What the repository of a build is called, as far as that can be told."""
    if build.metadata and build.metadata.name:
        yield build.metadata.name
    if build.hub:
        yield build.hub.repo_id.rpartition("/")[2]
    # The name of a directory on disk says little: people clone into directories of any name.


def _what_it_is(entry: Entry) -> str:
    if entry.kind is Kind.LINK:
        return f"a link to {entry.target}"
    return "neither a file nor a directory"


def _where_they_differ(one: str, other: str) -> tuple[str, str]:
    """Of two paths that collide, the directories or files whose names do."""
    ones, others = one.split("/"), other.split("/")
    for count, names in enumerate(zip(ones, others, strict=False), start=1):
        if names[0] != names[1]:
            return "/".join(ones[:count]), "/".join(others[:count])
    return one, other


def _windows_refuses(name: str) -> str:
    if _WINDOWS_DEVICES.fullmatch(name):
        return "keeps the name for a device"
    if found := sorted(_WINDOWS_REFUSES & set(name)):
        return f"refuses {' '.join(found)} in names"
    if name != name.rstrip(". "):
        return "drops the dot or space at the end of the name"
    if len(name) > _LONGEST_NAME:
        return f"takes no name of more than {_LONGEST_NAME} characters"
    return ""


def _loads_on_windows(build: Build) -> bool:
    variant = build.variant
    return isinstance(variant, NoarchVariant) or (
        isinstance(variant, NativeVariant) and variant.os == "windows"
    )
