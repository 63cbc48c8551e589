"""`kernelize` with layers of the Hub: all that a plan needs is requested at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, forget, kernel_files, longest_chain, round_trips

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from kernels_core import (  # noqa: E402
    KernelizeFallback,
    LayerRepository,
    LockedLayerRepository,
    Mode,
    errors,
    get_kernel,
    kernelize,
    report,
    unkernelize,
    use_kernel_forward_from_hub,
)
from kernels_core.layers import load  # noqa: E402

COUNT = 8
# Seconds. What a busy machine delays must not look like one request after another.
LATENCY = 0.2


def layer_class(name: str) -> type[nn.Module]:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x + x

    return use_kernel_forward_from_hub(name)(type(name, (nn.Module,), {"forward": forward}))


LAYERS = [layer_class(f"Layer{index}") for index in range(COUNT)]


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_loaded", {})


def new_process(hub: Hub) -> None:
    forget()
    load._loaded.clear()
    hub.forget()


@pytest.fixture
def commits(hub: Hub) -> list[str]:
    """Eight kernels of one publisher, each with a layer `Twice`."""
    return [
        hub.add(f"org/kernel-{index}", kernel_files(f"kernel-{index}"), tag="v0.0.1")
        for index in range(COUNT)
    ]


def model() -> nn.Module:
    return nn.Sequential(*(cls() for cls in LAYERS))


def mapping(**arguments: Any) -> dict[str, Any]:
    return {
        f"Layer{index}": {"cpu": LayerRepository(f"org/kernel-{index}", "Twice", **arguments)}
        for index in range(COUNT)
    }


def kernelized(mapping: dict[str, Any], **arguments: Any) -> nn.Module:
    return kernelize(model(), mode=Mode.INFERENCE, device="cpu", mapping=mapping, **arguments)


def test_layers_of_the_hub_compute(hub: Hub, commits: list[str]) -> None:
    done = kernelized(mapping(version=">=0.0.1"))
    assert torch.equal(done(torch.ones(2)), torch.full((2,), 2.0**COUNT))
    rows = report(done).rows
    assert [row.variant for row in rows] == ["torch-cpu"] * COUNT
    assert sorted(row.commit for row in rows) == sorted(commits)
    unkernelize(done)
    assert [type(layer) for layer in done] == LAYERS


@pytest.mark.parametrize(("redirects", "most"), [(False, 7), (True, 8)])
def test_eight_cold_kernels_take_few_round_trips(
    hub: Hub, commits: list[str], redirects: bool, most: int
) -> None:
    hub.latency, hub.redirects = LATENCY, redirects
    kernelized(mapping())
    assert round_trips(hub.requests, LATENCY) <= most
    assert longest_chain(hub.requests) <= most - 2
    assert len([request for request in hub.requests if request.kind == "organization"]) == 1


def test_eight_warm_kernels_in_a_new_process(hub: Hub, commits: list[str]) -> None:
    hub.latency = LATENCY
    kernelized(mapping())
    new_process(hub)
    kernelized(mapping())
    assert longest_chain(hub.requests) == 1
    assert len(hub.requests) == COUNT + 1
    hub.forget()
    kernelized(mapping())
    assert hub.requests == []


def test_commits_and_locks_ask_nothing_once_they_are_there(
    hub: Hub, commits: list[str], tmp_path: Path
) -> None:
    lock = tmp_path / "kernels.lock"
    entries = [
        {"dependency": {"repo-id": f"org/kernel-{i}", "revision": "v0.0.1"}, "lock": {"commit": c}}
        for i, c in enumerate(commits)
    ]
    lock.write_text(json.dumps(entries))
    by_commit = {
        f"Layer{i}": {"cpu": LayerRepository(f"org/kernel-{i}", "Twice", revision=commit)}
        for i, commit in enumerate(commits)
    }
    by_lock = {
        f"Layer{i}": {
            "cpu": LockedLayerRepository(f"org/kernel-{i}", layer_name="Twice", lockfile=lock)
        }
        for i in range(COUNT)
    }
    kernelized(by_commit)
    for mapped in (by_commit, by_lock):
        new_process(hub)
        assert [row.reason for row in report(kernelized(mapped)).rows] == [""] * COUNT
        assert hub.requests == []


def test_several_layers_of_one_kernel_are_one_question(hub: Hub, commits: list[str]) -> None:
    same = {f"Layer{i}": {"cpu": LayerRepository("org/kernel-0", "Twice")} for i in range(COUNT)}
    kernelized(same)
    assert len(hub.requests) == 6


def test_each_failure_belongs_to_its_layer(hub: Hub, commits: list[str]) -> None:
    hub.add("other/untrusted", kernel_files(), publisher_trusted=False)
    hub.add("org/elsewhere", kernel_files(variant="torch-abacus"))
    mapped = mapping() | {
        "Layer1": {"cpu": LayerRepository("org/nothing", "Twice")},
        "Layer2": {"cpu": LayerRepository("org/kernel-2", "Twice", version=9)},
        "Layer3": {"cpu": LayerRepository("other/untrusted", "Twice")},
        "Layer4": {"cpu": LayerRepository("org/elsewhere", "Twice")},
        "Layer5": {"cpu": LayerRepository("org/kernel-5", "Thrice")},
    }
    done = kernelized(mapped, use_fallback=KernelizeFallback.ALL)
    reasons = {row.layer_name: row.reason for row in report(done).rows}
    assert "RepoNotFound" in reasons["Layer1"]
    assert "no version 9" in reasons["Layer2"]
    assert "not trusted" in reasons["Layer3"]
    assert "abacus" in reasons["Layer4"]
    assert "Thrice" in reasons["Layer5"]
    assert [reasons[f"Layer{index}"] for index in (0, 6, 7)] == ["", "", ""]
    untouched = model()
    with pytest.raises(errors.HubNotFoundError):
        kernelize(untouched, mode=Mode.INFERENCE, device="cpu", mapping=mapped)
    assert [type(layer) for layer in untouched] == LAYERS


def test_a_layer_repository_loads_by_itself(hub: Hub, commits: list[str]) -> None:
    assert LayerRepository("org/kernel-0", "Twice").load().__name__ == "Twice"
    hub.publishers["org"] = False
    forget()
    with pytest.raises(errors.UntrustedError):
        LayerRepository("org/kernel-0", "Twice").load()


def test_without_a_lock_file_the_callers_package_must_have_one(hub: Hub) -> None:
    repository = LockedLayerRepository("org/kernel-0", layer_name="Twice")
    with pytest.raises(errors.LockFileNotFoundError, match="kernels-core lock"):
        repository.load()


def test_a_hub_that_does_not_answer_is_asked_again_after_a_pause(
    hub: Hub, commits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_unanswered", {})
    one_layer = {"Layer0": {"cpu": LayerRepository("org/kernel-0", "Twice")}}
    done = LAYERS[0]()

    def kernelize_again(mode: Mode) -> Any:
        arguments = {"mode": mode, "device": "cpu", "mapping": one_layer}
        kernelize(done, use_fallback=KernelizeFallback.ALL, **arguments)
        return report(done).rows[0]

    hub.fault("503", times=None)
    assert "HTTP 503" in kernelize_again(Mode.INFERENCE).reason
    hub.heal()
    hub.forget()
    for mode in (Mode.TRAINING, Mode.INFERENCE):  # a model in training changes it often
        row = kernelize_again(mode)
        assert row.kernel is None
        assert "HTTP 503" in row.reason
        assert "kernelize does not ask again within 60 s" in row.reason
    with pytest.raises(errors.HubUnreachableError, match="does not ask again"):
        kernelize(done, mode=Mode.INFERENCE, device="cpu", mapping=one_layer)
    assert hub.requests == []
    monkeypatch.setenv("LOCAL_KERNELS", "org/kernel-0=/no/such/directory")
    assert "/no/such/directory" in kernelize_again(Mode.INFERENCE).reason, "nothing to request"
    monkeypatch.delenv("LOCAL_KERNELS")
    assert get_kernel("org/kernel-0").__name__, "which asks whenever it is called"
    load._unanswered.clear()
    assert kernelize_again(Mode.INFERENCE).kernel == "Twice"


def test_another_kernel_of_a_hub_that_failed_is_requested(
    hub: Hub, commits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_unanswered", {})
    hub.fault("503", match=lambda request: "kernel-0" in request.line, times=None)
    both = {
        "Layer0": {
            "cpu": [
                LayerRepository("org/kernel-0", "Twice"),
                LayerRepository("org/kernel-1", "Twice"),
            ]
        }
    }
    for _ in range(2):
        done = kernelize(LAYERS[0](), mode=Mode.INFERENCE, device="cpu", mapping=both)
        row = report(done).rows[0]
        assert row.repository == "org/kernel-1 at main"
        assert "HTTP 503" in row.passed_over[0]


class Unhashable(LayerRepository):
    def __hash__(self) -> int:
        raise ValueError("not hashable")


def test_repositories_that_cannot_be_hashed_are_used(hub: Hub, commits: list[str]) -> None:
    own = Unhashable("org/kernel-0", "Twice")
    agent = LayerRepository("org/kernel-1", "Twice", user_agent={"library": ["a", "b"]})
    mapped = {"Layer0": {"cpu": own}, "Layer1": {"cpu": agent}}
    two = nn.Sequential(LAYERS[0](), LAYERS[1]())
    done = kernelize(two, mode=Mode.INFERENCE, device="cpu", mapping=mapped)
    assert [row.kernel for row in report(done).rows] == ["Twice", "Twice"]
