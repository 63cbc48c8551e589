"""`kernels-core check` on the command line."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kernels_core.check import all_rules
from kernels_core.cli.main import main

ROOT = Path(__file__).parents[2]
METADATA = {"name": "activation", "id": "activation_1", "version": 1}
FAMILIES = ("--select", "layout,metadata")

Make = Callable[..., Path]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


@pytest.fixture
def broken(make_build: Make) -> Path:
    """A repository with two kinds of problems."""
    make_build("torch-cpu", {"__init__.py": "", "a.pyc": b""}, METADATA)
    return make_build("torch-cuda", {"__init__.py": "", "a.pyc": b""})


def test_nothing_found_ends_with_0(make_build: Make) -> None:
    repository = make_build("torch-cpu", {"__init__.py": ""}, METADATA)
    result = run(repository, *FAMILIES)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{repository}: no problems, in 1 build\n"


def test_something_found_ends_with_1(broken: Path) -> None:
    result = run(broken, *FAMILIES)
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.endswith(f"{broken}: 2 errors, 1 warning, in 2 builds\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all"], "Error: There is no file or directory 'nowhere/at/all'"),
        (["."], "is not a kernel repository"),
        ([".", "--revision", "v1"], "which has no revision 'v1'"),
        ([".", "--select", "layuot"], "did you mean layout"),
        ([".", "--ignore", "layout-nothing"], "there is no rule or family 'layout-nothing'"),
        ([".", "--format", "xml"], "Invalid value for '--format'"),
        ([], "Name what to check"),
    ],
)
def test_what_could_not_be_checked_ends_with_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_defect_of_the_check_itself_ends_with_2(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("kernels_core.cli.check.check", fails)
    result = run(broken)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "ZeroDivisionError: a defect" in result.stderr
    assert result.stderr.endswith(f"Error: {broken} could not be checked.\n")


def test_a_check_that_is_interrupted_ends_with_130(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kernels_core.cli.check.check", interrupted)
    result = run(broken)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "\nInterrupted.\n")


def test_rules_are_chosen_by_ids_and_families(broken: Path) -> None:
    def found(*options: str) -> set[str]:
        result = run(broken, "--format", "json", *options)
        return {finding["rule"] for finding in json.loads(result.stdout)["findings"]}

    assert found(*FAMILIES) == {"layout-bytecode", "metadata-file"}
    assert found("--select", "layout", "--select", "metadata-file") == found(*FAMILIES)
    assert found("--select", "layout , metadata", "--ignore", "layout-bytecode") == {
        "metadata-file"
    }
    assert found("--select", "layout", "--ignore", "layout") == set()


def test_builds_are_chosen_by_patterns(broken: Path) -> None:
    result = run(broken, *FAMILIES, "--variant", "*-cpu", "--variant", "no*", "--format", "json")
    assert json.loads(result.stdout)["variants"] == ["torch-cpu"]


def test_the_rules_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("--list-rules")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [
        [rule.id, rule.severity.value] for rule in all_rules()
    ]
    listed = json.loads(run("--list-rules", "--format", "json").stdout)
    assert list(listed) == [rule.id for rule in all_rules()]
    assert listed["layout-package"]["fix"]


def test_nothing_of_the_repository_is_imported(make_build: Make, tmp_path: Path) -> None:
    source = f"import pathlib\npathlib.Path({str(tmp_path / 'imported')!r}).touch()\n"
    repository = make_build("torch-cpu", {"__init__.py": source, "layers.py": source}, METADATA)
    (repository / "sitecustomize.py").write_text(source)
    command = [sys.executable, "-m", "kernels_core", "check", str(repository)]
    subprocess.run(command, cwd=repository, capture_output=True, check=False)
    assert not (tmp_path / "imported").exists()


def test_the_result_alone_is_on_standard_output(broken: Path) -> None:
    command = [sys.executable, "-m", "kernels_core", "check", str(broken), *FAMILIES]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr == b""  # no terminal, no progress
    assert json.loads(done.stdout)["clean"] is False


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo terminals are of POSIX systems")
def test_a_terminal_gets_colour_and_progress(broken: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kernels_core", "check", str(broken), *FAMILIES]
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        output = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:
                break
            if not chunk:
                break
            output += chunk
    os.close(ours)
    text = output.decode()
    assert process.returncode == 1
    assert "[0/5] build/torch-cpu/__init__.py" in text
    assert "\x1b[31merror" in text
    # The line with the progress is gone before the result is shown.
    assert text.rindex("\r\x1b[K") < text.index("\x1b[1m")


def test_the_program_needs_no_torch_to_check(broken: Path) -> None:
    program = (
        "import sys; from kernels_core.cli.main import main\n"
        f"try: main(['check', {str(broken)!r}, '--select', 'layout,metadata,completeness'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'huggingface_hub', 'elftools'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_the_hook_for_pre_commit_runs_this_command(broken: Path) -> None:
    import yaml

    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    (hook,) = hooks
    program, *arguments = hook["entry"].split()
    assert (program, hook["pass_filenames"]) == ("kernels-core", False)
    result = CliRunner().invoke(main, [*arguments, str(broken), *FAMILIES])
    assert result.exit_code == 1


# What docs/check.md shows

PAGE = (ROOT / "docs" / "check.md").read_text("utf-8")


def test_the_output_in_the_documentation_is_the_output(
    make_build: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for torch, cuda in (("212", "126"), ("212", "130"), ("212", "132"), ("213", "126")):
        variant = f"torch{torch}-cxx11-cu{cuda}-x86_64-linux"
        identity = {"id": f"activation_{torch}_{cuda}"}
        repository = make_build(variant, {"__init__.py": ""}, METADATA | identity)
    (repository / "build" / variant / "layers.pyc").touch()
    (repository / "build" / "NOTES").touch()
    monkeypatch.chdir(repository.parent)
    shown = PAGE.partition("    $ kernels-core check activation\n")[2].partition(
        "\n\nA finding in"
    )[0]
    result = run("activation")
    assert textwrap.dedent(shown) + "\n" == result.stdout


def test_the_commands_in_the_documentation_are_understood() -> None:
    commands = re.findall(r"(?:^    |run: )kernels-core check (.*)$", PAGE, re.MULTILINE)
    assert len(commands) > 6
    for command in commands:
        arguments = shlex.split(command.partition(" > ")[0])
        context = main.commands["check"].make_context("check", arguments)
        assert context.params["subject"]


def test_the_workflows_in_the_documentation_are_yaml() -> None:
    import yaml

    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    jobs = [yaml.safe_load(block) for block in blocks]
    assert [sorted(map(str, job)) for job in jobs] == [
        ["True", "jobs", "name"],  # to YAML, "on" is a truth value
        ["True", "jobs", "name"],
        ["repos"],
    ]


def test_docstrings_that_python_leaves_out_are_not_needed(broken: Path) -> None:
    command = [sys.executable, "-OO", "-m", "kernels_core", "check", str(broken), *FAMILIES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == run(broken, *FAMILIES).output
