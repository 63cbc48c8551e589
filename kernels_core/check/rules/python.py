"""Rules: Python source runs on Python 3.9, and imports only what is available to every kernel."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import attrs
from packaging.requirements import Requirement

from kernels_core.check.facts.imports import Import, imports_of
from kernels_core.check.facts.new_names import newer_names
from kernels_core.check.facts.python_files import PythonFile
from kernels_core.check.facts.repository import Build
from kernels_core.check.facts.unions import evaluated_unions
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.check.tables import table
from kernels_core.variants.names import NativeVariant, TvmFfi

_MODULE_SUFFIXES = (".py", ".so", ".pyd")


@rule(Scope.PYTHON, Severity.ERROR)
def python_syntax(file: PythonFile) -> Iterator[Problem]:
    """Every Python file is valid in Python 3.9.

    Why: kernels are loaded by programs on Python 3.9 and later. Where a file cannot be parsed, the
    import of the kernel fails.

    Fix: use the syntax of Python 3.9: for example `if` instead of `match`, and in the braces of an
    f-string other quotes than around it.
    """
    if file.unparsable:
        yield Problem(file.unparsable, file.path, file.unparsable_line)
    for new in file.newer:
        since = f", which was added in Python {new.since}" if new.since else ""
        yield Problem(f"{new.what}{since}", file.path, new.line)


@rule(Scope.PYTHON, Severity.ERROR)
def python_evaluated_union(file: PythonFile) -> Iterator[Problem]:
    """No union of types is written as `X | Y` where it is evaluated.

    Why: before Python 3.10 it raises a TypeError. Annotations are evaluated when a function or
    class is defined, so that the import of the kernel fails, although the syntax is valid.

    Fix: begin the module with `from __future__ import annotations`, quote the annotation, or write
    `Optional[X]` and `Union[X, Y]`. torch always evaluates the annotations of custom operators:
    only the last works there.
    """
    for union in evaluated_unions(file.tree):
        yield Problem(f"'{union.text}' is evaluated in {union.where}", file.path, union.line)


@rule(Scope.PYTHON, Severity.ERROR)
def python_too_new(file: PythonFile) -> Iterator[Problem]:
    """Nothing is used from the standard library that was added after Python 3.9.

    Why: on Python 3.9 it raises an ImportError, an AttributeError or a TypeError.

    Fix: avoid it; or use it under `if sys.version_info >= (3, 10):`, or in a `try` that catches the
    error, with a replacement otherwise.
    """
    for new in newer_names(file.tree):
        message = f"{new.name} was added in Python {new.since}"
        yield Problem(message, file.path, new.line, new.name)


@rule(Scope.PYTHON, Severity.WARNING)
def python_removed_module(file: PythonFile) -> Iterator[Problem]:
    """No module is imported that later versions of Python have removed.

    Why: on these versions the import fails, and with it the kernel.

    Fix: use its replacement, or catch the ImportError.
    """
    removed = table("python")["removed_modules"]
    for each in imports_of(file.tree):
        if not each.level and each.top in removed and not each.optional:
            message = f"{each.top} was removed in Python {removed[each.top]}"
            yield Problem(message, file.path, each.line, each.top)


@rule(Scope.PYTHON, Severity.ERROR)
def python_absolute_self_import(file: PythonFile) -> Iterator[Problem]:
    """A kernel imports its own modules by relative imports only.

    Why: each build is imported under a unique name, so that several versions can be loaded into one
    process. Under any other name its modules are not found, or those of another build are
    imported instead.

    Fix: write `from . import x` or `from .x import y`.
    """
    known = _known(file.build)
    for each in imports_of(file.tree):
        if not each.level and known.is_own(each, file):
            message = f"imports itself as '{each}', not by a relative import"
            yield Problem(message, file.path, each.line, each.module)


@rule(Scope.PYTHON, Severity.ERROR)
def python_import_foreign(file: PythonFile) -> Iterator[Problem]:
    """Only the standard library, torch, Triton and declared dependencies are imported.

    Why: any other package may be missing where the kernel is loaded, or installed in another
    version. An import inside a function fails only when the function is called.

    Fix: avoid it; or list the distribution in `python-depends` of `metadata.json`. Imports that
    only type checkers need belong under `if TYPE_CHECKING:`.
    """
    for each in _foreign(file):
        if not each.optional:
            yield Problem(_undeclared(each, file), file.path, each.line, each.module)


@rule(Scope.PYTHON, Severity.WARNING)
def python_import_optional(file: PythonFile) -> Iterator[Problem]:
    """No undeclared package is imported, even if the kernel works without it.

    Why: which code of the kernel runs depends on the packages that happen to be installed, and on
    their versions; not all combinations are tested.

    Fix: list the distribution in `python-depends` of `metadata.json`, or do not use it at all.
    """
    for each in _foreign(file):
        if each.optional:
            yield Problem(_undeclared(each, file), file.path, each.line, each.module)


@rule(Scope.PYTHON, Severity.ERROR)
def python_import_above(file: PythonFile) -> Iterator[Problem]:
    """Relative imports stay inside the kernel's package.

    Why: outside it, Python raises "attempted relative import beyond top-level package".

    Fix: use fewer dots, or move the module into the package.
    """
    depth = _depth(file)
    for each in imports_of(file.tree):
        if depth is not None and each.level > depth + 1:
            message = f"'{each}' goes beyond the package, which begins {_levels(depth)}"
            yield Problem(message, file.path, each.line, str(each))


@rule(Scope.PYTHON, Severity.ERROR)
def python_import_missing(file: PythonFile) -> Iterator[Problem]:
    """Modules that are imported from the kernel itself exist.

    Why: otherwise the import of the kernel fails.

    Fix: add the file to the build, or correct the name.
    """
    depth, modules = _depth(file), _known(file.build).modules
    for each in imports_of(file.tree):
        if depth is None or not each.level or each.level > depth + 1 or each.optional:
            continue
        directory = file.inner.split("/")[: -each.level]
        expected = "/".join([*directory, *filter(None, each.module.split("."))])
        if each.module and expected not in modules:
            yield Problem(f"there is no module '{each}'", file.path, each.line, str(each))


def _foreign(file: PythonFile) -> Iterator[Import]:
    if file.build.invalid_metadata:
        return  # what it declares cannot be read
    known = _known(file.build)
    for each in imports_of(file.tree):
        if not each.level and each.top not in known.allowed and not known.is_own(each, file):
            yield each


def _undeclared(each: Import, file: PythonFile) -> str:
    metadata = file.build.metadata
    declared = ", ".join(metadata.python_depends) if metadata else ""
    return (
        f"imports '{each}', which belongs neither to the standard library nor to torch; "
        f"'python-depends' declares {declared or 'nothing'}"
    )


@attrs.frozen
class _Known:
    """The modules that a build may import."""

    allowed: frozenset[str]  # top-level names of modules from elsewhere
    own: frozenset[str]  # names by which a kernel may import itself, which is wrong
    modules: frozenset[str]  # paths in its directory, without suffix

    def is_own(self, each: Import, file: PythonFile) -> bool:
        folder = file.inner.rpartition("/")[0]
        sibling = f"{folder}/{each.top}" if folder else each.top
        # A module that imports its own name means some other module.
        is_sibling = sibling in self.modules and f"{sibling}.py" != file.inner
        return each.top not in self.allowed and (each.top in self.own or is_sibling)


# Files are judged build by build, so only a few builds need to be kept.
@functools.lru_cache(maxsize=4)
def _known(build: Build) -> _Known:
    return _Known(_allowed(build), _own_names(build), _modules(build))


def _allowed(build: Build) -> frozenset[str]:
    python, distributions = table("python"), table("distributions")
    # python-too-new judges modules that were added later.
    found = {*python["standard_library"], *python["new_modules"], *distributions["with_torch"]}
    if isinstance(build.variant, NativeVariant) and isinstance(build.variant.framework, TvmFfi):
        found.update(distributions["modules"]["apache-tvm-ffi"])
    metadata = build.metadata
    if metadata and metadata.kernel_depends:
        found.update(distributions["loaders"])
    for requirement in metadata.python_depends if metadata else ():
        name = Requirement(requirement).name
        found.update(distributions["modules"].get(_normalized(name), ()))
        found.update((name.partition(".")[0], _normalized(name).replace("-", "_")))
    return frozenset(found)


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _own_names(build: Build) -> frozenset[str]:
    hub = build.hub.repo_id.rpartition("/")[2] if build.hub else None
    metadata = build.metadata.name if build.metadata else None
    repository = build.directory.parent.parent.name
    names = (hub, metadata, repository, *build.packages)
    return frozenset(name.replace("-", "_") for name in names if name)


def _modules(build: Build) -> frozenset[str]:
    found = {""}
    for entry in build.files():
        directory, _, name = build.inner(entry).rpartition("/")
        if name.endswith(_MODULE_SUFFIXES):
            parts = directory.split("/") if directory else []
            found.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))
            found.add("/".join([*parts, name.partition(".")[0]]))
    return frozenset(found)


def _depth(file: PythonFile) -> int | None:
    """How many packages up the kernel's package is; None for a file outside a package."""
    parts = file.inner.split("/")[:-1]
    if "" in file.build.packages:
        return len(parts)
    return len(parts) - 1 if parts and parts[0] in file.build.packages else None


def _levels(depth: int) -> str:
    return "here" if depth == 0 else f"{depth} level{'s' if depth > 1 else ''} up"
