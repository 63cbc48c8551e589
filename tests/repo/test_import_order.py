"""The import order of the core, and which module may name a device family."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The one place that says who may import whom; a module imports only from rows above its own.
PAGE = ROOT / "docs" / "architecture.md"

# Third-party packages that only these parts of the core may import.
RESERVED = {
    "abi3info": ("check",),
    "click": ("cli",),
    "elftools": ("check",),
    "huggingface_hub": ("hub", "loading"),
    "hypothesis": ("testing",),
    "macholib": ("check",),
    "pefile": ("check",),
    "pytest": ("check", "testing"),
    "torch": ("api", "check", "compat", "cli", "host", "layers", "testing"),
}

DEVICE_FAMILY = re.compile(
    r"cuda|rocm|acme|privateuse|(?<![a-z])(?:gfx|hip|metal|mps|npu|xpu)(?![a-z])"
)
FIXED_NAMES = re.compile(r"CUDAProperties|ROCMProperties")


def rows(heading: str = "## Import order") -> list[list[str]]:
    """The modules and packages in each row of the architecture's table, in the order of rows."""
    table = PAGE.read_text("utf-8").partition(f"{heading}\n")[2].partition("\n#")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [re.findall(r"`(\w+?)(?:\.py|/)`", cell) for cell in cells]


ROW = {part: number for number, parts in enumerate(rows()) for part in parts}

# Packages with an order of their own inside.
INSIDE = {
    "check": {
        part: number
        for number, parts in enumerate(rows("### The parts of `check/`"))
        for part in parts
    }
}


def modules() -> list[str]:
    """Every core module but the package itself, which has the lazy public names of all others."""
    paths = (ROOT / "kernels_core").rglob("*.py")
    names = sorted(path.relative_to(ROOT).as_posix() for path in paths)
    return [name for name in names if name != "kernels_core/__init__.py"]


def part_of(module: str, depth: int = 1) -> str:
    """The module or package directly below kernels_core that a file or dotted name belongs to."""
    return [*re.split(r"[./]", module.removesuffix(".py")), "__init__"][depth]


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(tree: ast.AST, file: str) -> Iterator[str]:
    """The dotted names of all modules that a module imports, wherever in it."""
    package = Path(file).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if is_module(inner) else source


def complaint(file: str, imported: str) -> str | None:
    """Why a core module may not import something, or None when it may."""
    top = imported.split(".")[0]
    part = part_of(file)
    if top in RESERVED and part not in RESERVED[top]:
        return f"only {', '.join(RESERVED[top])} may import {top}"
    if top.startswith("kernels_backend"):
        return "the core knows no backend"
    if top != "kernels_core":
        return None
    if imported == "kernels_core":
        return "import from the module that defines the name, not from the package"
    row, target = ROW, part_of(imported)
    if target == part and part in INSIDE:
        row, part, target = INSIDE[part], part_of(file, 2), part_of(imported, 2)
        row = {**row, "__init__": len(row)}
    if target == part or row[target] < row[part]:
        return None
    return f"{target} does not stand above {part} in the table of {PAGE.name}"


def docstrings(tree: ast.AST) -> set[ast.AST]:
    """The string expressions that stand alone: docstrings of modules, classes, attributes."""
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every identifier and string in the code, docstrings and comments left out."""
    skipped = docstrings(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        for _, value in ast.iter_fields(node):
            values = value if isinstance(value, list) else [value]
            for text in values:
                if isinstance(text, str):
                    yield getattr(node, "lineno", 0), text


def named_families(tree: ast.AST) -> list[str]:
    found = []
    for line, text in words(tree):
        match = DEVICE_FAMILY.search(FIXED_NAMES.sub("", text).lower())
        if match:
            found.append(f"line {line}: {match.group()!r} in {text!r}")
    return found


def test_every_module_stands_in_the_table_once() -> None:
    listed = [part for parts in rows() for part in parts]
    assert sorted(listed) == sorted({part_of(module.removesuffix(".py")) for module in modules()})


def test_every_module_of_a_package_with_an_order_stands_in_its_table_once() -> None:
    for package, row in INSIDE.items():
        inside = {part_of(name, 2) for name in modules() if part_of(name) == package}
        assert sorted(row) == sorted(inside - {"__init__"})


@pytest.mark.parametrize("file", modules())
def test_a_module_imports_only_from_rows_above(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    complaints = [
        f"{file} imports {imported}: {why}"
        for imported in imports(tree, file)
        if (why := complaint(file, imported))
    ]
    assert not complaints


def test_no_modules_import_each_other_in_a_circle() -> None:
    # Also where an import is only for type checkers, or inside a function.
    graph = {}
    for file in modules():
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        graph[name] = set(imports(tree, file)) - {name}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("file", [m for m in modules() if m != "kernels_core/device.py"])
def test_no_core_module_names_a_device_family(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert not named_families(tree)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("kernels_core/host.py", "from kernels_core import hookspecs"),
        ("kernels_core/mode.py", "from kernels_core.environment import flag"),
        ("kernels_core/plugins/registry.py", "def f():\n    import kernels_core.layers.scan"),
        ("kernels_core/plugins/registry.py", "from ..layers import scan"),
        ("kernels_core/layers/candidates.py", "from kernels_core import Mode"),
        ("kernels_core/loading.py", "import torch.nn"),
        ("kernels_core/layers/candidates.py", "import huggingface_hub"),
        ("kernels_core/layers/candidates.py", "from kernels_backend_cpu import plugin"),
        ("kernels_core/device.py", "from kernels_core.layers.mapping import DeviceRepositories"),
        ("kernels_core/hub/install.py", "from kernels_core.locks.lock import Lock"),
        ("kernels_core/check/run/observe.py", "from kernels_core.check.rules import layout"),
        ("kernels_core/check/rules/run.py", "from kernels_core.check.native.elf import read"),
        ("kernels_core/check/facts/hub.py", "from kernels_core.check import check"),
    ],
)
def test_a_forbidden_import_is_noticed(file: str, code: str) -> None:
    assert any(complaint(file, imported) for imported in imports(ast.parse(code), file))


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("kernels_core/mode.py", "from kernels_core.errors import InvalidModeError"),
        ("kernels_core/plugins/registry.py", "from kernels_core.plugins.backend import Backend"),
        ("kernels_core/layers/candidates.py", "from .mapping import Entry"),
        ("kernels_core/check/rules/layout.py", "from kernels_core.check.rule import Rule"),
    ],
)
def test_an_allowed_import_is_no_complaint(file: str, code: str) -> None:
    assert not any(complaint(file, imported) for imported in imports(ast.parse(code), file))


@pytest.mark.parametrize(
    "code",
    [
        "x = 'cuda:0'",
        "x = f'{y} metal'",
        "def is_rocm(): ...",
        "torch.cuda.synchronize()",
        "f(mps=1)",
        "from torch import xpu",
        "x = 'privateuse1'",
        "import kernels_backend_acme",
    ],
)
def test_a_device_family_in_code_is_noticed(code: str) -> None:
    assert named_families(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    ["'''Not only cuda.'''", "# cuda\nx = 1", "f(CUDAProperties)", "maps = 1", "x = 'ship it'"],
)
def test_docstrings_comments_and_fixed_names_may_name_a_family(code: str) -> None:
    assert not named_families(ast.parse(code))
