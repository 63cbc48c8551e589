"""The metadata of the distribution `kernels`, for programs that read its version."""

from __future__ import annotations

import os
from importlib.metadata import Distribution
from pathlib import Path


class KernelsDistribution(Distribution):
    """A distribution without files of its own."""

    def __init__(self, version: str) -> None:
        self._texts = {
            "METADATA": (
                f"Metadata-Version: 2.4\nName: kernels\nVersion: {version}\n"
                f"Summary: Provided by kernels-core\n"
            ),
            "top_level.txt": "kernels\n",
        }

    def read_text(self, filename: str) -> str | None:
        """The content of a file of the metadata; None when there is none."""
        return self._texts.get(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        """Where a file of the distribution is."""
        return Path(__file__).parent / path
