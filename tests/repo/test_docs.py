"""Everything that the documentation shows is run: code blocks of pages, examples of docstrings.

What it quotes, files and signatures, is compared with its source; the sessions, commands and
files that it names exist.
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
from kernels_core.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "backends/*/README.md", "tests/README.md", "tests/*/*.md")
    for page in ROOT.glob(pattern)
)
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(kernels_core.__path__, "kernels_core.")
    if not module.ispkg and "_pyinstaller" not in module.name
)
ACTIVATION = "kernels_core.compat.activation"
DOCTEST_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
CHANGED_BY_EXAMPLES = (
    "KERNELS_BACKENDS",
    "KERNELS_CACHE",
    "KERNELS_STRICT_PLUGINS",
    "KERNELS_TRUST",
    "KERNELS_TRUST_FILE",
    "LOCAL_KERNELS",
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT_BLOCK = re.compile(r"^```text output\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The directory that the packages are installed in, which pages show as `...`.
INSTALLED_IN = re.compile(r"(?<= )/\S*(?=/kernels_(?:backend|bundled)_)")

FOR_CONTRIBUTORS = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "tests" / "README.md"]
SOURCES = r"kernels_core|backends|docs|tests|benchmarks|examples|\.ci"
IN_BACKTICKS = re.compile(rf"`((?:{SOURCES})/[^` ]*)`")

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


def anchors(page):
    """What GitHub calls the headings of a page in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    code = blocks_of(page)
    if "from transformers import" in code:
        pytest.importorskip("transformers", reason="the page shows a model of transformers")
    # Where Hugging Face `kernels` is installed, transformers marks layers that a page does not.
    monkeypatch.setenv("USE_HUB_KERNELS", "YES" if "compat.activate()" in code else "NO")
    printed = INSTALLED_IN.sub("...", run(code, tmp_path)) if code else ""
    for shown in OUTPUT_BLOCK.findall(page.read_text(encoding="utf-8")):
        assert shown in printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target, anchor in re.findall(
        r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text("utf-8")
    ):
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("name", [name for name in MODULES if name != ACTIVATION])
def test_the_examples_of_a_module_run(name, monkeypatch):
    for variable in CHANGED_BY_EXAMPLES:
        monkeypatch.setenv(variable, "")  # restored after the test
        monkeypatch.delenv(variable)
    with kernels_core.use_kernel_mapping({}):
        result = doctest.testmod(importlib.import_module(name), optionflags=DOCTEST_OPTIONS)
    assert result.failed == 0


def test_the_examples_of_activation_run():
    # It has to come before transformers, which other tests import.
    program = (
        f"import doctest, sys, {ACTIVATION} as module\n"
        f"sys.exit(doctest.testmod(module, optionflags={DOCTEST_OPTIONS}).failed)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_documented_nox_sessions_exist():
    functions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text("utf-8"), re.M)
    sessions = {name.replace("_", "-") for name in functions}
    for page in PAGES:
        named = set(re.findall(r"nox -s ([a-z][a-z-]*[a-z])", page.read_text(encoding="utf-8")))
        assert named <= sessions, f"{page.name} names {named - sessions}"


def test_the_documented_commands_exist():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^ +(?:\$ )?|`)kernels-core ([a-z][a-z-]*)", text, re.M))
        assert named <= set(main.commands), f"{page.name} names {named - set(main.commands)}"


@pytest.mark.parametrize("page", FOR_CONTRIBUTORS, ids=lambda page: page.name)
def test_the_files_that_a_page_for_contributors_names_exist(page):
    named = IN_BACKTICKS.findall(page.read_text(encoding="utf-8"))
    assert named
    # `NAME` stands for what the reader adds.
    missing = [path for path in named if "NAME" not in path and not (ROOT / path).exists()]
    assert missing == []


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


def test_the_page_about_tests_has_every_folder_of_tests():
    listed = re.findall(r"^\| `(tests/\w+)/`", (ROOT / "tests/README.md").read_text("utf-8"), re.M)
    folders = {path.parent.name for path in ROOT.glob("tests/*/*.py")} | {"plugins"}
    assert sorted(listed) == sorted(f"tests/{name}" for name in folders - {"hub_server"})
