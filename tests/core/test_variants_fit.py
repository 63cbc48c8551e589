"""Which builds fit a machine, and which is best."""

from __future__ import annotations

import random

import attrs
import pytest

from kernels_core.errors import PluginConflictError
from kernels_core.hookspecs import BackendTag
from kernels_core.host import HostInfo, TorchInfo
from kernels_core.plugins import Backend
from kernels_core.variants.fit import BuildDecision, decide_builds
from kernels_core.variants.names import parse

TORCH = TorchInfo(version="2.13.0+anvil", release=(2, 13), cxx11_abi=True)
HOST = HostInfo(
    os="linux",
    cpu="x86_64",
    os_version="6.1",
    python=(3, 12),
    free_threaded=False,
    torch=TORCH,
    tvm_ffi=(0, 1),
)


def parse_tag(text: str) -> BackendTag | None:
    if text == "cpu":
        return BackendTag("cpu", "cpu")
    if text == "contested":
        raise PluginConflictError("two plugins claim the tag 'contested'")
    return BackendTag.parse(text, backend="anvil", prefix="anvil", first_major=1)


def one(name: str, backend: Backend, host: HostInfo = HOST) -> BuildDecision:
    (decision,) = decide_builds([name], backend=backend, host=host, parse_tag=parse_tag)
    return decision


def test_the_best_build_comes_first(anvil: Backend) -> None:
    best_first = [
        "torch-stable-abi213-anvil23-x86_64-linux",
        "torch-stable-abi213-anvil21-x86_64-linux",
        "torch-stable-abi29-anvil23-x86_64-linux",
        "torch213-anvil23-x86_64-linux",
        "torch213-anvil22-x86_64-linux",
        "torch213-cxx11-anvil23-x86_64-linux",
        "torch213-cxx11-anvil20-x86_64-linux",
        "tvm-ffi01-anvil22-x86_64-linux",
        "torch-anvil",
        "torch-universal",
    ]
    unfit = ["not-a-variant", "torch-cpu", "torch212-anvil23-x86_64-linux"]
    names = [*best_first, *unfit]
    for seed in range(5):
        random.Random(seed).shuffle(names)
        decisions = decide_builds(names, backend=anvil, host=HOST, parse_tag=parse_tag)
        assert [d.name for d in decisions] == [*best_first, *unfit]
        assert [d.accepted for d in decisions] == [True] * len(best_first) + [False] * len(unfit)


def test_a_decision_holds_the_parsed_name(anvil: Backend) -> None:
    name = "torch213-anvil23-x86_64-linux"
    assert one(name, anvil) == BuildDecision(name, parse(name, parse_tag), True, "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("torch213-anvil23-aarch64-linux", "needs CPU aarch64; this machine has x86_64"),
        (
            "torch213-anvil23-x86_64-windows",
            "needs operating system windows; this machine has linux",
        ),
        (
            "torch212-anvil23-x86_64-linux",
            "needs torch 2.12; torch 2.13.0+anvil is installed",
        ),
        (
            "torch-stable-abi214-anvil23-x86_64-linux",
            "needs torch 2.14 or newer; torch 2.13.0+anvil is installed",
        ),
        (
            "torch213-cxx98-anvil23-x86_64-linux",
            "needs torch built with the C++98 ABI; "
            "the installed torch 2.13.0+anvil has the C++11 ABI",
        ),
        ("tvm-ffi02-anvil23-x86_64-linux", "needs tvm-ffi 0.2; tvm-ffi 0.1 is installed"),
        (
            "torch213-rocm71-x86_64-linux",
            "no installed backend plugin supports tag 'rocm71'; the one that does: "
            "pip install kernels-backend-rocm",
        ),
        (
            "torch213-cpu-x86_64-linux",
            "made for backend 'cpu'; the active backend is 'anvil'",
        ),
        ("torch213-anvil24-x86_64-linux", "built for anvil24, newer than 2.3"),
        ("torch213-contested-x86_64-linux", "two plugins claim the tag 'contested'"),
        (
            "torch-cuda",
            "made for backend 'cuda'; the active backend 'anvil' uses 'torch-anvil' and "
            "'torch-universal'",
        ),
    ],
)
def test_a_rejected_build_says_what_it_needs_and_what_is_here(
    anvil: Backend, name: str, reason: str
) -> None:
    decision = one(name, anvil)
    assert not decision.accepted
    assert decision.reason == reason


def test_an_invalid_name_is_rejected_with_the_grammar(anvil: Backend) -> None:
    decision = one("torch2013-cpu-x86_64-linux", anvil)
    assert not decision.accepted
    assert decision.variant is None
    assert "must be written as 'torch213-cpu-x86_64-linux'" in decision.reason


@pytest.mark.parametrize(
    "name",
    [
        "torch-anvil",
        "torch-universal",
        "torch213-anvil23-x86_64-linux",
        "torch-stable-abi29-anvil23-x86_64-linux",
    ],
)
def test_nothing_for_torch_fits_without_torch(anvil: Backend, name: str) -> None:
    decision = one(name, anvil, attrs.evolve(HOST, torch=None))
    assert not decision.accepted
    assert "not installed" in decision.reason


def test_a_tvm_ffi_build_needs_tvm_ffi_and_no_torch(anvil: Backend) -> None:
    name = "tvm-ffi01-anvil23-x86_64-linux"
    assert one(name, anvil, attrs.evolve(HOST, torch=None)).accepted
    decision = one(name, anvil, attrs.evolve(HOST, tvm_ffi=None))
    assert decision.reason == "needs tvm-ffi 0.1; tvm-ffi is not installed"


def test_an_untagged_build_fits_either_abi(anvil: Backend) -> None:
    for abi in (True, False, None):
        host = attrs.evolve(HOST, torch=attrs.evolve(TORCH, cxx11_abi=abi))
        assert one("torch213-anvil23-x86_64-linux", anvil, host).accepted


def test_a_tagged_build_does_not_fit_where_builds_have_no_abi(anvil: Backend) -> None:
    host = attrs.evolve(HOST, torch=attrs.evolve(TORCH, cxx11_abi=None))
    decision = one("torch213-cxx11-anvil23-x86_64-linux", anvil, host)
    assert decision.reason.endswith("has no choice of C++ ABI")


@pytest.mark.parametrize(("python", "fits"), [((3, 13), False), ((3, 14), False), ((3, 15), True)])
def test_native_builds_need_a_stable_abi_of_python(
    anvil: Backend, python: tuple[int, int], fits: bool
) -> None:
    host = attrs.evolve(HOST, free_threaded=True, python=python)
    names = ["torch213-anvil23-x86_64-linux", "tvm-ffi01-anvil23-x86_64-linux", "torch-anvil"]
    decisions = {
        d.name: d for d in decide_builds(names, backend=anvil, host=host, parse_tag=parse_tag)
    }
    assert decisions.pop("torch-anvil").accepted
    for decision in decisions.values():
        assert decision.accepted is fits
        if not fits:
            assert f"free-threaded Python 3.{python[1]}" in decision.reason


def test_the_plugin_is_asked_once_per_tag(anvil: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    match_tag = Backend.match_tag
    monkeypatch.setattr(
        Backend, "match_tag", lambda self, tag: asked.append(tag) or match_tag(self, tag)
    )
    names = [f"torch-stable-abi2{minor}-anvil23-x86_64-linux" for minor in range(14)]
    decide_builds(names, backend=anvil, host=HOST, parse_tag=parse_tag)
    assert [str(tag) for tag in asked] == ["anvil23"]
