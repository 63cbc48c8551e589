"""The grammar of variant names."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernels_core.errors import VariantNameError
from kernels_core.hookspecs import BackendTag
from kernels_core.variants.names import (
    NativeVariant,
    NoarchVariant,
    Torch,
    TorchStableAbi,
    TvmFfi,
    UnknownTag,
    is_variant_name,
    parse,
)


def parse_tag(text: str) -> BackendTag | None:
    if text == "cpu":
        return BackendTag("cpu", "cpu")
    return BackendTag.parse(text, backend="cuda", prefix="cu", first_major=10)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        (
            "torch26-cxx98-cu118-x86_64-linux",
            NativeVariant(
                Torch((2, 6), False), BackendTag("cuda", "cu", (11, 8)), "x86_64", "linux"
            ),
        ),
        (
            "torch210-cxx11-rocm71-x86_64-linux",
            NativeVariant(Torch((2, 10), True), UnknownTag("rocm71"), "x86_64", "linux"),
        ),
        (
            "torch213-metal-aarch64-darwin",
            NativeVariant(Torch((2, 13)), UnknownTag("metal"), "aarch64", "darwin"),
        ),
        (
            "torch29-cu1210-x86_64-windows",
            NativeVariant(Torch((2, 9)), BackendTag("cuda", "cu", (12, 10)), "x86_64", "windows"),
        ),
        (
            "torch-stable-abi210-cpu-aarch64-linux",
            NativeVariant(TorchStableAbi((2, 10)), BackendTag("cpu", "cpu"), "aarch64", "linux"),
        ),
        (
            "tvm-ffi01-cpu-x86_64-linux",
            NativeVariant(TvmFfi((0, 1)), BackendTag("cpu", "cpu"), "x86_64", "linux"),
        ),
        ("torch-npu", NoarchVariant("npu")),
        ("torch-universal", NoarchVariant("universal")),
    ],
)
def test_a_name_is_read_and_written(name: str, variant: NativeVariant | NoarchVariant) -> None:
    assert parse(name, parse_tag) == variant
    assert str(variant) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "torch",
        "torch-",
        "torch2-cpu-x86_64-linux",
        "torch-cpu-x86_64-linux",
        "torch213-cpu-x86_64",
        "torch213-cpu-x86_64-linux-gnu",
        "torch213-cxx17-cpu-x86_64-linux",
        "torch213-cxx11-cxx11-cpu-x86_64-linux",
        "torch-stable-abi-cpu-x86_64-linux",
        "torch-stable-abi2-cpu-x86_64-linux",
        "tvm-ffi-cpu-x86_64-linux",
        "Torch-cpu",
        "torch-cpu\n",
        " torch-cpu",
        "torch-cpu/..",
        "torch\u0662\u0661\u0663-cpu-x86_64-linux",
        "torch2" + "9" * 5000 + "-cpu-x86_64-linux",
        "src",
    ],
)
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(VariantNameError) as caught:
        parse(name, parse_tag)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("torch2013-cpu-x86_64-linux", "torch213-cpu-x86_64-linux"),
        ("torch-stable-abi200-cpu-x86_64-linux", "torch-stable-abi20-cpu-x86_64-linux"),
        ("torch-stable-abi210-cxx11-cpu-x86_64-linux", "torch-stable-abi210-cpu-x86_64-linux"),
        ("tvm-ffi01-cxx11-cpu-x86_64-linux", "tvm-ffi01-cpu-x86_64-linux"),
    ],
)
def test_a_name_that_does_not_round_trip_is_refused(name: str, written: str) -> None:
    with pytest.raises(VariantNameError, match=f"must be written as '{written}'"):
        parse(name, parse_tag)


releases = st.tuples(st.integers(0, 9), st.integers(0, 9999))
frameworks = st.one_of(
    st.builds(Torch, releases, st.sampled_from([None, True, False])),
    st.builds(TorchStableAbi, releases),
    st.builds(TvmFfi, releases),
)
tags = st.one_of(
    st.just(BackendTag("cpu", "cpu")),
    st.tuples(st.integers(10, 99), st.integers(0, 99)).map(
        lambda version: BackendTag("cuda", "cu", version)
    ),
    st.sampled_from(["metal", "rocm710", "xpu202510", "acme1.2+x"]).map(UnknownTag),
)
words = st.from_regex(r"[a-z0-9_]{1,12}", fullmatch=True)
variants = st.one_of(
    st.builds(NativeVariant, frameworks, tags, words, words), st.builds(NoarchVariant, words)
)


@given(variants)
def test_every_variant_is_read_back_from_its_name(variant: NativeVariant | NoarchVariant) -> None:
    assert parse(str(variant), parse_tag) == variant
    assert is_variant_name(str(variant))


fragments = st.sampled_from(
    ["torch", "-", "stable", "abi", "tvm", "ffi", "2", "13", "cxx11", "cu", "cpu", "x86_64", "\n"]
)


@given(st.one_of(st.text(), st.lists(fragments, max_size=14).map("".join)))
@example("torch-stable-abi")
@example("\ud800")
def test_any_text_is_read_exactly_or_refused(text: str) -> None:
    if is_variant_name(text):
        assert str(parse(text, parse_tag)) == text
    else:
        with pytest.raises(VariantNameError):
            parse(text, parse_tag)
