"""Rules about layers, compared with the validation of loaded ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kernels_core.check import check

MakeBuild = Callable[..., Path]

LAYER = """
import torch
from torch import nn
from .functional import normalize

class RMSNorm(nn.Module):
    '''Right for most.'''

    has_backward = False
    can_torch_compile: bool = True

    weight: torch.Tensor
    eps: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if getattr(self, "bias", None) is not None:
            x = x + self.bias
        self.calls = 1
        return normalize(x, self.weight, self.eps) if self.training else self.calls
"""

INIT = "from . import layers\n__all__ = ['layers']\n"


def found(repository: Path) -> list[tuple[str, str, str | None]]:
    """The rule, the file and the symbol of each finding."""
    findings = check(repository, select=["layers"]).findings
    return [
        (each.rule.id, each.problem.path.rpartition("/")[2], each.problem.symbol)
        for each in findings
    ]


def build(make_build: MakeBuild, layers: str, init: str = INIT, **more: str) -> Path:
    files = {"__init__.py": init, "layers.py": layers, **more}
    return make_build("torch-universal", files)


COMPLIANT = [
    LAYER,
    LAYER.replace("from torch import nn", "import torch.nn as nn"),
    LAYER.replace("nn.Module", "Module").replace(
        "import nn", "import nn\nfrom torch.nn import Module"
    ),
    "from torch import nn\nclass _Base(nn.Module):\n    eps: float\n"
    "class A(_Base):\n    def forward(self, x): return x * self.eps\n",
    "from torch import nn\nclass _Hidden(nn.Module):\n    def __init__(self): ...\n",
    "class Config:\n    def __init__(self): ...\n    value = 1\n",
    "from torch import nn\nclass A(nn.Module):\n    has_backward = torch.version.hip is None\n"
    "    @torch.no_grad()\n    def forward(this, x, *rest, **more): return this.training\n",
    "from torch import nn\nclass A(nn.Module):\n    forward = other\n",
    "from torch import nn\nclass A(nn.Module):\n    def forward(self, x): return x\n"
    "    def extra_repr(self): return 'eps=1e-6'\n    def _get_name(self): return 'A'\n"
    "    def __dir__(self): return []\n    def __repr__(self): return 'A'\n"
    "    __str__ = __repr__\n",
    "def helper(): ...\n",
    "",
]


@pytest.mark.parametrize("layers", COMPLIANT)
def test_pure_layers_pass(make_build: MakeBuild, layers: str) -> None:
    assert not found(build(make_build, layers))


def test_layers_in_a_package_of_their_own_pass(make_build: MakeBuild) -> None:
    files = {
        "__init__.py": INIT,
        "layers/__init__.py": "from .norm import RMSNorm\n__all__ = ['RMSNorm']",
        "layers/norm.py": LAYER.replace(".functional", "..functional"),
    }
    assert not found(make_build("torch-universal", files))


A = "from torch import nn\nclass A(nn.Module):\n    def forward(self, x): return x\n"

VIOLATIONS = {
    "constructor": (f"{A}    def __init__(self): super().__init__()\n", "layers-constructor"),
    "method": (f"{A}    def helper(self): ...\n", "layers-members"),
    "constant": (f"{A}    eps = 1e-6\n", "layers-members"),
    "annotated constant": (f"{A}    eps: float = 1e-6\n", "layers-members"),
    "inner class": (f"{A}    class Inner: ...\n", "layers-members"),
    "conditional": (f"{A}    if True:\n        eps = 1\n", "layers-members"),
    "import": (f"{A}    import os\n", "layers-members"),
    "flag": (f"{A}    has_backward = 1\n", "layers-flags"),
    "flag none": (f"{A}    can_torch_compile: bool = None\n", "layers-flags"),
    "flag method": (f"{A}    def has_backward(self): ...\n", "layers-flags"),
    "no forward": ("from torch import nn\nclass A(nn.Module): ...\n", "layers-forward"),
    "static": (A.replace("def f", "@staticmethod\n    def f"), "layers-forward"),
    "class method": (A.replace("def f", "@classmethod\n    def f"), "layers-forward"),
    "asynchronous": (A.replace("def f", "async def f"), "layers-forward"),
    "linear": (A.replace("nn.Module", "nn.Linear"), "layers-base"),
    "mixin": (
        A.replace("(nn.Module", "(Generic[T], nn.Module")
        .replace("from", "from x import Mixin\nfrom", 1)
        .replace("Generic[T]", "Mixin"),
        "layers-base",
    ),
    "variadic": (A.replace("x)", "*x, **y)"), "layers-signature"),
    "members": (A.replace("return x", "return x * self.weight"), "layers-annotated-members"),
}


@pytest.mark.parametrize(("layers", "rule"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_what_loading_would_refuse_is_found_once(
    make_build: MakeBuild, layers: str, rule: str
) -> None:
    assert found(build(make_build, layers)) == [(rule, "layers.py", "A")]


REFUSED = [
    name
    for name, (_, rule) in VIOLATIONS.items()
    if rule in ("layers-constructor", "layers-members", "layers-flags", "layers-base")
    and name != "mixin"
]


@pytest.mark.parametrize("name", [*REFUSED, "no forward"])
def test_loading_refuses_the_same(name: str) -> None:
    pytest.importorskip("torch")
    from kernels_core.errors import InvalidLayerError
    from kernels_core.layers.validation import check_layer

    namespace: dict[str, object] = {}
    exec(VIOLATIONS[name][0], namespace)
    with pytest.raises(InvalidLayerError):
        check_layer(namespace["A"], repository="org/name", name="A")


def test_a_base_in_another_module_is_judged_where_it_stands(make_build: MakeBuild) -> None:
    base = "from torch import nn\nclass Base(nn.Module):\n    def helper(self): ...\n"
    layers = "from .base import Base\nclass A(Base):\n    def forward(self, x): ...\n"
    repository = build(make_build, f"{layers}class B(A): ...\n", **{"base.py": base})
    assert found(repository) == [("layers-members", "base.py", "Base")]


def test_only_the_layers_that_the_module_lists_are_judged(make_build: MakeBuild) -> None:
    helper = "class Helper(nn.Module):\n    def __init__(self): ...\n"
    assert not found(build(make_build, f"{A}{helper}__all__ = ['A']\n"))


@pytest.mark.parametrize(
    ("init", "rules"),
    [
        ("__all__ = ['layers']\n", ["layers-exported"]),
        ("from . import layers\n__all__ = ['relu']\n", ["layers-in-all"]),
        ("from . import layers\n", ["layers-in-all"]),
        ("from .layers import A\n__all__ = ['A', 'layers']\n", []),
        ("from .layers import A\n__all__ = ['A']\n__all__ += ['layers']\n", []),
        ("from . import layers\n__all__ = names()\n", []),
        ("from . import layers\n__all__ = ['a']\n__all__.append('layers')\n", []),
        ("layers = load()\n__all__ = ['layers']\n", []),
        ("from . import other\n__all__ = ['layers']\n", []),
    ],
)
def test_layers_are_exported(make_build: MakeBuild, init: str, rules: list[str]) -> None:
    other = "from .layers import A" if "other" in init else ""
    repository = build(make_build, A, init, **{"other.py": other})
    assert [rule for rule, _, _ in found(repository)] == rules


def test_builds_of_the_older_layout_are_judged_by_their_package(make_build: MakeBuild) -> None:
    files = {"activation/__init__.py": "x = 1", "activation/layers.py": A}
    repository = make_build("torch26-cxx98-cu118-x86_64-linux", files)
    assert [rule for rule, _, _ in found(repository)] == ["layers-exported", "layers-in-all"]


def test_a_build_without_layers_needs_none(make_build: MakeBuild) -> None:
    assert not found(make_build("torch-universal", {"__init__.py": "def relu(x): ..."}))
