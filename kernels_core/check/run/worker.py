"""The process in which the code of a kernel runs: `python -m kernels_core.check.run.worker`.

Each step tells by events what it sees, and before each thing that may crash that it begins with it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from kernels_core.repository.builds import Build

Tell = Callable[..., None]


def main(step: str, asked: str, told: str) -> None:
    """Do a step.

    Args:
        step: its name.
        asked: a file of JSON with what it needs.
        told: the file to write events to.
    """
    folder = os.getcwd()
    sys.path[:] = [each for each in sys.path if each not in ("", folder)]
    _no_core_files()
    request = json.loads(Path(asked).read_text("utf-8"))
    with open(told, "a", encoding="utf-8") as stream:

        def tell(event: str, **details: object) -> None:
            stream.write(json.dumps({"event": event, **details}) + "\n")
            stream.flush()

        try:
            _STEPS[step](request, tell)
        except Exception:  # what the kernel raises was told of before
            tell("broken", text=traceback.format_exc())
        tell("done")
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the kernel may still run, and must not keep the process.
    os._exit(0)


def _no_core_files() -> None:
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _import(request: dict[str, Any], tell: Tell) -> None:
    """Import the build, and tell which operators and layers come of it."""
    before = _operators()
    build = _resolved(request["build"], request)
    tell("begin", kind="import", what=f"importing {build.variant}")
    module = _loaded(build, tell)
    if module is None:
        return
    tell("operators", names=_of_kernel(_operators() - before))
    for name, layer in _layers(module).items():
        tell("begin", kind="layer", what=name)
        tell("layer", name=name, error=_invalid(layer, name, build))


def _beside(request: dict[str, Any], tell: Tell) -> None:
    """Import the build, then another version of it beside it."""
    from kernels_core.errors import NamespaceTakenError

    _operators()
    first = _resolved(request["build"], request)
    second = _resolved(request["other"], request)
    tell("begin", kind="beside", what="importing it alone")
    one = _loaded(first, tell)
    if one is None:
        return
    files = _files_below(first.path)
    valid = {name for name, layer in _layers(one).items() if not _invalid(layer, name, first)}
    tell("begin", kind="beside", what="importing another version beside it")
    try:
        from kernels_core.loading.loaded import load_build

        other = load_build(second)
    except NamespaceTakenError:
        tell("refused")
        return
    except Exception as error:
        tell("error", **_failure(error, second.path))
        return
    missing = sorted(files - _files_below(second.path))
    if missing:
        tell("mixed", files=missing)
    for name, layer in _layers(other).items():
        text = _invalid(layer, name, second)
        if text and name in valid:
            tell("layer", name=name, error=text)


def _tests(request: dict[str, Any], tell: Tell) -> None:
    """Run the repository's own tests, and use what they call as samples."""
    from kernels_core.check.run import proofs as run_proofs
    from kernels_core.check.run import samples as run_samples
    from kernels_core.check.run import tests as run_tests

    before = _operators()
    build = _resolved(request["build"], request)
    tell("begin", kind="import", what=f"importing {build.variant}")
    module = _loaded(build, tell)
    if module is None:
        return
    operators = _of_kernel(_operators() - before)
    layers = _layers(module)
    samples = run_samples.Samples({name.partition("::")[0] for name in operators})
    with samples.recorded(layers):
        run_tests.run(Path(request["root"]), request["names"], module, tell)
    run_proofs.prove(samples, layers, operators, tell)


_STEPS = {"import": _import, "beside": _beside, "tests": _tests}


def _resolved(directory: str, request: dict[str, Any]) -> Build:
    from kernels_core.loading.resolver import FIRST_DEVICE, Resolver
    from kernels_core.plugins import registry

    backend = registry().backend_or_default(request["backend"])
    return Resolver(backend, FIRST_DEVICE).resolve_local(directory, request["package"])


def _loaded(build: Build, tell: Tell) -> ModuleType | None:
    from kernels_core.loading.loaded import load_build

    try:
        module = load_build(build)
    except Exception as error:
        tell("error", **_failure(error, build.path))
        return None
    tell("imported", module=module.__name__)
    return module


def _operators() -> set[str]:
    """The names of all operators, "namespace::name.overload"."""
    import torch

    return set(torch._C._dispatch_get_all_op_names())


def _of_kernel(names: set[str]) -> list[str]:
    """Those of new operators that are not of a part of torch that the kernel imports."""
    return sorted({name.partition(".")[0] for name in names if not _is_of_torch(name)})


# Through these the operators of others are registered, too.
_REGISTRARS = ("torch/library.py", "torch/_library/custom_ops.py")


def _is_of_torch(name: str) -> bool:
    import torch
    from torch._library.custom_ops import OPDEFS

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
    from torch import nn

    from kernels_core.repository.importer import build_of

    found = getattr(module, "layers", None)
    listed = getattr(found, "__all__", None) or [n for n in dir(found) if not n.startswith("_")]
    members = {name: getattr(found, name, None) for name in listed}
    layers = {
        name: value
        for name, value in members.items()
        if isinstance(value, type) and issubclass(value, nn.Module) and build_of(value.__module__)
    }
    # Those that others derive from, and that have no forward of their own, are no layers.
    bases = {base for layer in layers.values() for base in layer.__mro__[1:]}
    return {
        name: layer
        for name, layer in layers.items()
        if layer not in bases or layer.forward is not nn.Module.forward
    }


def _invalid(layer: Any, name: str, build: Build) -> str:
    from kernels_core.errors import InvalidLayerError
    from kernels_core.layers.validation import check_layer, conditions

    try:
        check_layer(layer, repository=build.variant, name=name)
        conditions(layer)
    except InvalidLayerError as error:
        return str(error)
    return ""


def _files_below(directory: Path) -> set[str]:
    """The files of a build that are imported as modules, whatever the modules are called."""
    root = os.path.realpath(directory)
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = [os.path.realpath(file) for file in files if isinstance(file, str)]
    return {os.path.relpath(path, root) for path in paths if path.startswith(root + os.sep)}


def _failure(error: BaseException, directory: Path) -> dict[str, object]:
    """What an exception says, and the last line of the build that it passed."""
    root = os.path.realpath(directory)
    text = f"{type(error).__name__}: {error}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = os.path.realpath(frame.filename)
        if path.startswith(root + os.sep):
            file = os.path.relpath(path, root).replace(os.sep, "/")
            return {"text": text, "file": file, "line": frame.lineno}
    return {"text": text, "file": "", "line": None}


if __name__ == "__main__":
    main(*sys.argv[1:])
