"""Kernelized models, and functions of kernels, as arguments of spawned processes."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import multiprocessing, sys
import kernels_core

if "top" in sys.argv:
    kernels_core.get_local_kernel(sys.argv[1])


def call(function):
    print(function(35))


def call_model(model):
    import torch

    print(model(torch.ones(3))[0].item(), kernels_core.kernel_of(model))


if __name__ == "__main__":
    if "model" in sys.argv:
        from layers.models import Scale
        from kernels_core import LocalLayerRepository, Mode

        mapping = {"Scale": {"cpu": LocalLayerRepository(sys.argv[1], layer_name="Times10")}}
        model = kernels_core.kernelize(Scale(), mode=Mode.INFERENCE, mapping=mapping)
        target, argument = call_model, model
    else:
        target, argument = call, kernels_core.get_local_kernel(sys.argv[1]).layers.add_seven
    multiprocessing.get_context("spawn").Process(target=target, args=(argument,)).start()
"""

KERNEL = """
def add_seven(x):
    return x + 7

class Times10(nn.Module):
    def forward(self, x): return 10 * self.weight * x
"""


@pytest.fixture
def run(make_kernel, tmp_path, pytestconfig):
    make_kernel(KERNEL)
    (tmp_path / "program.py").write_text(PROGRAM)

    def run_program(*arguments):
        return subprocess.run(
            [sys.executable, tmp_path / "program.py", tmp_path / "kernel", *arguments],
            capture_output=True,
            text=True,
            cwd=pytestconfig.rootpath / "tests",
            env={**os.environ, "PYTHONPATH": str(pytestconfig.rootpath / "tests")},
        )

    return run_program


def test_a_kernelized_model_arrives_as_the_original(run):
    assert run("model").stdout.split() == ["2.0", "None"]


def test_a_function_of_a_kernel_is_refused_where_the_kernel_is_not_loaded(run):
    error = run("function").stderr
    assert "is a kernel that is not loaded in this process" in error
    assert "get_kernel" in error


def test_a_function_of_a_kernel_arrives_where_the_kernel_is_loaded(run):
    done = run("function", "top")
    assert done.stdout.split() == ["42"], done.stderr
