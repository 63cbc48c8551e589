"""A generated plugin project: built, installed, found, and passing its own tests unchanged."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def bare(make_environment, core_wheel):
    """The core alone; torch and what tests need are borrowed."""
    made = make_environment()
    made.borrow("torch", "pytest", "hypothesis")
    made.install(core_wheel.path)
    return made


@pytest.fixture(scope="module")
def project(bare, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("projects")
    process = bare.command("new-backend", "toaster", "--directory", str(folder))
    assert process.returncode == 0, process.stderr
    return folder / "kernels-backend-toaster"


def diagnose(environment) -> tuple[int, dict]:
    process = environment.command("doctor", "--json")
    return process.returncode, json.loads(process.stdout)


def test_without_any_plugin_doctor_says_what_to_install(bare):
    status, diagnosis = diagnose(bare)
    assert status == 1
    assert diagnosis["backends"] == diagnosis["failures"] == []
    advice = {device["device_type"]: device["advice"] for device in diagnosis["unserved"]}
    assert advice["cpu"] == "pip install kernels-backend-cpu"
    assert "pip install kernels-backend-" in bare.command("doctor").stdout


def test_it_installs_is_found_and_passes_its_tests(bare, project, build_wheel):
    wheel = build_wheel(project)
    assert "kernels_backend_toaster/py.typed" in wheel.files
    bare.install(wheel.path)
    _, diagnosis = diagnose(bare)
    (report,) = diagnosis["backends"]
    assert (report["name"], report["distribution"]) == ("toaster", "kernels-backend-toaster 0.1.0")
    assert report["reason"] == "the package torch_toaster is not installed"
    assert diagnosis["failures"] == []
    command = [str(bare.python), "-m", "pytest", "-p", "no:cacheprovider", "-ra"]
    process = subprocess.run(command, cwd=project / "tests", capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    skipped = {
        line.split(": ", 1)[1] for line in process.stdout.splitlines() if line.startswith("SKIPPED")
    }
    assert skipped == {
        "the plugin provides no kernels",
        "the plugin declares none of the core's own kinds",
        "this machine has no such device",
        "torch does not know device type 'toaster' here",
    }
