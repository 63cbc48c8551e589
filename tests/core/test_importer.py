"""Importing builds: unique names, once per process, source only, nothing left after a failure."""

from __future__ import annotations

import importlib
import inspect
import linecache
import pickle
import py_compile
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels_core.repository.builds import Build
from kernels_core.repository.importer import import_build, module_name

MakeBuild = Callable[..., Build]


@pytest.fixture
def make_build(make_repository: Callable[..., Path]) -> Iterator[MakeBuild]:
    """Write a repository with one build, and forget the build's modules after the test."""
    names = []

    def make(
        files: Mapping[str, object], *, name: str = "activation", variant: str = "torch-anvil"
    ) -> Build:
        path = make_repository({variant: files}, name=name)
        directory = path / "build" / variant
        package = directory if "__init__.py" in files else directory / name
        build = Build(str(path), variant, directory, package)
        names.append(module_name(build))
        return build

    yield make
    for name in names:
        for module in modules_of(name):
            del sys.modules[module]


def modules_of(name: str) -> list[str]:
    return [module for module in sys.modules if module == name or module.startswith(f"{name}.")]


def bytecode_in(build: Build) -> list[Path]:
    return [
        path
        for path in build.path.rglob("*")
        if path.name == "__pycache__" or path.suffix == ".pyc"
    ]


# Names


def test_a_build_is_imported_under_a_readable_name_of_its_own(make_build: MakeBuild) -> None:
    build = make_build({"__init__.py": "from .ops import answer", "ops.py": "answer = 42"})
    module = import_build(build)
    assert module.answer == 42
    assert module.__name__.startswith("kernel_build_torch_anvil_")
    assert module.__name__.isidentifier()
    assert module.ops.__name__ == f"{module.__name__}.ops"
    assert module.__file__ == str(build.package / "__init__.py")


def test_several_builds_of_one_kernel_live_side_by_side(make_build: MakeBuild) -> None:
    files = {
        "activation/__init__.py": "from .v import value",
        "activation/v.py": "value = object()",
    }
    builds = [make_build(files, variant=variant) for variant in ("torch-anvil", "torch-universal")]
    first, second = map(import_build, builds)
    assert first.__name__ != second.__name__
    assert first.value is not second.value
    assert import_build(builds[0]) is first


def test_two_spellings_of_a_path_are_one_build(make_build: MakeBuild, tmp_path: Path) -> None:
    build = make_build({"__init__.py": ""})
    (tmp_path / "link").symlink_to(build.repository)
    linked = tmp_path / "link" / "build" / "torch-anvil"
    assert import_build(Build(build.repository, build.variant, linked, linked)) is import_build(
        build
    )


def test_the_name_is_the_same_in_every_process(make_build: MakeBuild) -> None:
    build = make_build({"__init__.py": ""})
    program = (
        "import pathlib, sys\n"
        "from kernels_core.repository.builds import Build\n"
        "from kernels_core.repository.importer import module_name\n"
        "path = pathlib.Path(sys.argv[2])\n"
        "print(module_name(Build(sys.argv[1], 'torch-anvil', path, path)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, build.repository, str(build.package)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == module_name(build)


def test_a_kernel_cannot_import_itself_by_its_own_name(make_build: MakeBuild) -> None:
    build = make_build({"activation/__init__.py": "import activation.ops", "activation/ops.py": ""})
    with pytest.raises(ModuleNotFoundError, match="No module named 'activation'"):
        import_build(build)
    assert "activation" not in sys.modules


# What else the modules must be good for


def test_objects_are_pickled_by_module_name(make_build: MakeBuild) -> None:
    module = import_build(
        make_build({"__init__.py": "from . import layers", "layers.py": "class Layer: pass"})
    )
    assert isinstance(pickle.loads(pickle.dumps(module.layers.Layer())), module.layers.Layer)


def test_source_is_there_for_tools_and_tracebacks(make_build: MakeBuild) -> None:
    source = "def fail():\n    raise ValueError('from the kernel')\n"
    module = import_build(make_build({"__init__.py": "from .ops import fail", "ops.py": source}))
    assert inspect.getsource(module.fail) == source
    assert linecache.getline(module.ops.__file__, 1) == "def fail():\n"
    with pytest.raises(ValueError, match="from the kernel") as caught:
        module.fail()
    assert "raise ValueError('from the kernel')" in "".join(
        traceback.format_exception(caught.value)
    )


def test_packages_and_folders_without_init_are_found_inside(make_build: MakeBuild) -> None:
    module = import_build(
        make_build(
            {
                "__init__.py": "from .pack.deep import a\nfrom .folder.deep import b",
                "pack/__init__.py": "",
                "pack/deep.py": "from ..folder import deep\na = deep.b",
                "folder/deep.py": "b = 7",
            }
        )
    )
    assert (module.a, module.b) == (7, 7)


def test_a_missing_submodule_is_a_usual_import_error(make_build: MakeBuild) -> None:
    module = import_build(
        make_build(
            {"__init__.py": "try:\n    from . import extra\nexcept ImportError:\n    extra = None"}
        )
    )
    assert module.extra is None
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(f"{module.__name__}.extra")
    assert caught.value.name == f"{module.__name__}.extra"


def test_a_module_can_be_reloaded(make_build: MakeBuild) -> None:
    build = make_build({"__init__.py": "value = 1"})
    module = import_build(build)
    (build.package / "__init__.py").write_text("value = 2")
    assert importlib.reload(module) is module
    assert module.value == 2


# Bytecode


def test_no_bytecode_is_written(make_build: MakeBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    build = make_build({"__init__.py": "from . import ops", "ops.py": ""})
    import_build(build)
    assert bytecode_in(build) == []


def test_cached_bytecode_is_not_read(make_build: MakeBuild) -> None:
    build = make_build({"__init__.py": "from .ops import value", "ops.py": "value = 'source'"})
    ops = build.package / "ops.py"
    # Bytecode that the usual loader takes to be up to date, whatever the source says.
    cached = importlib.util.cache_from_source(str(ops))
    ops.write_text("value = 'cached'")
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(ops), cached, invalidation_mode=mode, doraise=True)
    ops.write_text("value = 'source'")
    assert import_build(build).value == "source"


@pytest.mark.parametrize("place", ["hidden.pyc", "hidden/__init__.pyc"])
def test_bytecode_without_source_is_not_importable(
    make_build: MakeBuild, tmp_path: Path, place: str
) -> None:
    build = make_build({"__init__.py": "from .hidden import value"})
    source = tmp_path / "source.py"
    source.write_text("value = 'bytecode'")
    (build.package / place).parent.mkdir(exist_ok=True)
    py_compile.compile(str(source), str(build.package / place), doraise=True)
    with pytest.raises(ImportError):
        import_build(build)


def test_a_package_of_bytecode_alone_is_not_importable(
    make_build: MakeBuild, tmp_path: Path
) -> None:
    build = make_build({"__init__.py": "value = 1"})
    init = build.package / "__init__.py"
    py_compile.compile(str(init), str(init.with_suffix(".pyc")), doraise=True)
    init.unlink()
    with pytest.raises(FileNotFoundError):
        import_build(build)


def test_an_extension_module_is_loaded(make_build: MakeBuild) -> None:
    # Any extension module of the standard library will do: the file's name decides its suffix.
    import _heapq  # noqa: F401  (some Pythons build it in)

    origin = getattr(sys.modules["_heapq"], "__file__", None)
    if origin is None:
        pytest.skip("this Python has no extension module in a file of its own to copy")
    stable = next(
        (suffix for suffix in importlib.machinery.EXTENSION_SUFFIXES if ".abi3." in suffix),
        importlib.machinery.EXTENSION_SUFFIXES[0],
    )
    build = make_build(
        {
            "__init__.py": "from ._heapq import heapify",
            f"_heapq{stable}": Path(origin).read_bytes(),
            "_heapq.py": "raise AssertionError('the extension module goes first')",
        }
    )
    heap = [3, 1, 2]
    import_build(build).heapify(heap)
    assert heap[0] == 1


# Failure


FAILING = {
    "__init__.py": "from . import good\nfrom . import bad",
    "good.py": "",
    "bad.py": "class KernelError(Exception): pass\nraise KernelError('no such device')",
}


def test_the_kernels_own_exception_comes_through(make_build: MakeBuild) -> None:
    with pytest.raises(Exception, match="no such device") as caught:
        import_build(make_build(FAILING))
    assert type(caught.value).__name__ == "KernelError"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt", "ImportError('x')"])
def test_whatever_is_raised_nothing_is_left(make_build: MakeBuild, error: str) -> None:
    build = make_build({"__init__.py": f"from . import good\nraise {error}", "good.py": ""})
    with pytest.raises((SystemExit, KeyboardInterrupt, ImportError)):
        import_build(build)
    assert modules_of(module_name(build)) == []


def test_a_failed_import_leaves_nothing_and_can_be_tried_again(make_build: MakeBuild) -> None:
    build = make_build(FAILING)
    for _ in range(2):
        with pytest.raises(Exception, match="no such device"):
            import_build(build)
        assert modules_of(module_name(build)) == []
    (build.package / "bad.py").write_text("value = 1")
    assert import_build(build).bad.value == 1


def test_a_syntax_error_names_file_and_line(make_build: MakeBuild) -> None:
    build = make_build({"__init__.py": "x = 1\nx = = 2\n"})
    with pytest.raises(SyntaxError) as caught:
        import_build(build)
    assert (caught.value.filename, caught.value.lineno) == (str(build.package / "__init__.py"), 2)


# Threads

THREADS = 16
COUNTING = """
import builtins, time
builtins.kernel_imports.append(__name__)
time.sleep(0.05)
if len(builtins.kernel_imports) <= {failures}:
    raise RuntimeError("not yet")
from . import ops
value = object()
"""


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the kernels of `COUNTING` have begun to import."""
    begun: list[str] = []
    monkeypatch.setattr("builtins.kernel_imports", begun, raising=False)
    return begun


def import_in_threads(build: Build) -> list[object]:
    """The `value` that each thread got, or the exception."""
    barrier = threading.Barrier(THREADS)

    def run(_: int) -> object:
        barrier.wait()
        try:
            return import_build(build).value
        except RuntimeError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def test_many_threads_import_once(make_build: MakeBuild, imports: list[str]) -> None:
    build = make_build({"__init__.py": COUNTING.format(failures=0), "ops.py": ""})
    values = import_in_threads(build)
    assert len(imports) == 1
    assert len(set(map(id, values))) == 1


def test_a_thread_that_fails_lets_the_next_one_try(
    make_build: MakeBuild, imports: list[str]
) -> None:
    build = make_build({"__init__.py": COUNTING.format(failures=2), "ops.py": ""})
    results = import_in_threads(build)
    assert len(imports) == 3
    assert sum(isinstance(result, RuntimeError) for result in results) == 2
    assert len({id(result) for result in results if not isinstance(result, RuntimeError)}) == 1


def test_kernels_that_load_each_other_in_two_threads_do_not_hang(make_build: MakeBuild) -> None:
    load_other = """
import pathlib, time
from kernels_core.repository.importer import import_build
from kernels_core.repository.builds import Build
time.sleep(0.05)
path = pathlib.Path({path!r})
import_build(Build(str(path.parents[1]), path.name, path, path))
"""
    first = make_build({"__init__.py": ""}, name="first")
    second = make_build({"__init__.py": load_other.format(path=str(first.path))}, name="second")
    (first.path / "__init__.py").write_text(load_other.format(path=str(second.path)))
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(import_build, build) for build in (first, second)]
        errors = [future.exception(timeout=30) for future in futures]
    # One of them may get the error about the deadlock, but neither waits for ever or stays half
    # imported.
    assert all(error is None or "deadlock" in str(error) for error in errors)
    modules = [import_build(build) for build in (first, second)]
    assert [module.__name__ for module in modules] == [module_name(first), module_name(second)]


def test_other_modules_are_none_of_its_business(make_build: MakeBuild, tmp_path: Path) -> None:
    import_build(make_build({"__init__.py": ""}))
    assert importlib.util.find_spec("no_such_module_anywhere") is None
    assert importlib.util.find_spec("kernel_build_of_someone_else") is None
    assert importlib.util.find_spec("json.tool") is not None


# As in a package on the path

PROBES = {
    "find_spec of a submodule": "importlib.util.find_spec(f'{__name__}.sub').origin[-6:]",
    "find_spec of a missing one": "importlib.util.find_spec(f'{__name__}._fast')",
    "find_spec of a missing one, relative": "importlib.util.find_spec('._fast', __package__)",
    "find_spec below a package": "importlib.util.find_spec('.pack._fast', __package__)",
    "find_spec below a folder": "importlib.util.find_spec('.folder._fast', __package__)",
    "find_spec below a module": "raised(lambda: importlib.util.find_spec('.sub.x', __package__))",
    "find_spec below a missing one": "raised(lambda: importlib.util.find_spec('._a.b', __name__))",
    "import of a missing one": "raised(lambda: importlib.import_module('._fast', __package__))",
    "import of a missing one, absolute": "raised(lambda: __import__(f'{__name__}._fast'))",
    "missing name": "raised(lambda: exec('from .sub import nothing', globals()))",
    "import at run time": "late().value",
    "lazy attribute": "sys.modules[__name__].lazy.value",
    "missing attribute": "raised(lambda: sys.modules[__name__].nothing)",
    "iter_modules": "sorted((m.name, m.ispkg) for m in pkgutil.iter_modules(__path__))",
    "walk_packages": "sorted(m.name for m in pkgutil.walk_packages(__path__, '.'))",
    "get_data": "pkgutil.get_data(__name__, 'data.txt')",
    "resources": "resources.files(__package__).joinpath('data.txt').read_text()",
    "resources of a package": "resources.files(pack).joinpath('d.txt').read_text()",
    "resources of a folder": "resources.files(f'{__name__}.folder').joinpath('d.txt').read_text()",
    "resources as files": "resources.as_file(resources.files(__package__)).__enter__() == here",
    "source": "inspect.getsource(sys.modules[__name__]) == (here / '__init__.py').read_text()",
    "line": "linecache.getline(__file__, 1, globals())",
    "spec": "(__spec__.name == __name__, __spec__.parent == __name__, __spec__.has_location)",
    "path": "[os.path.samefile(path, here) for path in __path__]",
    "spec of a folder": "importlib.import_module('.folder', __package__).__spec__.origin",
    "source of a submodule": "sub.__loader__.get_source(__name__ + '.sub')",
    "submodules are attributes": "[part.__name__[len(__name__) :] for part in (sub, pack)]",
    "reload of a submodule": "importlib.reload(sub) is sub",
    "circular imports": "circle_a.b.a is circle_a",
    "run as a program": "runpy.run_module(f'{__name__}.late')['value']",
    "run a file": "runpy.run_path(str(here / 'sub.py'))['value']",
    "pickled function": "pickle.loads(pickle.dumps(raised)) is raised",
    "found again": "sys.modules[__name__] is importlib.import_module(__name__)",
    "in a thread": "ThreadPoolExecutor().submit(late).result().value",
    "metadata of others": "importlib.metadata.version('pytest')",
    "another directory in the path": (
        "(__path__.append(str(here / 'folder')), importlib.import_module('.deep', __name__).b)"
    ),
    "lazy loader": "lazily('.late').value",
}
PROBED = {
    "__init__.py": """
import importlib.metadata, importlib.util, inspect, linecache
import os, pathlib, pickle, pkgutil, runpy, sys
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from . import circle_a, pack, sub
here = pathlib.Path(__file__).parent

def raised(function):
    try:
        return function()
    except Exception as error:
        said = str(error).replace(str(here), "HERE").replace(__name__, "NAME")
        return type(error), said, getattr(error, "name", "").replace(__name__, "NAME")

def late():
    return importlib.import_module(".late", __package__)

def lazily(name):
    spec = importlib.util.find_spec(name, __package__)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def __getattr__(name):
    if name == "lazy":
        return late()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

def probe(text):
    return eval(text, globals())
""",
    "sub.py": "value = 5\nname = __name__",
    "late.py": "value = 6",
    "circle_a.py": "from . import circle_b as b",
    "circle_b.py": "from . import circle_a as a",
    "pack/__init__.py": "",
    "pack/d.txt": "in pack",
    "folder/deep.py": "b = 7",
    "folder/d.txt": "in folder",
    "data.txt": "in the package",
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_a_kernel_sees_what_a_package_on_the_path_sees(
    make_build: MakeBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probe: str
) -> None:
    build = make_build(PROBED)
    shutil.copytree(build.package, tmp_path / "plain" / "probed_package")
    monkeypatch.syspath_prepend(str(tmp_path / "plain"))
    try:
        expected = importlib.import_module("probed_package").probe(probe)
    finally:
        for name in modules_of("probed_package"):
            del sys.modules[name]
    assert import_build(build).probe(probe) == expected


def test_what_is_not_found_is_looked_up_in_no_bytecode_either(make_build: MakeBuild) -> None:
    build = make_build({"__init__.py": "import importlib.util", "sub/a.py": "", "a.py": ""})
    for source in (build.package / "a.py", build.package / "sub" / "a.py"):
        py_compile.compile(str(source), str(source.with_suffix(".pyc")), doraise=True)
        source.unlink()
    module = import_build(build)
    sys.path_importer_cache.clear()
    for name in ("a", "sub.a"):
        assert importlib.util.find_spec(f"{module.__name__}.{name}") is None


def test_a_failed_reload_keeps_the_submodules(make_build: MakeBuild) -> None:
    build = make_build({"__init__.py": "from . import ops", "ops.py": ""})
    module = import_build(build)
    (build.package / "__init__.py").write_text("raise ValueError('in the middle of an edit')")
    with pytest.raises(ValueError, match="in the middle"):
        importlib.reload(module)
    assert sys.modules[f"{module.__name__}.ops"] is module.ops
