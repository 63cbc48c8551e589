"""Environment variables: the usual spellings of yes and no, and no others."""

import pytest

from kernels_core import environment


@pytest.mark.parametrize("value", ["1", "true", "YES", " On ", "y"])
def test_yes(monkeypatch, value):
    monkeypatch.setenv("KERNELS_STRICT_PLUGINS", value)
    assert environment.flag("KERNELS_STRICT_PLUGINS") is True


@pytest.mark.parametrize("value", [None, "", "0", "False", "no", "OFF"])
def test_no(monkeypatch, value):
    monkeypatch.delenv("KERNELS_STRICT_PLUGINS", raising=False)
    if value is not None:
        monkeypatch.setenv("KERNELS_STRICT_PLUGINS", value)
    assert environment.flag("KERNELS_STRICT_PLUGINS") is False


def test_neither_names_the_variable(monkeypatch):
    monkeypatch.setenv("DISABLE_KERNEL_MAPPING", "maybe")
    with pytest.raises(ValueError, match="DISABLE_KERNEL_MAPPING='maybe' is neither yes nor no"):
        environment.flag("DISABLE_KERNEL_MAPPING")


@pytest.mark.parametrize(
    ("value", "names"),
    [(None, None), ("", set()), (" , ", set()), ("cpu", {"cpu"}), ("CPU, cuda,", {"cpu", "cuda"})],
)
def test_names(monkeypatch, value, names):
    monkeypatch.delenv("KERNELS_BACKENDS", raising=False)
    if value is not None:
        monkeypatch.setenv("KERNELS_BACKENDS", value)
    assert environment.names("KERNELS_BACKENDS") == names
