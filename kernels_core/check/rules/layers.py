"""Rules: layers, judged by their source.

The requirements are those of `kernels_core.layers.validation` for classes that have been loaded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from kernels_core.check.facts.imports import imports_of
from kernels_core.check.facts.layer_classes import (
    Definition,
    Function,
    LayerClass,
    exported,
    layers_module,
    layers_of,
    members,
    roots,
)
from kernels_core.check.facts.operators import PythonPackage
from kernels_core.check.facts.python_files import PythonFile
from kernels_core.check.facts.python_walk import last_name
from kernels_core.check.rule import Problem, Scope, Severity, rule
from kernels_core.check.tables import table
from kernels_core.layers.members import FLAGS, HARMLESS

_ALLOWED = (
    FLAGS | HARMLESS | {"forward", "__doc__", "__module__", "__qualname__", "__annotations__"}
)
_NO_METHOD = frozenset({"classmethod", "property", "staticmethod", "cached_property"})


@rule(Scope.PACKAGE, Severity.ERROR)
def layers_exported(package: PythonPackage) -> Iterator[Problem]:
    """The package exports its module `layers`.

    Why: that is where loaders look for layers.

    Fix: add `from . import layers` to the package's `__init__.py`.
    """
    module, init = layers_module(package), _init(package)
    if module is None or init is None:
        return
    # An import from a submodule, in any module, binds its name in the package, too.
    anywhere = any(
        _is_layers(each.module) if each.module else "layers" in each.names
        for file in package.files
        for each in imports_of(file.tree)
        if each.level
    )
    if not anywhere and "layers" not in {name for name, _ in members(init.tree.body)}:
        yield Problem(f"does not import {module.path}", init.path, symbol="layers")


def _is_layers(module: str) -> bool:
    return module.partition(".")[0] == "layers"


@rule(Scope.PACKAGE, Severity.WARNING)
def layers_in_all(package: PythonPackage) -> Iterator[Problem]:
    """The package's `__all__` contains `layers`.

    Why: it tells people and tools what the kernel exports.

    Fix: add "layers" to `__all__` in the package's `__init__.py`.
    """
    init = _init(package)
    if layers_module(package) is None or init is None:
        return
    names = exported(init.tree)
    has_any = any(name == "__all__" for name, _ in members(init.tree.body))
    if names is not None and "layers" not in names:
        yield Problem("__all__ does not contain 'layers'", init.path, symbol="__all__")
    elif not has_any and not init.unparsable:
        yield Problem(
            "has no __all__; expected one that contains 'layers'", init.path, symbol="__all__"
        )


@rule(Scope.PACKAGE, Severity.ERROR)
def layers_base(package: PythonPackage) -> Iterator[Problem]:
    """A layer derives from `torch.nn.Module`, directly or through classes of the kernel.

    Why: only the `forward` of a layer is used, on instances of the class that it replaces. They do
    not have what the layer inherits from other classes, and loaders reject it.

    Fix: derive from `torch.nn.Module`, and move shared code into functions.
    """
    seen = set()
    for layer in layers_of(package):
        for base, named_by in layer.foreign:
            if (base, named_by) not in seen:
                seen.add((base, named_by))
                yield _at(named_by, named_by.node, f"derives from {base}")


@rule(Scope.PACKAGE, Severity.ERROR)
def layers_constructor(package: PythonPackage) -> Iterator[Problem]:
    """A layer has no constructor.

    Why: it would never run: the `forward` of a layer runs on instances of the class that it
    replaces. Loaders reject such a layer.

    Fix: remove it; declare the members that `forward` uses by annotations, such as
    `weight: torch.Tensor`.
    """
    for each, name, node in _members(package):
        if name == "__init__":
            yield _at(each, node, "has a constructor")


@rule(Scope.PACKAGE, Severity.ERROR)
def layers_members(package: PythonPackage) -> Iterator[Problem]:
    """A layer has no members but `forward`, `has_backward` and `can_torch_compile`.

    Why: instances of the class that it replaces do not have them. Loaders reject such a layer.
    Methods that only control how a module is shown, such as `extra_repr`, are allowed.

    Fix: move functions and constants to the top level of the module.
    """
    for each, name, node in _members(package):
        if name not in _ALLOWED and name != "__init__":
            yield _at(each, node, f"has the member {name!r}")


@rule(Scope.PACKAGE, Severity.ERROR)
def layers_forward(package: PythonPackage) -> Iterator[Problem]:
    """A layer defines `forward` as an ordinary method.

    Why: a layer exists for its `forward`. Its parameters are compared with those of the `forward`
    that it replaces, whose first parameter is the module.

    Fix: define `def forward(self, ...)` in the class.
    """
    layers = layers_of(package)
    bases = {each for layer in layers for each in layer.classes[1:]}
    for layer in layers:
        found = layer.forward()
        if found is None:
            if not layer.foreign and layer.first not in bases:
                yield _at(layer.first, layer.first.node, "defines no forward")
            continue
        each, node = found
        if isinstance(node, ast.AsyncFunctionDef):
            yield _at(each, node, "has an asynchronous forward")
        elif isinstance(node, ast.FunctionDef):
            decorators = {last_name(decorator) for decorator in node.decorator_list}
            for kind in sorted(decorators & _NO_METHOD):
                yield _at(each, node, f"has a {kind} as forward")


@rule(Scope.PACKAGE, Severity.ERROR)
def layers_flags(package: PythonPackage) -> Iterator[Problem]:
    """`has_backward` and `can_torch_compile` of a layer are True or False.

    Why: they decide in which modes a layer is used. Loaders reject other values.

    Fix: write `has_backward = True` or `has_backward = False`.
    """
    for each, name, node in _members(package):
        if name not in FLAGS:
            continue
        value = getattr(node, "value", None)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) or (
            isinstance(value, (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.JoinedStr))
            and not (isinstance(value, ast.Constant) and isinstance(value.value, bool))
        ):
            yield _at(each, node, f"has a {name} that is neither True nor False")


@rule(Scope.PACKAGE, Severity.WARNING)
def layers_signature(package: PythonPackage) -> Iterator[Problem]:
    """The parameters of a layer's `forward` are listed explicitly.

    Why: they are compared with those of the `forward` that it replaces, by count, kind, name and
    default. `*args` and `**kwargs` match only themselves.

    Fix: name the parameters, with the defaults of the layer that the kernel is made for.
    """
    for layer in layers_of(package):
        found = layer.forward()
        if found and isinstance(found[1], ast.FunctionDef):
            arguments = found[1].args
            named = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
            if named <= 1 and (arguments.vararg or arguments.kwarg):
                yield _at(*found, "has a forward without named parameters")


@rule(Scope.PACKAGE, Severity.WARNING)
def layers_annotated_members(package: PythonPackage) -> Iterator[Problem]:
    """A layer declares the members that its `forward` uses, by annotations.

    Why: then a module without one of them is reported before its forward is replaced; otherwise
    the call fails.

    Fix: add annotations such as `weight: torch.Tensor` to the body of the class.
    """
    for layer in layers_of(package):
        found = layer.forward()
        if found and isinstance(found[1], (ast.FunctionDef, ast.AsyncFunctionDef)):
            missing = _members_used(found[1]) - layer.annotated - _known_members(layer)
            if missing:
                names = ", ".join(sorted(missing))
                yield _at(*found, f"uses members without annotations: {names}")


def _init(package: PythonPackage) -> PythonFile | None:
    """The `__init__.py` of the package that loaders import, if there is one such package."""
    expected = [f"{root}__init__.py" for root in roots(package)]
    found = [file for file in package.files if file.inner in expected]
    return found[0] if len(found) == 1 else None


def _members(package: PythonPackage) -> Iterator[tuple[Definition, str, ast.stmt]]:
    classes = dict.fromkeys(each for layer in layers_of(package) for each in layer.classes)
    for each in classes:
        for name, node in members(each.node.body):
            yield each, name, node


def _members_used(forward: Function) -> frozenset[str]:
    """The members that a forward reads from its module, except those that it tests for."""
    positional = [*forward.args.posonlyargs, *forward.args.args]
    if not positional:
        return frozenset()
    module = positional[0].arg
    read: set[str] = set()
    other: set[str] = set()
    for node in ast.walk(forward):
        if isinstance(node, ast.Attribute) and _is_name(node.value, module):
            (read if isinstance(node.ctx, ast.Load) else other).add(node.attr)
        elif isinstance(node, ast.Call) and _is_name(next(iter(node.args), None), module):
            other.update(_names_tested(node))
    return frozenset(name for name in read - other if not name.startswith("__"))


def _names_tested(call: ast.Call) -> Iterator[str]:
    if last_name(call.func) in ("hasattr", "getattr"):
        names = (each for each in call.args[1:2] if isinstance(each, ast.Constant))
        yield from (str(each.value) for each in names)


def _known_members(layer: LayerClass) -> frozenset[str]:
    own = {name for each in layer.classes for name, _ in members(each.node.body)}
    return frozenset(own.union(table("torch")["module_members"], FLAGS))


def _is_name(node: ast.expr | None, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _at(each: Definition, node: ast.stmt, message: str) -> Problem:
    return Problem(f"{each.node.name} {message}", each.file.path, node.lineno, each.node.name)
