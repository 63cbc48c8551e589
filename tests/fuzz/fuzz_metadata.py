"""Fuzz the reader of `metadata.json`."""

import json

from harness import fuzz

METADATA = {
    "name": "activation",
    "id": "_activation_cuda_1a2b3c4",
    "version": 3,
    "license": "Apache-2.0",
    "python-depends": ["einops"],
    "backend": {"type": "cuda", "archs": ["8.0", "9.0a", "12.0+PTX"]},
    "upstream": "https://example.com/activation",
    "digest": {"algorithm": "sha256", "files": {"__init__.py": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5"}},
    "kernel-depends": [{"repo-id": "org/other", "version": 1}],
    "provenance": {"dirty": True},
    "kernels-minver": "0.17.0",
}

fuzz(
    "torch-cuda",
    "metadata.json",
    [json.dumps(METADATA, indent=1).encode(), b"{}", b"\xef\xbb\xbf{}"],
)
