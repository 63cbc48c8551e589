"""Who answers `import kernels`, and as which version."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]

ASK = """
import importlib.metadata
import importlib.util

print(importlib.util.find_spec("kernels").origin)
print(importlib.metadata.version("kernels"))
import kernels

print(kernels.__version__)
print(kernels.Mode.__module__)
"""


def fake_transformers(folder: Path, minimum: str) -> Path:
    utils = folder / "site" / "transformers" / "utils"
    utils.mkdir(parents=True)
    (utils.parent / "__init__.py").write_text("raise ImportError('must not be imported')")
    (utils / "import_utils.py").write_text(f'X = 1\nKERNELS_MIN_VERSION = "{minimum}"\n')
    return utils.parents[1]


def test_all_ways_to_ask_are_answered(run: Run) -> None:
    origin, version, own_version, module = run(ASK, KERNELS_COMPAT_VERSION="0.18.2").split()
    assert Path(origin).parts[-4:] == ("kernels_core", "compat", "kernels", "__init__.py")
    assert (version, own_version, module) == ("0.18.2", "0.18.2", "kernels_core.mode")


@pytest.mark.parametrize("minimum", ["0.17.2", "0.18.2"])
def test_the_installed_transformers_decides_the_version(
    run: Run, tmp_path: Path, minimum: str
) -> None:
    site = fake_transformers(tmp_path, minimum)
    assert run(ASK, path=(site,)).split()[1:3] == [minimum, minimum]
    assert run(ASK, path=(site,), KERNELS_COMPAT_VERSION="0.14.1").split()[1] == "0.14.1"


def test_a_version_that_is_none_is_refused(run: Run) -> None:
    program = """
        import importlib.metadata
        from kernels_core.errors import EnvironmentVariableError

        try:
            importlib.metadata.version("kernels")
        except EnvironmentVariableError as error:
            print(error)
    """
    printed = run(textwrap.dedent(program), KERNELS_COMPAT_VERSION="newest")
    assert "KERNELS_COMPAT_VERSION: 'newest' is not a version" in printed


def test_submodules_that_programs_import_are_there(run: Run) -> None:
    program = """
        import kernels.layer
        from kernels import Device
        from kernels.layer import kernelize
        from kernels.layer.device import Device as same
        from kernels.layer.mode import Mode
        import kernels_core

        assert same is Device is kernels_core.Device
        assert kernelize is kernels_core.kernelize
        assert kernels.layer.Mode is Mode
        assert "get_kernel" in dir(kernels) and "Mode" in dir(kernels.layer)
    """
    run(textwrap.dedent(program))


def test_a_misspelt_name_is_an_attribute_error(run: Run) -> None:
    program = """
        import kernels

        try:
            kernels.get_kernle
        except AttributeError as error:
            print(error)
    """
    assert run(textwrap.dedent(program)) == "module 'kernels' has no attribute 'get_kernle'\n"


def test_activating_and_asking_imports_neither_torch_nor_the_hub_client(run: Run) -> None:
    program = ASK + "import sys\nprint(sorted({'torch', 'huggingface_hub'} & set(sys.modules)))\n"
    assert run(program).splitlines()[-1] == "[]"


def test_activating_twice_changes_nothing_and_deactivating_undoes_it(run: Run) -> None:
    program = """
        import importlib.util
        import sys

        def finders():
            return [f for f in sys.meta_path if "kernels_core.compat" in type(f).__module__]

        assert len(finders()) == 1
        kernels_core.compat.activate()
        assert len(finders()) == 1
        import kernels.layer

        kernels_core.compat.deactivate()
        kernels_core.compat.deactivate()
        assert not finders()
        assert not [name for name in sys.modules if name.partition(".")[0] == "kernels"]
        spec = importlib.util.find_spec("kernels")
        assert spec is None or "kernels_core" not in spec.origin
    """
    run(textwrap.dedent(program))


def test_another_version_than_the_reported_one_is_refused(run: Run) -> None:
    program = """
        kernels_core.compat.activate("0.18.2")
        kernels_core.compat.activate("0.18.2")
        try:
            kernels_core.compat.activate("0.17.2")
        except kernels_core.errors.CompatError as error:
            print(error)
    """
    printed = run(textwrap.dedent(program))
    assert "active as version 0.18.2 already" in printed
    assert "deactivate()" in printed


OTHER = "LOADED = 'the other package'\n"


def test_a_program_that_has_imported_the_other_package_is_refused(run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "kernels").mkdir(parents=True)
    (site / "kernels" / "__init__.py").write_text(OTHER)
    program = """
        import kernels
        import kernels_core.compat
        from kernels_core.errors import CompatError

        try:
            kernels_core.compat.activate()
        except CompatError as error:
            print(error)
        import sys

        assert not [f for f in sys.meta_path if "kernels_core.compat" in type(f).__module__]
        assert sys.modules["kernels"].LOADED
    """
    printed = run(textwrap.dedent(program), activate=False, path=(site,))
    assert f"imported from {site / 'kernels' / '__init__.py'} already" in printed
    assert "before anything imports 'kernels'" in printed


def test_the_other_package_gives_way_and_comes_back(run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "kernels").mkdir(parents=True)
    (site / "kernels" / "__init__.py").write_text(OTHER)
    program = """
        import kernels

        assert not hasattr(kernels, "LOADED")
        kernels_core.compat.deactivate()
        import kernels

        print(kernels.LOADED)
    """
    assert run(textwrap.dedent(program), path=(site,)) == "the other package\n"


def test_a_transformers_that_found_kernels_missing_is_refused(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    # The first distribution of the name counts, and this version is too old for any transformers.
    info = tmp_path / "site" / "kernels-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.0.1\n")
    program = """
        from transformers.utils.import_utils import is_kernels_available

        import kernels_core.compat
        from kernels_core.errors import CompatError

        kernels_core.compat.activate()  # nobody has asked yet
        kernels_core.compat.deactivate()
        assert not is_kernels_available()
        try:
            kernels_core.compat.activate()
        except CompatError as error:
            print(error)
        import sys

        assert not [f for f in sys.meta_path if "kernels_core.compat" in type(f).__module__]
    """
    printed = run(textwrap.dedent(program), activate=False, path=(tmp_path / "site",))
    assert "transformers has looked for 'kernels' before" in printed
    assert "before importing transformers" in printed


NORM = """
import kernels
import kernels_core.compat
import torch
from torch import nn


@kernels.use_kernel_forward_from_hub("RMSNorm")
class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


def kernel():
    model = kernels.kernelize(nn.Sequential(RMSNorm()), mode=kernels.Mode.INFERENCE)
    return kernels_core.report(model).rows[0].kernel


def registered_by_transformers():
    layer = kernels.LayerRepository("org/norm", layer_name="Norm", version=1)
    kernels.register_kernel_mapping({"RMSNorm": {"cpu": layer, "cuda": layer}})


"""


def test_bundled_kernels_are_used_while_it_is_active(run: Run) -> None:
    program = """
print(kernel())
registered_by_transformers()
print(kernel())
with kernels.use_kernel_mapping({}, inherit_mapping=False):
    print(kernel())
kernels_core.compat.deactivate()
with kernels.use_kernel_mapping({}, inherit_mapping=False):
    print(kernel())
kernels.register_kernel_mapping({}, inherit_mapping=False)
print(kernel())
"""
    printed = run(NORM + program, HF_HUB_OFFLINE="1")
    assert printed.split() == ["RMSNorm", "RMSNorm", "None", "None", "None"]
