"""Build the native test kernel into a kernel repository.

Usage:

    python tests/native/build.py DIRECTORY [--kernel-version 1|2] [--device cpu|cuda]

Needs torch, a C++ compiler (`CXX`, otherwise g++) and, for CUDA, the nvcc of the CUDA version that
torch was built with. Makes two builds for the current machine: one with torch's C++ API, for the
installed torch, and one with its stable ABI, for torch 2.10 and later. Both use Python's limited
API, and an old glibc as far as the compiler's own headers allow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils import cpp_extension

HERE = Path(__file__).parent
SOURCES = HERE / "csrc"
PACKAGE = HERE / "package"

# The release of torch whose stable ABI is enough.
STABLE_ABI = (2, 10)


def variant_name(device: str, stable: bool) -> str:
    """The name of a build variant for the torch that is installed and this machine."""
    major, minor = torch.__version__.split(".")[:2]
    backend = "cpu"
    if device == "cuda":
        backend = f"cu{str(torch.version.cuda).replace('.', '')}"
    abi = "".join(map(str, STABLE_ABI))
    framework = f"torch-stable-abi{abi}" if stable else f"torch{major}{minor}-cxx11"
    return f"{framework}-{backend}-{platform.machine()}-{platform.system().lower()}"


def namespace_of(version: int, variant: str) -> str:
    """A unique namespace for the operators, by sources, version and variant."""
    digest = hashlib.sha256(f"{version} {variant}".encode())
    for file in sorted([*SOURCES.iterdir(), *PACKAGE.glob("*.py")]):
        digest.update(file.read_bytes())
    return f"_scaled_silu_{digest.hexdigest()[:8]}"


def run(command: Sequence[str]) -> None:
    """Run a compiler. Raises `RuntimeError` with its output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\nfailed:\n{done.stdout}{done.stderr}")


def compile_library(target: Path, namespace: str, device: str, stable: bool) -> None:
    """Compile and link the extension module, which has the name of the namespace."""
    cuda = device == "cuda"
    compiler = os.environ.get("CXX", "g++")
    folders = [*cpp_extension.include_paths(device), sysconfig.get_path("include")]
    common = [f"-I{folder}" for folder in folders]
    common += [f"-DNAMESPACE={namespace}", "-O2", "-std=c++20", *(["-DWITH_CUDA"] if cuda else [])]
    if stable:
        major, minor = STABLE_ABI
        common.append(f"-DTORCH_TARGET_VERSION={major << 56 | minor << 48:#x}")
    libraries = ["torch", "torch_cpu", "c10"]
    if cuda:
        libraries += ["torch_cuda", "c10_cuda", "cudart"]
    with tempfile.TemporaryDirectory() as scratch:
        objects = []
        binding = SOURCES / f"{'stable' if stable else 'torch'}_binding.cpp"
        kernel = SOURCES / f"scaled_silu_{device}.{'cu' if cuda else 'cpp'}"
        for source in (binding, kernel, SOURCES / "glibc.cpp"):
            objects.append(str(Path(scratch) / f"{source.stem}.o"))
            if source.suffix == ".cu":
                major, minor = torch.cuda.get_device_capability()
                arch = f"-gencode=arch=compute_{major}{minor},code=sm_{major}{minor}"
                # Without torch's headers, which the file does not need.
                nvcc = ["nvcc", arch, "-O2", "-Xcompiler=-fPIC", "-c", str(source)]
                run([*nvcc, "-o", objects[-1]])
            else:
                run([compiler, *common, "-fPIC", "-c", str(source), "-o", objects[-1]])
        paths = [f"-L{folder}" for folder in cpp_extension.library_paths(device)]
        linked = [f"-l{name}" for name in libraries]
        # No search path for libraries: importing torch has loaded them all. Some compilers link
        # their C++ runtime in; two modules that showed theirs to each other would mix them up.
        how = ["-shared", "-Wl,--exclude-libs,ALL"]
        run([compiler, *how, *objects, *paths, *linked, "-o", str(target)])


def build(directory: Path, version: int = 1, device: str = "cpu", stable: bool = False) -> Path:
    """Build one variant, and return its directory; version 2 doubles the results of version 1."""
    variant = variant_name(device, stable)
    namespace = namespace_of(version, variant)
    target = directory / "build" / variant
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    compile_library(target / f"{namespace}.abi3.so", namespace, device, stable)
    constants = f'"""What differs from build to build."""\n\nNAMESPACE = "{namespace}"\n'
    (target / "_namespace.py").write_text(f"{constants}FACTOR = {version}\n")
    backend: dict[str, object] = {"type": device}
    if device == "cuda":
        backend["archs"] = [".".join(map(str, torch.cuda.get_device_capability()))]
    metadata = {
        "name": "scaled-silu",
        "id": namespace,
        "version": version,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": backend,
    }
    (target / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    return target


def main() -> None:
    """Build both variants."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kernel-version", type=int, choices=(1, 2), default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    for stable in (False, True):
        print(build(arguments.directory, arguments.kernel_version, arguments.device, stable))


if __name__ == "__main__":
    main()
