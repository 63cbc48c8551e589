"""What `kernels-core doctor` shows about plugins, and its exit status."""

from __future__ import annotations

import json

import pytest
from plugin_source import install_plugin

DETECTS = """
    @hookimpl
    def kernels_detect(host):
        {body}
        return Detection(2, runtime_version="1.0")
    """
FACTS = """
    @hookimpl
    def kernels_device_facts(index):
        {body}
    """


class Doctor:
    """The command with our backends and the plugins that a test installs, without torch."""

    def __init__(self, environment, folder):
        self.environment = environment
        self.folder = folder

    def install(self, name, **plugin):
        install_plugin(self.folder, name, **plugin)

    def run(self, *options, **variables):
        return self.environment.command(
            "doctor", *options, PYTHONPATH=str(self.folder), **variables
        )

    def diagnose(self, *options, **variables):
        """Exit status and diagnosis."""
        process = self.run("--json", *options, **variables)
        return process.returncode, json.loads(process.stdout)


@pytest.fixture
def doctor(environment, tmp_path):
    return Doctor(environment, tmp_path)


def report_of(name, diagnosis):
    (report,) = [report for report in diagnosis["backends"] if report["name"] == name]
    return report


def test_every_device_with_its_facts(doctor):
    body = "return Facts(index, f'Acme {index}', cores=8 * (index + 1))"
    doctor.install("acme", kernels_device_facts=FACTS.format(body=body))
    _, diagnosis = doctor.diagnose()
    report = report_of("acme", diagnosis)
    assert report["runtime_version"] == "1.0"
    assert report["devices"] == [
        {"index": 0, "name": "Acme 0", "cores": 8},
        {"index": 1, "name": "Acme 1", "cores": 16},
    ]


def test_a_device_without_facts_does_not_hide_the_others(doctor):
    body = "return Facts(index, 'Acme', cores=1 // index)"
    doctor.install("acme", kernels_device_facts=FACTS.format(body=body))
    status, diagnosis = doctor.diagnose()
    report = report_of("acme", diagnosis)
    assert [device["index"] for device in report["devices"]] == [1]
    (failure,) = diagnosis["failures"]
    assert (status, failure["phase"]) == (1, "facts")
    assert "1 // index" in failure["traceback"]


def test_facts_of_any_type_can_be_shown(doctor):
    cores = "{'set': frozenset({2, 1}), 'bytes': b'x', 'nan': float('nan'), (3, 4): (9, None, 0.5)}"
    body = f"return Facts(index, 'Acme \\u4e00', cores={cores})"
    doctor.install("acme", kernels_device_facts=FACTS.format(body=body))
    status, diagnosis = doctor.diagnose()
    report = report_of("acme", diagnosis)
    shown = {"set": [1, 2], "bytes": "b'x'", "nan": "nan", "(3, 4)": [9, None, 0.5]}
    assert (status, report["devices"][0]["cores"]) == (0, shown)
    process = doctor.run(PYTHONIOENCODING="latin-1")
    assert r"Acme \u4e00" in process.stdout
    assert process.returncode == 0


def test_output_of_plugins_goes_to_standard_error(doctor):
    body = "import os; print('from Python', flush=True); os.write(1, b'from a native library')"
    doctor.install("acme", kernels_detect=DETECTS.format(body=body))
    process = doctor.run("--json")
    assert json.loads(process.stdout)["healthy"]
    assert "from Python" in process.stderr
    assert "from a native library" in process.stderr


@pytest.mark.parametrize(
    ("priority", "torch_device_type", "kind", "backend", "why"),
    [
        (200, "cpu", "cpu", "cpu", "it has the device's name; set KERNELS_BACKEND to use acme"),
        (200, "cpu", "acme", "acme", "the only one that finds a device"),
        (200, "cpu", None, "acme", "it has the highest priority; set KERNELS_BACKEND to use cpu"),
        (-1, "cpu", None, "cpu", "it has the highest priority; set KERNELS_BACKEND to use acme"),
    ],
)
def test_why_a_backend_serves(doctor, priority, torch_device_type, kind, backend, why):
    doctor.install("acme", priority=priority, torch_device_type=torch_device_type)
    _, diagnosis = doctor.diagnose(KERNELS_BACKENDS="cpu,acme")
    active = diagnosis["active"][kind] if kind else diagnosis["default"]
    assert active["backend"] == backend
    assert active["why"].startswith(why)


def test_the_environment_decides(doctor):
    doctor.install("acme")
    status, diagnosis = doctor.diagnose(KERNELS_BACKEND="cpu")
    assert status == 0
    assert diagnosis["default"] == {"backend": "cpu", "why": "KERNELS_BACKEND selects it"}
    assert diagnosis["environment"] == {"KERNELS_BACKEND": "cpu"}


def test_the_environment_names_a_missing_backend(doctor):
    status, diagnosis = doctor.diagnose(KERNELS_BACKEND="abacus")
    assert status == 1
    assert diagnosis["default"]["backend"] is None
    assert "KERNELS_BACKEND=abacus: no plugin provides 'abacus'" in diagnosis["default"]["why"]
    process = doctor.run(KERNELS_BACKEND="abacus")
    assert process.stdout.splitlines()[-1].startswith("Not healthy: no backend can be used")


def test_an_invalid_environment_variable(doctor):
    status, diagnosis = doctor.diagnose(KERNELS_STRICT_PLUGINS="perhaps")
    (problem,) = diagnosis["problems"]
    assert status == 1
    assert "KERNELS_STRICT_PLUGINS='perhaps'" in problem["message"]
    assert diagnosis["default"]["backend"] == "cpu"


def test_a_plugin_that_never_finishes_its_import(doctor):
    doctor.install("acme", source="import time\ntime.sleep(3600)\n")
    status, diagnosis = doctor.diagnose("--timeout", "0.5")
    (problem,) = diagnosis["problems"]
    assert status == 1
    assert "acme_plugin.py" in problem["traceback"]
    assert "time.sleep(3600)" in problem["traceback"]


def test_plugins_that_fail_are_listed_in_the_text(doctor, backend_wheels):
    version = backend_wheels["xpu"].version
    doctor.install("acme", detection="1 / 0")
    doctor.install("other", source="raise RuntimeError('no luck')")
    process = doctor.run(KERNELS_DISABLED_BACKENDS="xpu")
    assert process.returncode == 1
    for text in (
        "acme (acme-kernels 0.1) failed (detect)",
        "other (other-kernels 0.1) failed (import)",
        "ZeroDivisionError: division by zero",
        'other_plugin.py", line 1, in <module>',
        f"xpu (kernels-backend-xpu {version})  KERNELS_DISABLED_BACKENDS lists 'xpu'",
    ):
        assert text in process.stdout
    assert process.stdout.splitlines()[-1] == "Not healthy: 2 plugins failed"
