"""What runs and what is said: each obstacle, with each policy, with and without bundled kernels.

`pytest tests/hub/test_cases.py -s` prints the table.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hub_server import Hub, forget, kernel_files
from hub_server.fixtures import reread

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402  only once torch is known to be there

from kernels_core import (  # noqa: E402
    KernelizeFallback,
    LayerRepository,
    Mode,
    kernelize,
    notices,
    plugins,
    report,
    use_kernel_forward_from_hub,
)
from kernels_core.layers import load  # noqa: E402

NONE, DEFAULT, ALL = KernelizeFallback.NONE, KernelizeFallback.DEFAULT, KernelizeFallback.ALL
ORG_NORM = LayerRepository("org/norm", "Twice", version=1)


@use_kernel_forward_from_hub("RMSNorm")
class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(load, "_loaded", {})
    monkeypatch.setattr(notices, "_said", {})
    yield
    monkeypatch.undo()
    plugins.reset()


Arrange = Callable[[Hub, pytest.MonkeyPatch], dict[str, Any]]


def online(hub: Hub, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> dict[str, Any]:
    hub.add("org/norm", kernel_files("norm", **arguments), branch="v1")
    return {}


def offline_with_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    online(hub, monkeypatch)
    ORG_NORM.load()
    return offline(hub, monkeypatch)


def offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reread()
    return {}


def hub_down(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    hub.stop()
    return {}


def untrusted(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    hub.add("org/norm", kernel_files("norm"), branch="v1", publisher_trusted=False)
    return {}


def no_build(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return online(hub, monkeypatch, variant="torch-abacus")


def import_fails(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return online(hub, monkeypatch, source="raise SystemExit(3)")


def mode_lacking(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    layers = (
        "from torch import nn\n\n\nclass Twice(nn.Module):\n    has_backward = False\n\n"
        "    def forward(self, x):\n        return 2 * x\n"
    )
    online(hub, monkeypatch, layers=layers)
    return {
        "mode": Mode.TRAINING,
        "mapping": {"RMSNorm": {"cpu": {Mode.TRAINING: ORG_NORM}}},
    }


def no_layer(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"mapping": {"LayerNorm": {"cpu": ORG_NORM}}}


def other_device(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"mapping": {"RMSNorm": {"cuda": ORG_NORM}}}


def no_plugin(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("KERNELS_BACKENDS", "cuda")
    plugins.reset()
    return online(hub, monkeypatch)


def absent_device(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    online(hub, monkeypatch)
    return {"device": "xpu"}


def unknown_device(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    online(hub, monkeypatch)
    return {"device": "warp"}


CASES: dict[str, Arrange] = {
    arrange.__name__.replace("_", " "): arrange
    for arrange in (
        online,
        offline_with_cache,
        offline,
        hub_down,
        untrusted,
        no_build,
        import_fails,
        mode_lacking,
        no_layer,
        other_device,
        no_plugin,
        absent_device,
        unknown_device,
    )
}


def outcome(arranged: dict[str, Any], **arguments: Any) -> tuple[str, list[str]]:
    """Which kernel runs, "own" or the name of an exception; and the warnings."""
    given = {"mode": Mode.INFERENCE, "mapping": {"RMSNorm": {"cpu": ORG_NORM}}, **arranged}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = kernelize(nn.Sequential(Norm()), **given, **arguments)
            ran = report(model).rows[0].kernel or "own"
        except Exception as error:
            ran = type(error).__name__
    return ran, [str(warning.message) for warning in caught]


# By case: what runs with each policy, with bundled kernels below the mapping, and what is said.
# A kernel's layer, "own" for the original forward, or the exception.
KERNEL, BUNDLED, OWN = "Twice", "RMSNorm", "own"
TABLE: dict[str, tuple[str, str, str, str, str]] = {
    "online": (KERNEL, KERNEL, KERNEL, KERNEL, ""),
    "offline with cache": (KERNEL, KERNEL, KERNEL, KERNEL, ""),
    "offline": ("HubOfflineError", "HubOfflineError", OWN, BUNDLED, "HF_HUB_OFFLINE is set"),
    "hub down": ("HubUnreachableError", "HubUnreachableError", OWN, BUNDLED, "/refs failed"),
    "untrusted": ("UntrustedError", "UntrustedError", OWN, BUNDLED, "is not trusted"),
    "no build": ("NoFittingBuildError", OWN, OWN, BUNDLED, "No build in org/norm fits"),
    "import fails": ("KernelImportError", "KernelImportError", OWN, BUNDLED, "SystemExit: 3"),
    "mode lacking": ("LayerModeError", "LayerModeError", OWN, "LayerModeError", "another mode"),
    "no layer": ("NoKernelError", OWN, OWN, BUNDLED, "no mapping has a layer 'RMSNorm'"),
    "other device": ("NoKernelError", OWN, OWN, BUNDLED, "for cuda, not for cpu"),
    "no plugin": ("BackendNotInstalledError", OWN, OWN, OWN, "KERNELS_BACKENDS does not list"),
    "absent device": (
        "BackendUnavailableError",
        "BackendUnavailableError",
        OWN,
        "BackendUnavailableError",
        "xpu (kernels-backend-xpu",
    ),
    "unknown device": (
        "UnknownDeviceError",
        "UnknownDeviceError",
        OWN,
        "UnknownDeviceError",
        "install its vendor's package",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_runs_and_what_is_said(case: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    arranged = CASES[case](hub, monkeypatch)
    columns: tuple[dict[str, Any], ...] = (
        {"use_fallback": NONE},
        {"use_fallback": DEFAULT},
        {"use_fallback": ALL},
        {"use_fallback": DEFAULT, "bundled": True},
    )
    *expected, text = TABLE[case]
    ran = []
    for arguments in columns:
        forget()
        load._loaded.clear()
        notices._said.clear()
        what, said = outcome(arranged, **arguments)
        ran.append(what)
        if what in (KERNEL, BUNDLED, OWN) and text and not (case in QUIET and what == BUNDLED):
            assert len(said) == 1, "one warning"
            assert text in said[0]
            assert ("replaced none of the 1 extensible" in said[0]) is (what == OWN)
        else:
            assert said == []
    print(f"| {case} | {' | '.join(ran)} | {text} |")
    assert ran == expected


# Nothing is wrong with a mapping that is for other layers or devices, if another kernel serves.
QUIET = ("no layer", "other device")
