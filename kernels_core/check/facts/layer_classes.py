"""The layers of a build, as far as its source shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import attrs

from kernels_core.check.facts.imports import bindings, dotted
from kernels_core.check.facts.operators import PythonPackage
from kernels_core.check.facts.python_files import PythonFile

_MODULE_CLASSES = frozenset({"torch.nn.Module", "torch.nn.modules.Module"})
_MOST_BASES = 50

Function = ast.FunctionDef | ast.AsyncFunctionDef

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@attrs.frozen
class Definition:
    """A class in the source, and the file that it is in."""

    file: PythonFile = attrs.field(repr=False)
    node: ast.ClassDef = attrs.field(repr=False)


@attrs.frozen
class LayerClass:
    """A layer: a class that derives from `torch.nn.Module`.

    Attributes:
        name: its name in the module of layers.
        classes: the class and its base classes before `torch.nn.Module`, as far as they are in the
            build.
        foreign: the other base classes, each with the class that names it.
    """

    name: str
    classes: tuple[Definition, ...]
    foreign: tuple[tuple[str, Definition], ...]

    @property
    def first(self) -> Definition:
        """The class itself."""
        return self.classes[0]

    def forward(self) -> tuple[Definition, ast.stmt] | None:
        """The `forward` that its instances have, and the class that defines it."""
        for each in self.classes:
            for name, node in members(each.node.body):
                if name == "forward":
                    return each, node
        return None

    @property
    def annotated(self) -> frozenset[str]:
        """The names that it or a base class annotates."""
        return frozenset(
            node.target.id
            for each in self.classes
            for node in each.node.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        )


def layers_module(package: PythonPackage) -> PythonFile | None:
    """The module `layers` of a build; None when it has none."""
    files = {file.inner: file for file in package.files}
    for root in roots(package):
        for name in ("layers.py", "layers/__init__.py"):
            if root + name in files:
                return files[root + name]
    return None


def roots(package: PythonPackage) -> tuple[str, ...]:
    """The directories of the packages that loaders import, with `/`; "" for the build's own."""
    packages = package.build.packages
    return ("",) if "" in packages else tuple(f"{name}/" for name in packages)


def layers_of(package: PythonPackage) -> tuple[LayerClass, ...]:
    """The public classes in the module of layers that derive from `torch.nn.Module`."""
    module = layers_module(package)
    if module is None:
        return ()
    source = _Source({file.inner: file for file in package.files})
    listed = exported(module.tree)
    found = []
    for name in source.classes_in(module):
        if name.startswith("_") or (listed is not None and name not in listed):
            continue
        definition = source.find(module, name)
        layer = definition and source.layer(name, definition)
        if layer:
            found.append(layer)
    return tuple(found)


def exported(tree: ast.Module) -> frozenset[str] | None:
    """The names in `__all__`; None where there is none, or it cannot be evaluated."""
    found: frozenset[str] | None = None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not any(map(_is_all, targets)):
            continue
        added = _strings(getattr(node, "value", None))
        if added is None:
            return None
        found = added | (found or added if isinstance(node, ast.AugAssign) else added)
    # Such as __all__.append(...).
    changed = any(
        isinstance(node, ast.Attribute) and _is_all(node.value) for node in ast.walk(tree)
    )
    return None if changed else found


def _is_all(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Name) and node.id == "__all__"


def _strings(node: ast.expr | None) -> frozenset[str] | None:
    """The strings in a list of constants; None for other expressions."""
    if not isinstance(node, (ast.List, ast.Tuple)):
        return None
    values = [each.value for each in node.elts if isinstance(each, ast.Constant)]
    if len(values) < len(node.elts):
        return None
    return frozenset(value for value in values if isinstance(value, str))


def members(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """The names that the body of a class binds, each with the statement."""
    for node in body:
        yield from ((name, node) for name in _bound_by(node))
        if not isinstance(node, _DEFINITIONS):
            for block in ("body", "orelse", "finalbody"):
                yield from members(getattr(node, block, []))


def _bound_by(node: ast.stmt) -> list[str]:
    if isinstance(node, _DEFINITIONS):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    if isinstance(node, ast.Assign):
        inside = (each for target in node.targets for each in ast.walk(target))
        names = (each for each in inside if isinstance(each, ast.Name))
        return [each.id for each in names if isinstance(each.ctx, ast.Store)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        return [node.target.id]
    return []


class _Source:
    """The classes of a build, found through the imports of its modules."""

    def __init__(self, files: Mapping[str, PythonFile]) -> None:
        self._files = files

    def classes_in(self, file: PythonFile) -> tuple[str, ...]:
        """The names in a module that may be classes: those defined and those imported."""
        names = [node.name for node in file.tree.body if isinstance(node, ast.ClassDef)]
        for node in file.tree.body:
            if isinstance(node, ast.ImportFrom) and node.level:
                names += [alias.asname or alias.name for alias in node.names]
        return tuple(dict.fromkeys(names))

    def find(self, file: PythonFile, name: str, depth: int = 0) -> Definition | None:
        """The class that a name at the top level of a module refers to, if the build defines it."""
        for node in file.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return Definition(file, node)
            if isinstance(node, ast.ImportFrom) and node.level and depth < _MOST_BASES:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        source = self._source(file, node)
                        return self.find(source, alias.name, depth + 1) if source else None
        return None

    def _source(self, file: PythonFile, node: ast.ImportFrom) -> PythonFile | None:
        directory = file.inner.split("/")[: -node.level]
        path = "/".join([*directory, *filter(None, (node.module or "").split("."))])
        for candidate in (f"{path}.py", f"{path}/__init__.py".lstrip("/")):
            if candidate in self._files:
                return self._files[candidate]
        return None

    def layer(self, name: str, definition: Definition) -> LayerClass | None:
        """The layer that a class is; None when it does not derive from `torch.nn.Module`."""
        classes: list[Definition] = []
        foreign: list[tuple[str, Definition]] = []
        derives = self._collect(definition, classes, foreign)
        return LayerClass(name, tuple(classes), tuple(foreign)) if derives else None

    def _collect(
        self,
        definition: Definition,
        classes: list[Definition],
        foreign: list[tuple[str, Definition]],
    ) -> bool:
        """Collect the base classes before `torch.nn.Module`; returns whether it is one of them."""
        if definition in classes or len(classes) > _MOST_BASES:
            return False
        classes.append(definition)
        names = bindings(definition.file.tree)
        derives = False
        for base in definition.node.bases:
            inner = self._base(definition.file, base)
            if inner is not None:
                derives = self._collect(inner, classes, foreign) or derives
                continue
            known = dotted(base, names)
            if known in _MODULE_CLASSES:
                return True  # later bases come after torch.nn.Module
            if known not in ("object", ""):
                foreign.append((known, definition))
                derives = derives or known.startswith("torch.nn.")
        return derives

    def _base(self, file: PythonFile, base: ast.expr) -> Definition | None:
        return self.find(file, base.id) if isinstance(base, ast.Name) else None
