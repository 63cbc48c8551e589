"""Programs that are shipped as one file or folder: zip applications, and PyInstaller's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipapp
import zipfile

import pytest

PROGRAM = """
import json
import sys
import warnings

import torch
from torch import nn

import kernels_backend_cpu
import kernels_core


@kernels_core.use_kernel_forward_from_hub("RMSNorm")
class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


model = nn.Sequential(RMSNorm())
kernels_core.register_kernel_mapping(kernels_core.bundled_mapping())
kernels_core.kernelize(model, mode=kernels_core.Mode.INFERENCE)
(row,) = kernels_core.report(model).rows
model(torch.ones(2, 8))
where = [kernels_core.__file__, kernels_backend_cpu.__file__]
print(json.dumps({"where": where, "kernel": row.kernel, "source": row.decision}))
"""


def run(command, **variables):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("KERNELS_", "PYTHON"))}
    process = subprocess.run(command, env=clean | variables, capture_output=True, text=True)
    assert process.returncode == 0, f"{process.stdout}\n{process.stderr}"
    return process.stdout


@pytest.fixture
def application(core_wheel, backend_wheels, tmp_path):
    folder = tmp_path / "application"
    for wheel in (core_wheel, backend_wheels["cpu"]):
        with zipfile.ZipFile(wheel.path) as archive:
            archive.extractall(folder)
    (folder / "__main__.py").write_text(PROGRAM)
    zipapp.create_archive(folder, tmp_path / "app.pyz", interpreter="/usr/bin/env python3")
    return tmp_path / "app.pyz"


def test_a_zip_application_runs_the_kernels_in_it(application, tmp_path):
    cache = str(tmp_path / "cache")
    for _ in range(2):
        output = run([sys.executable, application], XDG_CACHE_HOME=cache, LOCALAPPDATA=cache)
        said = json.loads(output)
        assert all(file.startswith(str(application)) for file in said["where"])
        assert said["kernel"] == "RMSNorm"
        assert f"{application}{os.sep}kernels_backend_cpu" in said["source"]
    assert len(list((tmp_path / "cache").rglob("build"))) == 1


def test_the_doctor_of_a_zip_application_says_what_kernels_it_cannot_use(application, tmp_path):
    (tmp_path / "cache").write_text("a file, so that nothing can be written there")
    code = f"""
import sys
sys.path.insert(0, {str(application)!r})
from kernels_core.cli.main import main
main(["doctor", "--json"])
"""
    variables = dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA"), str(tmp_path / "cache"))
    process = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True
    )
    diagnosis = json.loads(process.stdout)
    assert (process.returncode, diagnosis["healthy"]) == (1, False)
    (failure,) = [one for one in diagnosis["failures"] if one["plugin"] == "cpu"]
    assert (failure["phase"], "cannot be copied" in json.dumps(failure)) == ("bundled", True)
    (backend,) = [one for one in diagnosis["backends"] if one["name"] == "cpu"]
    assert backend["layers"] == []


FROZEN = """
import json
import sys

import kernels_core
from kernels_core.cli.main import main
from kernels_core.repository.local import LocalRepository

mapping = kernels_core.bundled_mapping()
repository = LocalRepository(mapping["RMSNorm"]["cpu"].repo_path)
print(json.dumps({"builds": repository.builds(), "frozen": sys.frozen}))
sys.argv[1:] = ["doctor"]
main()
"""


def test_a_program_of_pyinstaller_finds_plugins_and_kernels(tmp_path):
    pytest.importorskip("PyInstaller", exc_type=ImportError)
    (tmp_path / "program.py").write_text(FROZEN)
    # What would take minutes and gigabytes, and is not what this is about.
    left_out = ["anyio", "cryptography", "huggingface_hub", "numpy", "PIL", "pydantic", "pygments"]
    left_out += ["pytest", "rich", "torch", "transformers", "triton"]
    options = [option for name in left_out for option in ("--exclude-module", name)]
    folders = ("--distpath", tmp_path / "dist", "--workpath", tmp_path, "--specpath", tmp_path)
    command = [sys.executable, "-m", "PyInstaller", "--onedir", *options, *folders]
    run([*command, tmp_path / "program.py"], PYINSTALLER_CONFIG_DIR=str(tmp_path / "config"))
    output = run([tmp_path / "dist" / "program" / "program"])
    first, _, doctor = output.partition("\n")
    assert json.loads(first) == {"builds": ["torch-cpu"], "frozen": True}
    assert "provides RMSNorm, SwiGLUMLP, rotary_pos_emb" in doctor
    assert "microarchitecture" in doctor
    assert "torch is not installed" in doctor
