"""The steps of running a build, in the process of the kernel; each reports events."""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch._library.custom_ops import OPDEFS

from kernels_core.check.run.process import ReportEvent
from kernels_core.check.run.proofs import prove
from kernels_core.check.run.samples import Samples
from kernels_core.check.run.tests import run_tests
from kernels_core.errors import InvalidLayerError, NamespaceTakenError
from kernels_core.layers.validation import check_layer, conditions
from kernels_core.loading.loaded import load_build
from kernels_core.loading.resolver import FIRST_DEVICE, Resolver
from kernels_core.plugins import registry
from kernels_core.repository.builds import Build
from kernels_core.repository.importer import build_of


def _import(request: dict[str, Any], report: ReportEvent) -> None:
    """Import the build, and report its operators and layers."""
    build = _resolved(request["build"], request)
    module, operators = _imported(build, report)
    if module is None:
        return
    report("operators", names=operators)
    for name, layer in _layers(module).items():
        report("begin", kind="layer", what=name)
        report("layer", name=name, error=_invalid(layer, name, build))


def _beside(request: dict[str, Any], report: ReportEvent) -> None:
    """Import the build, then another version of it."""
    first = _resolved(request["build"], request)
    second = _resolved(request["other"], request)
    report("begin", kind="beside", what="importing it alone")
    one = _loaded(first, report)
    if one is None:
        return
    files = _files_below(first.path)
    valid = {name for name, layer in _layers(one).items() if not _invalid(layer, name, first)}
    report("begin", kind="beside", what="importing another version as well")
    try:
        other = load_build(second)
    except NamespaceTakenError:
        report("refused")
        return
    except Exception as error:
        report("error", **_failure(error, second.path))
        return
    missing = sorted(files - _files_below(second.path))
    if missing:
        report("mixed", files=missing)
    for name, layer in _layers(other).items():
        text = _invalid(layer, name, second)
        if text and name in valid:
            report("layer", name=name, error=text)


def _tests(request: dict[str, Any], report: ReportEvent) -> None:
    """Run the repository's own tests, and use their calls as samples."""
    module, operators = _imported(_resolved(request["build"], request), report)
    if module is None:
        return
    layers = _layers(module)
    samples = Samples({name.partition("::")[0] for name in operators})
    with samples.recorded(layers):
        run_tests(Path(request["root"]), request["names"], module, report)
    prove(samples, layers, operators, report)


STEPS = {
    "import": _import,
    "beside": _beside,
    "tests": _tests,
}


def _resolved(directory: str, request: dict[str, Any]) -> Build:
    backend = registry().backend_or_default(request["backend"])
    return Resolver(backend, FIRST_DEVICE).resolve_local(directory, request["package"])


def _imported(build: Build, report: ReportEvent) -> tuple[ModuleType | None, list[str]]:
    """The build, and the operators that importing it registers."""
    before = _operators()
    report("begin", kind="import", what=f"importing {build.variant}")
    module = _loaded(build, report)
    return module, _of_kernel(_operators() - before) if module else []


def _loaded(build: Build, report: ReportEvent) -> ModuleType | None:
    try:
        module = load_build(build)
    except Exception as error:
        report("error", **_failure(error, build.path))
        return None
    report("imported", module=module.__name__)
    return module


def _operators() -> set[str]:
    """The names of all operators, "namespace::name.overload"."""
    return set(torch._C._dispatch_get_all_op_names())


def _of_kernel(names: set[str]) -> list[str]:
    """New operators, except those of a part of torch that the kernel imports."""
    return sorted({name.partition(".")[0] for name in names if not _is_of_torch(name)})


# Operators of other packages are registered through these, too.
_REGISTRARS = ("torch/library.py", "torch/_library/custom_ops.py")


def _is_of_torch(name: str) -> bool:
    registered = re.search(r"registered at (.*):\d+", torch._C._dispatch_dump(name))
    path = Path(registered[1]) if registered else Path()
    folder = Path(torch.__file__).parent
    if folder not in path.parents:
        return False
    if path.relative_to(folder.parent).as_posix() not in _REGISTRARS:
        return True
    definition: Any = OPDEFS.get(name) or OPDEFS.get(name.removesuffix("."))
    module = definition._init_fn.__module__ if definition else ""
    return bool(module.startswith("torch.") and module != "torch._library.triton")


def _layers(module: ModuleType) -> dict[str, Any]:
    """The public layers of a kernel."""
    layers = {
        name: value
        for name, value in _public_members(getattr(module, "layers", None)).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and build_of(value.__module__)
    }
    # Base classes without a forward of their own are not layers.
    bases = {base for layer in layers.values() for base in layer.__mro__[1:]}
    return {
        name: layer
        for name, layer in layers.items()
        if layer not in bases or layer.forward is not nn.Module.forward
    }


def _public_members(module: ModuleType | None) -> dict[str, Any]:
    listed = getattr(module, "__all__", None) or [n for n in dir(module) if not n.startswith("_")]
    return {name: getattr(module, name, None) for name in listed}


def _invalid(layer: Any, name: str, build: Build) -> str:
    try:
        check_layer(layer, repository=build.variant, name=name)
        conditions(layer)
    except InvalidLayerError as error:
        return str(error)
    return ""


def _files_below(directory: Path) -> set[str]:
    """The files of a build that are imported as modules, under any name."""
    root = os.path.realpath(directory)
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = [os.path.realpath(file) for file in files if isinstance(file, str)]
    return {os.path.relpath(path, root) for path in paths if path.startswith(root + os.sep)}


def _failure(error: BaseException, directory: Path) -> dict[str, object]:
    """An exception, and the last line of the build in its traceback."""
    root = os.path.realpath(directory)
    text = f"{type(error).__name__}: {error}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = os.path.realpath(frame.filename)
        if path.startswith(root + os.sep):
            file = os.path.relpath(path, root).replace(os.sep, "/")
            return {"text": text, "file": file, "line": frame.lineno}
    return {"text": text, "file": "", "line": None}
