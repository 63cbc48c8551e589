"""Rules: Python that runs on Python 3.9, and imports only what every kernel may."""

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
    """Every file of Python is Python 3.9.

    Why: kernels are loaded by programs on Python 3.9 and later. A file that one of them cannot
    parse ends the import of the kernel there.

    Mend: write it in the syntax of Python 3.9; for example `if` instead of `match`, and other
    quotes inside the braces of an f-string than around it.
    """
    if file.unparsable:
        yield Problem(file.unparsable, file.path, file.unparsable_line)
    for new in file.newer:
        since = f", which came with Python {new.since}" if new.since else ""
        yield Problem(f"{new.what}{since}", file.path, new.line)


@rule(Scope.PYTHON, Severity.ERROR)
def python_evaluated_union(file: PythonFile) -> Iterator[Problem]:
    """Nothing evaluates `X | Y` of types.

    Why: before Python 3.10 it raises a TypeError. Annotations are evaluated when a function or
    class is defined, so that the import of the kernel fails; the parser sees nothing wrong.

    Mend: begin the module with `from __future__ import annotations`, put the annotation in quotes,
    or write `Optional[X]` and `Union[X, Y]`. torch evaluates the annotations of custom operators in
    any case, so that only the last helps there.
    """
    for union in evaluated_unions(file.tree):
        yield Problem(f"'{union.text}' is evaluated in {union.where}", file.path, union.line)


@rule(Scope.PYTHON, Severity.ERROR)
def python_too_new(file: PythonFile) -> Iterator[Problem]:
    """Nothing of the standard library is used that came after Python 3.9.

    Why: on Python 3.9 it raises an ImportError, an AttributeError or a TypeError.

    Mend: do without it; or use it under `if sys.version_info >= (3, 10):`, or in a `try` that
    expects the error, with a replacement otherwise.
    """
    for new in newer_names(file.tree):
        message = f"{new.name} came with Python {new.since}"
        yield Problem(message, file.path, new.line, new.name)


@rule(Scope.PYTHON, Severity.WARNING)
def python_removed_module(file: PythonFile) -> Iterator[Problem]:
    """No module is imported that later versions of Python have removed.

    Why: on these versions the import fails, and with it the kernel.

    Mend: use what took its place, or expect the ImportError.
    """
    removed = table("python")["removed_modules"]
    for each in imports_of(file.tree):
        if not each.level and each.top in removed and not each.optional:
            message = f"{each.top} is not in Python {removed[each.top]} and later"
            yield Problem(message, file.path, each.line, each.top)


@rule(Scope.PYTHON, Severity.ERROR)
def python_absolute_self_import(file: PythonFile) -> Iterator[Problem]:
    """A kernel imports its own modules by relative imports only.

    Why: each build is imported under a name of its own, so that several versions live in one
    process. By another name its modules are not found, or those of another build are.

    Mend: write `from . import x` or `from .x import y`.
    """
    known = _known(file.build)
    for each in imports_of(file.tree):
        if not each.level and known.is_own(each, file):
            message = f"imports itself as '{each}', not by a relative import"
            yield Problem(message, file.path, each.line, each.module)


@rule(Scope.PYTHON, Severity.ERROR)
def python_import_foreign(file: PythonFile) -> Iterator[Problem]:
    """Only the standard library, torch, Triton and declared dependencies are imported.

    Why: whatever else a kernel needs may not be there where it is loaded, or in another version.
    An import inside a function fails only when that is called.

    Mend: do without it; or name the distribution in `python-depends` of `metadata.json`. What is
    needed for type checking only belongs under `if TYPE_CHECKING:`.
    """
    for each in _foreign(file):
        if not each.optional:
            yield Problem(_undeclared(each, file), file.path, each.line, each.module)


@rule(Scope.PYTHON, Severity.WARNING)
def python_import_optional(file: PythonFile) -> Iterator[Problem]:
    """No undeclared package is imported, even if the kernel does without it when it is absent.

    Why: the kernel computes by other code, depending on what happens to be installed, and in
    whichever version; nobody has tested all of these.

    Mend: declare the distribution in `python-depends` of `metadata.json`, or do without it always.
    """
    for each in _foreign(file):
        if each.optional:
            yield Problem(_undeclared(each, file), file.path, each.line, each.module)


@rule(Scope.PYTHON, Severity.ERROR)
def python_import_above(file: PythonFile) -> Iterator[Problem]:
    """Relative imports stay inside the kernel's package.

    Why: above it there is nothing: "attempted relative import beyond top-level package".

    Mend: use fewer dots, or move the module into the package.
    """
    depth = _depth(file)
    for each in imports_of(file.tree):
        if depth is not None and each.level > depth + 1:
            message = f"'{each}' reaches above the package, which begins {_levels(depth)}"
            yield Problem(message, file.path, each.line, str(each))


@rule(Scope.PYTHON, Severity.ERROR)
def python_import_missing(file: PythonFile) -> Iterator[Problem]:
    """Modules that are imported from the kernel itself are there.

    Why: the import of the kernel fails.

    Mend: add the file to the build, or mend the name.
    """
    depth, modules = _depth(file), _known(file.build).modules
    for each in imports_of(file.tree):
        if depth is None or not each.level or each.level > depth + 1 or each.optional:
            continue
        directory = file.inner.split("/")[: -each.level]
        wanted = "/".join([*directory, *filter(None, each.module.split("."))])
        if each.module and wanted not in modules:
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
        f"imports '{each}', which is neither in the standard library nor of torch; "
        f"'python-depends' declares {declared or 'nothing'}"
    )


@attrs.frozen
class _Known:
    """The modules that a build may import.

    Attributes:
        allowed: the first parts of the names of modules that come from elsewhere.
        own: the names by which kernels import themselves when they do it wrongly.
        modules: its own modules and packages, as paths without suffix in its directory.
    """

    allowed: frozenset[str]
    own: frozenset[str]
    modules: frozenset[str]

    def is_own(self, each: Import, file: PythonFile) -> bool:
        """Whether an absolute import means the kernel itself."""
        beside = file.inner.rpartition("/")[0]
        sibling = f"{beside}/{each.top}" if beside else each.top
        # A module that imports its own name means another's.
        is_sibling = sibling in self.modules and f"{sibling}.py" != file.inner
        return each.top not in self.allowed and (each.top in self.own or is_sibling)


# Its files are judged one build after the other.
@functools.lru_cache(maxsize=4)
def _known(build: Build) -> _Known:
    return _Known(_allowed(build), _own_names(build), _modules(build))


def _allowed(build: Build) -> frozenset[str]:
    python, distributions = table("python"), table("distributions")
    # What came later is for python-too-new to judge.
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
    """The modules and packages of a build, as paths without suffix in its directory."""
    found = {""}
    for entry in build.files():
        directory, _, name = build.inner(entry).rpartition("/")
        if name.endswith(_MODULE_SUFFIXES):
            parts = directory.split("/") if directory else []
            found.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))
            found.add("/".join([*parts, name.partition(".")[0]]))
    return frozenset(found)


def _depth(file: PythonFile) -> int | None:
    """How many packages up the kernel's own is; None for a file that is in no package."""
    parts = file.inner.split("/")[:-1]
    if "" in file.build.packages:
        return len(parts)
    return len(parts) - 1 if parts and parts[0] in file.build.packages else None


def _levels(depth: int) -> str:
    return "here" if depth == 0 else f"{depth} level{'s' if depth > 1 else ''} up"
