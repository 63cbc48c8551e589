"""What programs load merely because `kernels` is found: from the Hub, without it, and offline.

transformers 5.20 to 5.24 load a kernel without `use_kernels` in these places (by function):

- `lazy_load_kernel`, for weights in fp8 and fp4 and for experts (finegrained-fp8, deep-gemm,
  sonic-moe, nvfp4): goes on without the kernel after FileNotFoundError and AssertionError; what
  called it then raises ImportError, or chooses another implementation.
- `load_and_register_attn_kernel`, for `attn_implementation="org/name"` and for flash attention
  without the package `flash_attn`: makes a ValueError of any other exception.
- `is_flash_attn_N_available(kernels_fallback_ok=True)`, sam3_video, GGUF: after any exception, they
  go on without the kernel.
- rwkv, mra, yoso, mxfp4, EETQ, fbgemm on xpu, Metal quantization: let any exception through; these
  models and formats need their kernel.

diffusers 0.42: attention backends whose name ends in `hub`, nunchaku, GGUF with
`DIFFUSERS_GGUF_CUDA_KERNELS`, the NATTEN processor of LTX 2. trl 1.16: tree attention of
asynchronous GRPO, and attention by the name of a repository, through transformers. They let any
exception through.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import Hub, kernel_files
from hub_server.fixtures import reread

import kernels_core
from kernels_core import errors
from kernels_core.compat import kernels

PROGRAM = Path(__file__).with_name("fallbacks_program.py")
Run = Callable[..., str]

# Names that programs take from the kernels, and branches that they ask for.
SOURCE = """
GEMV_TYPES = ()


def __getattr__(name):
    if name.startswith("__") or name in ("sparse_atten_func", "flash_attn_forward"):
        raise AttributeError(name)
    return lambda *args, **kwargs: None
"""
PUBLISHED = {
    "ggml-org": ["ggml-quantization"],
    "kernels-community": [
        "cv-utils",
        "deep-gemm",
        "finegrained-fp8",
        "flash-attn2",
        "nvfp4-gemm",
        "sonic-moe",
    ],
}
BRANCHES = ("main", "v1", "v2", "v3", "v4", "ep-support")

LAZY = {f"lazy {name}" for name in ("deep-gemm", "finegrained-fp8", "nvfp4", "sonic-moe")}
GO_ON_AFTER_ANYTHING = {"plain model", "flash attention available", "gguf", "video"}


def publish(hub: Hub, *, trusted: bool = True) -> None:
    for publisher, names in PUBLISHED.items():
        for name in names:
            files = kernel_files(name, variant="torch-universal", source=SOURCE)
            for branch in BRANCHES:
                repository = f"{publisher}/{name}"
                hub.add(repository, files, branch=branch, publisher_trusted=trusted)


def outcomes(run: Run, **variables: str) -> dict[str, Any]:
    printed = run(PROGRAM.read_text("utf-8"), activate=False, **variables)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


ALL_LOADED = dict.fromkeys(
    [
        *LAZY,
        "attention",
        "experts",
        "flash attention available",
        "flash attention model",
        "get_kernel",
        "gguf",
        "video",
    ],
    True,
) | {"plain model": False}


def without(exception: str) -> dict[str, Any]:
    """What comes of every place where no kernel is available, for this reason."""
    return {
        **dict.fromkeys(LAZY | GO_ON_AFTER_ANYTHING, False),
        "attention": "ValueError",
        "experts": "ImportError",
        "flash attention model": "ImportError",
        "get_kernel": exception,
    }


@pytest.fixture
def transformers(hub: Hub) -> None:
    pytest.importorskip("transformers")


@pytest.mark.usefixtures("transformers")
def test_transformers_finds_kernels_and_finds_them_again_without_a_hub(hub: Hub, run: Run) -> None:
    publish(hub)
    assert outcomes(run) == ALL_LOADED
    assert outcomes(run, HF_HUB_OFFLINE="1") == ALL_LOADED
    hub.stop()
    assert outcomes(run) == ALL_LOADED


@pytest.mark.usefixtures("transformers")
def test_transformers_goes_on_without_kernels_that_are_out_of_reach(hub: Hub, run: Run) -> None:
    assert outcomes(run, HF_HUB_OFFLINE="1") == without("HubOfflineError")
    hub.stop()
    assert outcomes(run) == without("HubUnreachableError")


@pytest.mark.usefixtures("transformers")
def test_transformers_goes_on_without_kernels_that_do_not_exist(hub: Hub, run: Run) -> None:
    assert outcomes(run) == without("HubNotFoundError")


@pytest.mark.usefixtures("transformers")
def test_transformers_goes_on_without_kernels_whose_publisher_cannot_be_asked_about(
    hub: Hub, run: Run
) -> None:
    publish(hub)
    hub.fault("500", "organization", times=None)
    assert outcomes(run) == without("TrustUnknownError")


@pytest.mark.usefixtures("transformers")
def test_an_untrusted_kernel_is_an_error_where_transformers_handles_none(
    hub: Hub, run: Run
) -> None:
    publish(hub, trusted=False)
    untrusted = without("UntrustedError")
    # It is a ValueError, as with Hugging Face `kernels`, which these places do not catch.
    untrusted |= dict.fromkeys([*LAZY, "attention", "experts"], "UntrustedError")
    assert outcomes(run) == untrusted
    assert outcomes(run, KERNELS_TRUST="kernels-community,ggml-org") == ALL_LOADED


# What other programs call

REPOSITORY = "org/activation"
AGENT = {"diffusers": "0.42.1"}


def diffusers_attention(version: int | None, revision: str | None) -> Any:
    return kernels.get_kernel(
        REPOSITORY,
        revision=revision,
        version=version,
        user_agent=AGENT,
        trust_remote_code=False,
    )


CALLS: dict[str, Callable[[], Any]] = {
    "diffusers, version 0": lambda: diffusers_attention(0, None),
    "diffusers, version": lambda: diffusers_attention(1, None),
    "diffusers, revision": lambda: diffusers_attention(None, "v1"),
    "diffusers, GGUF": lambda: kernels.get_kernel(
        REPOSITORY, user_agent=AGENT, trust_remote_code=True
    ),
    "trl": lambda: kernels.get_kernel(REPOSITORY, version=1),
    "sglang": lambda: kernels.get_kernel(REPOSITORY, revision="v1"),
    "axolotl": lambda: kernels.get_kernel(REPOSITORY),
}


def add(hub: Hub, **arguments: Any) -> str:
    for branch in ("v0", "v1"):
        hub.add(REPOSITORY, kernel_files(), branch=branch, **arguments)
    return hub.add(REPOSITORY, kernel_files(), **arguments)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reread()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_loads_from_the_hub_and_then_from_the_cache(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]
) -> None:
    add(hub)
    assert call().answer == 42
    hub.stop()
    reread()
    assert call().answer == 42
    offline(monkeypatch)
    assert call().answer == 42


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_without_hub_and_cache_is_a_file_not_found(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]
) -> None:
    hub.stop()
    with pytest.raises(FileNotFoundError, match="org/activation"):
        call()
    offline(monkeypatch)
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE"):
        call()


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"diffusers, GGUF"}))
def test_a_call_for_what_is_not_trusted_is_a_value_error(hub: Hub, name: str) -> None:
    add(hub, publisher_trusted=False)
    with pytest.raises(ValueError, match=r"trust_remote_code=\['org/activation'\]"):
        CALLS[name]()
    assert not [request for request in hub.requests if request.kind == "file"]


def test_the_caller_vouches_where_diffusers_does(hub: Hub) -> None:
    add(hub, publisher_trusted=False)
    assert CALLS["diffusers, GGUF"]().answer == 42


@pytest.mark.parametrize("arguments", [{"version": 7}, {"revision": "absent"}])
def test_a_version_that_is_not_there_is_both_errors_that_programs_catch(
    hub: Hub, arguments: dict[str, Any]
) -> None:
    add(hub)
    with pytest.raises(errors.VersionNotFoundError) as caught:
        kernels.get_kernel(REPOSITORY, **arguments)
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, ValueError)


def test_a_locked_kernel_is_loaded_as_sglang_does(hub: Hub, tmp_path: Path) -> None:
    commit = add(hub)
    file = tmp_path / "kernels.lock"
    dependency = {"repo-id": REPOSITORY, "version": 1}
    file.write_text(json.dumps([{"dependency": dependency, "lock": {"commit": commit}}]))
    with pytest.raises(FileNotFoundError, match="local_files_only"):
        kernels.load_kernel(REPOSITORY, file)
    loaded = kernels.get_locked_kernel(REPOSITORY, lockfile=file)
    hub.stop()
    assert kernels.load_kernel(REPOSITORY, file) is loaded
    with pytest.raises(ValueError, match="org/other"):
        kernels.load_kernel("org/other", file)
    with pytest.raises(FileNotFoundError, match=r"absent\.lock"):
        kernels.load_kernel(REPOSITORY, tmp_path / "absent.lock")


def test_a_model_is_kernelized_as_axolotl_checks_it(hub: Hub) -> None:
    add(hub)

    @kernels.use_kernel_forward_from_hub("Twice")
    class Layer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x + 1

    model = torch.nn.Sequential(Layer())
    repository = kernels.LayerRepository(REPOSITORY, layer_name="Twice", version=1)
    with kernels.use_kernel_mapping({"Twice": {"cpu": repository}}):
        kernels.kernelize(model, mode=kernels.Mode.INFERENCE, device="cpu")
    assert model(torch.ones(1)).item() == 2
    kernel = kernels_core.kernel_of(model[0])
    assert kernel is not None
    assert (kernel.layer, kernel.repository) == ("Twice", REPOSITORY)
    assert kernel.commit is not None
