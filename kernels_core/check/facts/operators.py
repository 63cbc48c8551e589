"""The namespaces of `torch.ops` that the Python of a build registers operators in, or uses."""

from __future__ import annotations

import ast
import fnmatch
import functools
import re
from collections.abc import Iterator

import attrs

from kernels_core.check.facts.constants import UNKNOWN, Constants, Scope
from kernels_core.check.facts.imports import bindings, dotted
from kernels_core.check.facts.python_files import PythonFile
from kernels_core.check.facts.repository import Build
from kernels_core.check.tables import table

# The functions of torch.library whose first argument is the name of an operator, "namespace::name".
_REGISTER = frozenset(
    {
        "custom_op",
        "define",
        "impl",
        "impl_abstract",
        "register_autocast",
        "register_autograd",
        "register_fake",
        "register_kernel",
        "register_torch_dispatch",
        "register_vmap",
        "triton_op",
    }
)


_HASH = re.compile(r"[0-9a-f]{6,64}")
_WITH_DIGITS = re.compile(r"(?=.*[a-z])(?=.*[0-9])[a-z0-9]{6,64}")
# Such as float16, torch213, sm90a, v20250101.
_WORD_WITH_NUMBER = re.compile(r"[a-z]{1,9}[0-9]{1,4}[a-z]?|v[0-9]+|[0-9]+[a-z]{1,4}")
# Sequences of letters that occur only in random texts.
_NO_WORD = re.compile(r"(?=.{10})[a-z]*([bcdfghjklmnpqrstvwxz]{4}|q[^u]|[jvwxz]{2})[a-z]*")


@attrs.frozen(slots=False)
class PythonPackage:
    """All Python files of a build."""

    build: Build
    files: tuple[PythonFile, ...]

    @functools.cached_property
    def operators(self) -> Operators:
        """The operators of the build, as far as its Python shows."""
        return _operators_of(self)


@attrs.frozen
class NamespaceUse:
    """A place in the code that names a namespace of `torch.ops`.

    Attributes:
        namespace: the namespace, with `UNKNOWN` for each part that cannot be evaluated.
        path: the file.
        line: the line.
        registers: whether operators are registered in it there.
    """

    namespace: str
    path: str
    line: int
    registers: bool

    @property
    def of_torch(self) -> bool:
        """Whether it is one of torch's own."""
        return self.namespace in table("torch")["namespaces"]

    def is_for(self, namespace: str) -> bool:
        """Whether this may be a given namespace, as far as the code shows."""
        return fnmatch.fnmatchcase(namespace, self.namespace.replace("[", "[[]"))


@attrs.frozen
class Operators:
    """The operators of a build.

    Attributes:
        build: the build.
        uses: the places in its Python that name a namespace; torch's own only where operators are
            registered there.
        native: whether it has native code, which may register operators itself.
    """

    build: Build
    uses: tuple[NamespaceUse, ...]
    native: bool

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces of the build's own operators: its `id`, or else those in its code."""
        declared = self.build.metadata.id if self.build.metadata else None
        if declared is None:
            return tuple(dict.fromkeys(use.namespace for use in self.uses if not use.of_torch))
        own = self.native or any(use.is_for(declared) for use in self.uses)
        return (declared,) if own else ()


def unique_part(namespace: str) -> str:
    """The part of a namespace that is unique to a build, such as a hash; "" when there is none."""
    last = re.split(r"[_*]", namespace.removesuffix("_dirty"))[-1]
    text = last.lower()
    if _HASH.fullmatch(text):
        return last
    random = _WITH_DIGITS.fullmatch(text) and not _WORD_WITH_NUMBER.fullmatch(text)
    return last if random or _NO_WORD.fullmatch(text) else ""


def _operators_of(package: PythonPackage) -> Operators:
    files = {_module(file): file for file in package.files}
    constants = Constants({name: file.tree for name, file in files.items()})
    uses = [
        NamespaceUse(namespace, file.path, line, registers)
        for name, file in files.items()
        for namespace, line, registers in _named(file.tree, Scope(name), constants)
        if namespace != UNKNOWN
    ]
    kept = tuple(use for use in uses if use.registers or not use.of_torch)
    return Operators(package.build, kept, package.build.has_native_code)


def _module(file: PythonFile) -> str:
    return file.inner[: -len(".py")]


Named = tuple[str, int, bool]


def _named(tree: ast.Module, scope: Scope, constants: Constants) -> Iterator[Named]:
    names = bindings(tree)
    waiting: list[tuple[ast.AST, Scope]] = [(tree, scope)]
    while waiting:
        node, scope = waiting.pop()
        yield from _of_node(node, scope, names, constants)
        inner = scope
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inner = constants.locals_of(node, scope)
        outside = getattr(node, "decorator_list", [])
        waiting += (
            (child, scope if child in outside else inner) for child in ast.iter_child_nodes(node)
        )


def _of_node(
    node: ast.AST, scope: Scope, names: dict[str, str], constants: Constants
) -> Iterator[Named]:
    if isinstance(node, ast.Attribute):
        if dotted(node.value, names) == "torch.ops" and _is_namespace(node.attr):
            yield node.attr, node.lineno, False
    elif isinstance(node, ast.ImportFrom) and node.module == "torch.ops" and not node.level:
        for alias in node.names:
            yield alias.name, node.lineno, False
    elif isinstance(node, ast.Call):
        yield from _of_call(node, scope, names, constants)


def _of_call(
    call: ast.Call, scope: Scope, names: dict[str, str], constants: Constants
) -> Iterator[Named]:
    def text(position: int, keyword: str) -> str | None:
        argument = _argument(call, position, keyword)
        return constants.text(argument, scope) if argument else None

    module, _, function = dotted(call.func, names).rpartition(".")
    registers = module == "torch.library"
    namespace = None
    if registers and function == "Library":
        namespace = text(0, "ns")
    elif registers and function in _REGISTER:
        name = text(0, "op" if function.startswith("register") else "name") or ""
        namespace = name.partition("::")[0] if "::" in name else None
    elif function == "getattr" and call.args and dotted(call.args[0], names) == "torch.ops":
        namespace = text(1, "name")
    if namespace is not None:
        yield namespace, call.lineno, registers


def _argument(call: ast.Call, position: int, keyword: str) -> ast.expr | None:
    if len(call.args) > position:
        return call.args[position]
    return next((each.value for each in call.keywords if each.arg == keyword), None)


def _is_namespace(name: str) -> bool:
    return name not in table("torch")["not_namespaces"] and not name.startswith("__")
