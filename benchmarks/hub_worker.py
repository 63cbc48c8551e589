"""One fresh process that loads kernels from a Hub and prints the times of its steps as JSON.

Usage: hub_worker.py (one | all) PACKAGE REFERENCES

REFERENCES is JSON: for every kernel its repository and how to name the commit, `{"version": 1}`,
`{"revision": ...}` or `{"lockfile": ...}`. Prints the start and end of importing the
package and declaring what to load, of loading, and of loading once more.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

Reference = dict[str, Any]


def load_one(api: Any, references: list[Reference]) -> Callable[[], None]:
    """A program that uses one kernel as a module."""
    (reference,) = references
    arguments = dict(reference)
    repo_id = arguments.pop("repo_id")

    def load() -> None:
        kernel = api.get_kernel(repo_id, **arguments)
        assert kernel.__name__, "no kernel"

    return load


def load_all(api: Any, references: list[Reference]) -> Callable[[], None]:
    """A program that kernelizes a model, every layer with a kernel of its own."""
    classes = []
    for number, reference in enumerate(references):
        cls = type(f"Layer{number}", (nn.Identity,), {"forward": lambda self, x: x})
        classes.append(api.use_kernel_forward_from_hub(cls.__name__)(cls))
        repository = _repository(api, "Twice", dict(reference))
        api.register_kernel_mapping({cls.__name__: {"cpu": repository}})

    def load() -> None:
        model = nn.Sequential(*(cls() for cls in classes))
        model = api.kernelize(model, mode=api.Mode.INFERENCE, device="cpu")
        # Figures of an implementation that replaced nothing would mean nothing.
        assert model(torch.ones(1)).item() == 2 ** len(classes), "not every layer runs its kernel"

    return load


def _repository(api: Any, layer_name: str, reference: Reference) -> Any:
    lockfile = reference.pop("lockfile", None)
    if lockfile is None:
        return api.LayerRepository(layer_name=layer_name, **reference)
    return api.LockedLayerRepository(layer_name=layer_name, lockfile=Path(lockfile), **reference)


def main() -> None:
    """Load twice, as the command line asks for."""
    what, package, references = sys.argv[1:]
    # The Hub client imports itself piece by piece, and asks the Hub something of its own once a
    # day. Both are over before the clock starts, whoever would have to wait for them.
    importlib.import_module("huggingface_hub.hf_api")
    importlib.import_module("huggingface_hub.utils").build_hf_headers()
    start = time.monotonic()
    api = importlib.import_module(package)
    load = {"one": load_one, "all": load_all}[what](api, json.loads(references))
    spans = [(start, time.monotonic())]
    for _ in range(2):
        start = time.monotonic()
        load()
        spans.append((start, time.monotonic()))
    print(json.dumps(spans))


if __name__ == "__main__":
    main()
