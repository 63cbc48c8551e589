"""Fixtures for the tests of all backends."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from kernels_core.host import HostInfo, TorchInfo

MakeHost = Callable[..., HostInfo]


@pytest.fixture
def make_host() -> MakeHost:
    """Make a host from the version of its torch, by default Linux on x86-64."""

    def make(torch: str | None, **changes: Any) -> HostInfo:
        linux = HostInfo("linux", "x86_64", "6.8", (3, 12), False)
        info = None if torch is None else TorchInfo(torch, (2, 13), True)
        return attrs.evolve(linux, torch=info, **changes)

    return make
