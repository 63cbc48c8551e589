"""Broken plugins, really built and installed: each fails loudly and in isolation, and is shown.

All of them are installed into one folder. The allow list says which of them a program gets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hatchling.builders.wheel import WheelBuilder
from plugin_source import plugin_source

OURS = ["cpu", "mps", "rocm"]
TAGS = {"cpu": "cpu", "metal": "mps", "rocm71": "rocm"}

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{distribution}"
version = "1.0"

[project.entry-points."kernels_core.backends"]
{plugin} = "{module}"

[tool.hatch.build]
include = ["{module}.py"]
dev-mode-dirs = ["."]
"""


def hook(name: str, arguments: str, body: str) -> dict[str, str]:
    """A plugin's hook, as `plugin_source` takes it."""
    return {name: f"@hookimpl\ndef {name}({arguments}):\n    {body}\n"}


@attrs.frozen
class Case:
    """Plugins that break one rule, and the expected results.

    Attributes:
        phase: in which they fail.
        says: what the error says.
        plugins: by name of the entry point, the arguments of `plugin_source`, or `source`.
        cause: the type of the exception that the plugin raised; None when it raised none.
        use: what a program does that makes them fail.
        ask: how a program asks for the backend by name.
    """

    phase: str
    says: str
    plugins: Mapping[str, Mapping[str, Any]]
    cause: str | None = None
    use: str = "registry()"
    ask: str = "registry().backend_for(NAME)"

    @property
    def name(self) -> str:
        """The requested backend."""
        return str(next(iter(self.plugins.values())).get("name", next(iter(self.plugins))))


def garbage(
    phase: str, hook_name: str, arguments: str, says: str, use: str, ask: str = "", **plugin: str
) -> dict[str, Case]:
    """A plugin whose hook returns what no hook may return."""
    name = f"garbage_{phase}"
    plugin = {**hook(hook_name, arguments, "return object"), **plugin}
    return {name: Case(phase, f"{says}, got type", {name: plugin}, use=use, ask=ask or use)}


BACKEND = "registry().backend(NAME)"
BACKEND_FOR = "registry().backend_for(NAME)"
FACTS = f"{BACKEND}.device_facts(0)"
CLAIMS_A_TAG = "return BackendTag('{name}', 'cu', (13, 0)) if text == 'cu130' else None"

CASES = {
    "raises": Case(
        "import",
        "libacme.so.1: cannot open",
        {"raises": {"source": "raise OSError('libacme.so.1: cannot open shared object file')"}},
        cause="OSError",
    ),
    "exits": Case(
        "import",
        "SystemExit: 3",
        {"exits": {"source": "import sys\nsys.exit(3)"}},
        cause="SystemExit",
    ),
    "misspells": Case(
        "register",
        "did you mean kernels_select",
        {"misspells": hook("kernels_selcet", "request", "return None")},
    ),
    "from_the_future": Case(
        "declare",
        "declares API version 2, but this kernels-core supports 1",
        {"from_the_future": {"api_version": 2}},
    ),
    "declares_nonsense": Case(
        "declare",
        "must declare subclasses of DeviceProperties as properties",
        {"declares_nonsense": {"properties": "int"}},
    ),
    "declares_garbage": Case(
        "declare",
        "must return a BackendInfo, got str",
        {"declares_garbage": hook("kernels_backend", "", "return 'garbage'")},
    ),
    "claims_a_name": Case(
        "declare",
        "the backend name 'contested'",
        {
            "claims_a_name_1": {"name": "contested", "noarch_name": "one"},
            "claims_a_name_2": {"name": "contested", "noarch_name": "two"},
        },
    ),
    "claims_a_tag": Case(
        "parse_tag",
        "the tag 'cu130'",
        {
            "claims_a_tag_1": hook("kernels_parse_tag", "text", CLAIMS_A_TAG),
            "claims_a_tag_2": hook("kernels_parse_tag", "text", CLAIMS_A_TAG),
        },
        use="registry().parse_tag('cu130')",
    ),
    "detects_by_dividing": Case(
        "detect",
        "ZeroDivisionError",
        {"detects_by_dividing": {"detection": "1 / 0"}},
        cause="ZeroDivisionError",
        use=BACKEND_FOR,
    ),
    **garbage("detect", "kernels_detect", "host", "must return a Detection", BACKEND_FOR),
    **garbage("facts", "kernels_device_facts", "index", "must return a Facts", FACTS),
    **garbage(
        "parse_tag",
        "kernels_parse_tag",
        "text",
        "must return a BackendTag or None",
        "registry().parse_tag('x')",
        ask=BACKEND_FOR,
    ),
    **garbage(
        "match_tag",
        "kernels_match_tag",
        "tag, detection",
        "must return a Match",
        f"{BACKEND}.match_tag(registry().parse_tag(NAME))",
    ),
    **garbage(
        "match_device",
        "kernels_match_device",
        "required, facts",
        "must return a Match",
        f"{BACKEND}.match_device(Features('a'), {FACTS})",
        properties="Features",
    ),
    **garbage(
        "match_archs",
        "kernels_match_archs",
        "archs, facts",
        "must return a Match",
        f"{BACKEND}.match_archs(['a'], {FACTS})",
    ),
    **garbage(
        "select",
        "kernels_select",
        "request, candidates",
        "must return the given candidates in some order, or None",
        f"{BACKEND}.select(SelectionRequest('a', Mode.INFERENCE, {FACTS}), [])",
    ),
    **garbage(
        "bundled",
        "kernels_bundled",
        "",
        "must return a mapping of layer names to mappings",
        "bundled_mapping()",
        ask=f"{BACKEND}.bundled()",
    ),
}

# Plugins that the tests below use in other ways.
OTHERS = {
    "works": {},
    "sleeps": {
        "also": "import threading, time\nasked = threading.Event()",
        **hook("kernels_detect", "host", "asked.set()\n    time.sleep(3600)"),
    },
    "counts": {
        "also": """
            import os, time
            with open(os.environ["IMPORTS"], "a") as imports:
                imports.write("imported\\n")
            time.sleep(0.1)
            """
    },
}


def write_project(plugin: str, options: Mapping[str, Any], folder: Path) -> Path:
    """The sources of the distribution `<plugin>-kernels`."""
    project = folder / plugin
    project.mkdir()
    names = {"plugin": plugin, "module": f"{plugin}_plugin", "distribution": f"{plugin}-kernels"}
    (project / "pyproject.toml").write_text(PYPROJECT.format(**names), encoding="utf-8")
    source = options.get("source") or plugin_source(**{"name": plugin, **options})
    (project / f"{plugin}_plugin.py").write_text(source, encoding="utf-8")
    return project


def build(project: Path, version: str = "standard") -> Path:
    """Build the wheel in this process, which takes a tenth of the time of a frontend."""
    builder = WheelBuilder(str(project))
    return Path(next(builder.build(directory=str(project / "dist"), versions=[version])))


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sources of every plugin of this module, by name of its entry point."""
    folder = tmp_path_factory.mktemp("projects")
    plugins = {name: options for case in CASES.values() for name, options in case.plugins.items()}
    return {
        name: write_project(name, options, folder) for name, options in (plugins | OTHERS).items()
    }


@pytest.fixture(scope="module")
def folder(environment, projects, tmp_path_factory) -> Path:
    """Where the wheels of all of them are installed."""
    target = tmp_path_factory.mktemp("site-packages")
    wheels = [build(project) for project in projects.values()]
    environment.install("--no-deps", "--target", target, *wheels)
    return target


PROGRAM = """
import faulthandler, warnings
faulthandler.dump_traceback_later(60, exit=True)
from kernels_core import Features, Mode, bundled_mapping
from kernels_core.hookspecs import SelectionRequest
from kernels_core.plugins import registry

def error_of(code):
    try:
        eval(code)
    except Exception as error:
        return error

def chain_of(error):
    while error is not None:
        yield [type(error).__name__, str(error)]
        error = error.__cause__

def others():
    tags = {text: registry().parse_tag(text) for text in ("cpu", "metal", "rocm71")}
    return {
        "tags": {text: tag.backend for text, tag in tags.items()},
        "cpu": registry().backend_for("cpu").device_facts(0).name != "",
        "layers": sorted(bundled_mapping()),
    }
"""


class Installed:
    """The environment with ours and some of the plugins."""

    def __init__(self, environment, folder: Path):
        self.environment = environment
        self.folder = folder

    def variables(self, plugins, **variables: str) -> dict[str, str]:
        allowed = {"KERNELS_BACKENDS": ",".join([*OURS, *plugins])}
        return {"PYTHONPATH": str(self.folder), **allowed, **variables}

    def run(self, code: str, plugins, **variables: str) -> Any:
        return self.environment.run(PROGRAM + code, **self.variables(plugins, **variables))

    def doctor(self, plugins, *options: str, **variables: str) -> tuple[int, dict[str, Any]]:
        process = self.environment.command(
            "doctor", "--json", *options, **self.variables(plugins, **variables)
        )
        return process.returncode, json.loads(process.stdout)


@pytest.fixture(scope="module")
def installed(environment, folder) -> Installed:
    return Installed(environment, folder)


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def seen(case, installed) -> dict[str, Any]:
    """What a program sees that runs into the failure twice and then requests the backend."""
    code = f"""
NAME, USE, ASK = {case.name!r}, {case.use!r}, {case.ask!r}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    error_of(USE), error_of(USE)
    chain = list(chain_of(error_of(ASK)))
    tell({{
        "chain": chain,
        "others": others(),
        "failures": [[f.plugin, f.distribution, f.phase, f.traceback] for f in registry().failures],
        "warnings": [str(warning.message) for warning in caught],
    }})
"""
    return installed.run(code, case.plugins)


def test_the_others_work(seen):
    assert seen["others"] == {
        "tags": TAGS,
        "cpu": True,
        "layers": ["RMSNorm", "SwiGLUMLP", "rotary_pos_emb"],
    }


def test_one_warning_names_plugin_distribution_and_phase(case, seen):
    recorded = [failure[:3] for failure in seen["failures"]]
    assert recorded == [[name, f"{name}-kernels 1.0", case.phase] for name in case.plugins]
    assert len(seen["warnings"]) == len(recorded)
    for about, warning in zip(recorded, seen["warnings"], strict=True):
        for text in (*about, case.says, "`kernels-core doctor`"):
            assert text in warning


def test_asking_for_it_by_name_raises_with_the_cause(case, seen):
    chain = seen["chain"]
    types = [name for name, _ in chain]
    assert types[0] in ("BackendUnavailableError", "PluginError", "PluginConflictError")
    assert case.says in chain[0][1]
    for name in case.plugins:
        assert f"'{name}' of {name}-kernels 1.0" in chain[0][1]
    assert "PluginError" in types or types == ["PluginConflictError"]
    if case.cause:  # itself, or the text that is kept of it
        assert case.cause in " ".join(chain[-1])


def test_strict_mode_raises(case, installed):
    code = f"""
NAME = {case.name!r}
warnings.simplefilter("error")
error = error_of({case.use!r})
tell([type(error).__name__, error.plugin, error.phase, str(error)])
"""
    kind, plugin, phase, message = installed.run(code, case.plugins, KERNELS_STRICT_PLUGINS="1")
    assert kind in ("PluginError", "PluginConflictError")
    assert (plugin, phase) == (next(iter(case.plugins)), case.phase)
    assert case.says in message


@pytest.mark.parametrize("strict", ["0", "1"])
def test_doctor_shows_it_whole(case, installed, strict):
    status, diagnosis = installed.doctor(case.plugins, KERNELS_STRICT_PLUGINS=strict)
    assert (status, diagnosis["healthy"]) == (1, False)
    shown = [[f["plugin"], f["distribution"], f["phase"]] for f in diagnosis["failures"]]
    assert shown == [[name, f"{name}-kernels 1.0", case.phase] for name in case.plugins]
    for failure in diagnosis["failures"]:
        assert case.says in failure["error"]
        assert case.says in failure["traceback"]
        assert case.cause is None or f"{failure['plugin']}_plugin.py" in failure["traceback"]
    reports = {report["name"]: report for report in diagnosis["backends"]}
    assert set(OURS) <= set(reports)
    assert reports["cpu"]["devices"][0]["microarchitecture"]
    assert diagnosis["active"]["cpu"]["backend"] == "cpu"


BLOCKED = [
    ({"KERNELS_DISABLED_BACKENDS": "raises"}, "KERNELS_DISABLED_BACKENDS lists 'raises'"),
    ({"KERNELS_BACKENDS": "cpu"}, "KERNELS_BACKENDS does not list 'raises'"),
    ({"KERNELS_BACKENDS": ""}, "KERNELS_BACKENDS does not list 'raises'"),
]


@pytest.mark.parametrize(("variables", "reason"), BLOCKED, ids=["denied", "not allowed", "none"])
@pytest.mark.parametrize("strict", ["0", "1"])
def test_a_plugin_that_is_switched_off_is_not_touched(installed, variables, reason, strict):
    variables = {**variables, "KERNELS_STRICT_PLUGINS": strict}
    code = """
warnings.simplefilter("error")
error = error_of("registry().backend_for('raises')")
tell([type(error).__name__, str(error), "raises_plugin" in sys.modules, len(registry().failures)])
"""
    kind, message, imported, failures = installed.run(
        f"import sys\n{code}", ["raises"], **variables
    )
    assert kind == "BackendNotInstalledError"
    assert reason in message
    assert "raises-kernels 1.0" in message
    assert (imported, failures) == (False, 0)
    status, diagnosis = installed.doctor(["raises"], **variables)
    blocked = {plugin["plugin"]: plugin for plugin in diagnosis["blocked"]}
    assert blocked["raises"]["distribution"] == "raises-kernels 1.0"
    assert blocked["raises"]["reason"] == reason
    assert diagnosis["environment"].items() >= variables.items()
    # A disabled plugin is no failure; having none left is.
    nothing_left = variables.get("KERNELS_BACKENDS") == ""
    assert status == int(nothing_left)
    assert diagnosis["default"]["backend"] == (None if nothing_left else "cpu")


@pytest.fixture
def also_editable(environment, projects):
    """The plugin `works` a second time, as for a developer who had installed a release before."""
    environment.install("--no-deps", build(projects["works"], "editable"))
    yield
    environment.uninstall("works-kernels")


@pytest.mark.usefixtures("also_editable")
def test_one_distribution_installed_twice_counts_once(installed):
    code = """
import importlib.metadata, sys
warnings.simplefilter("error")
seen = [str(d.locate_file("")) for d in importlib.metadata.distributions(name="works-kernels")]
backend = registry().backend_for("works")
tell([len(set(seen)), backend.distribution, len(registry().failures), others()["tags"]])
"""
    assert installed.run(code, ["works"]) == [2, "works-kernels 1.0", 0, TAGS]
    status, diagnosis = installed.doctor(["works"])
    names = [report["name"] for report in diagnosis["backends"]]
    assert (status, names) == (0, [*OURS, "works"])


def test_sixteen_threads_discover_once(installed, tmp_path):
    imports = tmp_path / "imports.txt"
    code = """
import threading
barrier, seen = threading.Barrier(16), []

def ask():
    barrier.wait()
    seen.append(id(registry()))

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tell([len(seen), len(set(seen)), [str(warning.message) for warning in caught]])
"""
    asked, registries, (warning,) = installed.run(code, ["counts", "raises"], IMPORTS=str(imports))
    assert (asked, registries) == (16, 1)
    assert "raises-kernels 1.0" in warning
    assert imports.read_text().splitlines() == ["imported"]


def test_a_plugin_that_never_answers_holds_up_only_who_needs_it(installed):
    code = """
import os, sys, threading
registry()
plugin = sys.modules["sleeps_plugin"]

def wait_for_it():
    registry().backend_for("sleeps")

# It has the highest priority, so the default cannot be determined without it.
asks = [wait_for_it, lambda: registry().default_backend()]
waiting = [threading.Thread(target=ask, daemon=True) for ask in asks]
for thread in waiting:
    thread.start()
assert plugin.asked.wait(10)
seen = others()
os.environ["KERNELS_BACKEND"] = "cpu"
chosen = registry().default_backend().name
tell([seen["tags"], chosen, [thread.is_alive() for thread in waiting]])
"""
    assert installed.run(code, ["sleeps"]) == [TAGS, "cpu", [True, True]]


def test_doctor_does_not_wait_for_ever(installed):
    status, diagnosis = installed.doctor(["sleeps"], "--timeout", "0.5")
    assert status == 1
    (failure,) = diagnosis["failures"]
    assert (failure["plugin"], failure["phase"]) == ("sleeps", "detect")
    assert "no answer within 0.5 s" in failure["error"]
    assert "sleeps_plugin.py" in failure["traceback"]
    assert "time.sleep(3600)" in failure["traceback"]
    assert diagnosis["active"]["cpu"]["backend"] == "cpu"
    assert diagnosis["active"]["sleeps"]["backend"] is None
    assert diagnosis["default"]["backend"] is None
