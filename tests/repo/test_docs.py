"""Everything that the documentation shows is run: code blocks of pages, examples of docstrings.

What it quotes, files and signatures, is held to its source.
"""

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kernels_core

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("backends/*/README.md")])
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(kernels_core.__path__, "kernels_core.")
    if not module.ispkg
)
CHANGED_BY_EXAMPLES = (
    "KERNELS_BACKENDS",
    "KERNELS_CACHE",
    "KERNELS_STRICT_PLUGINS",
    "KERNELS_TRUST",
    "KERNELS_TRUST_FILE",
    "LOCAL_KERNELS",
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

TUTORIAL = ROOT / "docs" / "write-a-backend-plugin.md"
FILE_BLOCK = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ACME = ROOT / "tests" / "plugins" / "kernels-backend-acme"

HOOKS = ROOT / "docs" / "hooks.md"
HOOK_SECTION = re.compile(
    r"^## (kernels_\w+)\n\n```python signature\n(.*?)^```$", re.MULTILINE | re.DOTALL
)

# Appended to the examples of the hooks: together they are a plugin that the core takes.
TAKEN_BY_THE_CORE = """
import types
from kernels_core.plugins.discovery import PluginSource
from kernels_core.plugins.registration import make_backend
plugin = types.ModuleType("anvil_plugin")
vars(plugin).update({name: hook for name, hook in globals().items() if name.startswith("kernels_")})
make_backend(plugin, PluginSource("anvil", "docs"))
print(*sorted(name for name in vars(plugin) if name.startswith("kernels_")))
"""


def run(code, folder):
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def blocks_of(page):
    return "\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    if blocks_of(page):
        run(blocks_of(page), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name, monkeypatch):
    for variable in CHANGED_BY_EXAMPLES:
        monkeypatch.setenv(variable, "")  # restored after the test
        monkeypatch.delenv(variable)
    with kernels_core.use_kernel_mapping({}):
        result = doctest.testmod(
            importlib.import_module(name),
            optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
        )
    assert result.failed == 0


def test_the_documented_nox_sessions_exist():
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.M))
    for page in PAGES:
        named = set(re.findall(r"nox -s (\w+)", page.read_text(encoding="utf-8")))
        assert named <= sessions, f"{page.name} names {named - sessions}"


def test_the_tutorial_shows_every_file_of_acme_as_it_is():
    shown = dict(FILE_BLOCK.findall(TUTORIAL.read_text(encoding="utf-8")))
    files = {
        path.relative_to(ACME).as_posix(): path.read_text(encoding="utf-8")
        for path in ACME.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert sorted(shown) == sorted(files)
    for path, text in files.items():
        assert shown[path] == text, f"copy {path} of acme into its block in {TUTORIAL.name} again"


def signatures(source):
    """Arguments and answer of each function that is declared in a piece of Python, by name."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {
        node.name: (ast.unparse(node.args), ast.unparse(node.returns) if node.returns else "")
        for node in functions
    }


def test_every_hook_is_documented_with_its_signature():
    source = (ROOT / "kernels_core" / "hookspecs.py").read_text(encoding="utf-8")
    specified = {
        name: signature
        for name, signature in signatures(source).items()
        if name.startswith("kernels_")
    }
    documented = {
        title: signatures(block).get(title)
        for title, block in HOOK_SECTION.findall(HOOKS.read_text(encoding="utf-8"))
    }
    assert "kernels_detect" in specified
    assert list(documented) == list(specified), "one section per hook, in the order of hookspecs.py"
    assert documented == specified


def test_every_hook_has_an_example_and_together_they_are_a_plugin(tmp_path):
    implemented = run(blocks_of(HOOKS) + TAKEN_BY_THE_CORE, tmp_path).split()
    documented = [title for title, _ in HOOK_SECTION.findall(HOOKS.read_text(encoding="utf-8"))]
    assert implemented == sorted(documented)
