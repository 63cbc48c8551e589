"""What `kernels-core doctor` says about `import kernels`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., str]

ASK = """
import json
from kernels_core.compat.provider import provider

found = provider()
print(json.dumps([found.name, found.version, found.note, found.problem]))
"""


def ask(run: Run, *, activate: bool = False, path: tuple[Path, ...] = (), **env: str) -> list[str]:
    answer: list[str] = json.loads(run(ASK, activate=activate, path=path, **env))
    return answer


def distribution(folder: Path, version: str) -> Path:
    info = folder / f"kernels-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {version}\n")
    return folder


def test_hugging_face_kernels(run: Run) -> None:
    # It is among the packages that tests are run with.
    name, version, note, problem = ask(run)
    assert (name, version, problem) == ("Hugging Face kernels", "0.17.2", "")
    assert note == "kernels_core.compat.activate() replaces it"


def test_activation(run: Run) -> None:
    name, version, note, problem = ask(run, activate=True, KERNELS_COMPAT_VERSION="0.18.2")
    assert [name, version, problem] == ["kernels-core", "0.18.2", ""]
    assert note == "KERNELS_COMPAT_VERSION is set"


def test_two_at_once_are_a_problem(run: Run, tmp_path: Path) -> None:
    site = distribution(tmp_path / "site", "0.18.2+core")
    name, version, _, problem = ask(run, path=(site,))
    assert (name, version) == ("the wheel of kernels-core", "0.18.2+core")
    assert f"0.18.2+core in {site}" in problem
    assert "0.17.2 in" in problem
    assert "Uninstall all but one" in problem


def test_doctor_shows_it(run: Run, tmp_path: Path) -> None:
    program = """
import sys
from kernels_core.cli.main import main

sys.argv = ["kernels-core", "doctor"]
main()
"""
    assert "Hugging Face kernels 0.17.2" in run(program, activate=False)
