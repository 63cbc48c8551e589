"""What all commands have in common: errors, exit statuses, terminals, what is printed where."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = str(Path(sys.executable).with_name("kernels-core"))
WIDTH = 60

needs_a_terminal = pytest.mark.skipif(
    not hasattr(os, "openpty"), reason="this system has no pseudo-terminals"
)


def in_terminal(*arguments: str, width: int = WIDTH, **variables: str) -> str:
    """What a command prints in a terminal."""
    import fcntl
    import struct
    import termios

    leader, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | variables
    process = subprocess.Popen([SCRIPT, *arguments], stdout=terminal, env=environment)
    os.close(terminal)
    output = b""
    while True:
        try:
            chunk = os.read(leader, 1 << 16)
        except OSError:  # on Linux, when the other end is closed
            break
        if not chunk:
            break
        output += chunk
    os.close(leader)
    process.wait()
    return output.decode()


def written(project: Path, text: str) -> Path:
    (project / "pyproject.toml").write_text(text)
    return project


@pytest.mark.parametrize(
    ("arguments", "status", "kind", "message"),
    [
        (["lock", "{project}", "--json"], 2, "ProjectError", "must be an object, got 1"),
        (["download", "{project}", "--json"], 1, "LockFileNotFoundError", "kernels.lock"),
        (["check", "{project}/none", "--json"], 2, "CheckError", "no file or directory"),
        (["check", "{project}/none", "--format", "json"], 2, "CheckError", "no file or directory"),
        (["check", "--json"], 2, "UsageError", "Name what to check"),
        (["lock", "--jsn", "--json"], 2, "NoSuchOption", "No such option"),
        (["bundle", "--json", "{project}/x.tar"], 2, "UsageError", "Name a KERNEL"),
        (["unbundle", "--json", "{project}/none"], 2, "BadParameter", "does not exist"),
    ],
)
def test_an_error_is_one_json_object(
    command_line, tmp_path: Path, arguments: list[str], status: int, kind: str, message: str
) -> None:
    project = written(tmp_path, "[tool.kernels]\ndependencies = 1\n")
    done = command_line.run(*(text.format(project=project) for text in arguments))
    assert done.returncode == status, done.stderr
    assert done.stderr == ""
    error = json.loads(done.stdout)["error"]
    assert list(error) == ["type", "message"]
    assert error["type"] == kind
    assert message in error["message"]


def test_without_json_the_error_is_text_on_standard_error(command_line, tmp_path: Path) -> None:
    done = command_line.run("check", str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: There is no file or directory")


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """The address of a server that takes requests and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.skipif(os.name == "nt", reason="needs signals of POSIX")
@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_ctrl_c_ends_a_command_with_130(
    tmp_path: Path, silent_hub: str, json_option: list[str]
) -> None:
    project = written(tmp_path, '[tool.kernels.dependencies]\n"org/activation" = 1\n')
    environment = {
        **os.environ,
        "HF_ENDPOINT": silent_hub,
        "HF_HOME": str(tmp_path / "home"),
        "KERNELS_CACHE": str(tmp_path / "cache"),
    }
    process = subprocess.Popen(
        [SCRIPT, "lock", str(project), *json_option],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2)  # until it waits for an answer
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.strip() == "Interrupted."
    assert not (project / "kernels.lock").exists()


@needs_a_terminal
def test_colours_only_where_they_are_wanted() -> None:
    assert "\x1b[" in in_terminal("doctor")
    assert "\x1b[" not in in_terminal("doctor", NO_COLOR="1")
    assert "\x1b[" in in_terminal("doctor", NO_COLOR="")


@needs_a_terminal
def test_a_table_fits_the_terminal_and_is_whole_in_a_pipe(command_line) -> None:
    lines = in_terminal("check", "--list-rules").splitlines()
    assert max(map(len, lines)) <= WIDTH
    piped = command_line.run("check", "--list-rules").stdout.splitlines()
    assert max(map(len, piped)) > WIDTH
    # Wrapped, but nothing of it is missing.
    assert sorted("".join(lines).replace(" ", "")) == sorted("".join(piped).replace(" ", ""))


LOGS = """
import logging, sys
import click
from kernels_core.cli.output import show
from kernels_core.cli.program import Program, is_quiet

@click.group(cls=Program)
def main(): pass

@main.command()
def act():
    logging.getLogger("kernels_core").warning("a warning")
    logging.getLogger("kernels_core").info("a detail")
    print(is_quiet())

main()
"""


@pytest.mark.parametrize(
    ("options", "quiet", "logged"),
    [
        ([], "False", "a warning\n"),
        (["--quiet"], "True", ""),
        (["-v"], "False", "kernels_core: a warning\nkernels_core: a detail\n"),
    ],
)
def test_quiet_and_verbose(options: list[str], quiet: str, logged: str) -> None:
    command = [sys.executable, "-c", LOGS, "act", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{quiet}\n", logged)


def test_every_command_has_the_common_options(command_line) -> None:
    from kernels_core.cli.main import main

    commands = {
        (name, *part)
        for name, command in main.commands.items()
        for part in ([(each,) for each in getattr(command, "commands", ())] or [()])
    }
    assert ("compat", "wheel") in commands
    for name in commands:
        shown = command_line.run(*name, "--help").stdout
        assert "--quiet" in shown, name
        assert "--verbose" in shown, name


@pytest.mark.parametrize("user", ["~", "~nobody-of-that-name"])
def test_a_path_below_a_home_that_does_not_exist_names_the_argument(
    command_line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    monkeypatch.chdir(tmp_path)
    homeless = {"HOME": "", "USERPROFILE": ""}
    process = command_line.run("compat", "wheel", "--output", f"{user}/wheels", **homeless)
    assert process.returncode == 2
    assert f"--output='{user}/wheels' cannot be used" in " ".join(process.stderr.split())
    process = command_line.run("check", f"{user}/kernel", **homeless)
    assert process.returncode == 2
    assert f"subject='{user}/kernel' cannot be used" in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_home_directory_is_expanded_in_options(command_line, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    process = command_line.run("compat", "wheel", "--output=~", **home)
    assert process.returncode == 0, process.stderr
    assert [path.suffix for path in tmp_path.iterdir()] == [".whl"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [SCRIPT, "check", "--list-rules"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["Error: [Errno 28] No space left on device"]


@pytest.mark.parametrize("arguments", ["check --list-rules", "trust list"])
@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_output_that_nobody_reads_is_no_error(arguments: str) -> None:
    for redirected in (">&-", "2>&- >&-", "| true"):
        command = f"{shlex.quote(SCRIPT)} {arguments} {redirected}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
