"""`BackendTag.parse`, which parses `<prefix><major><minor>` for all versioned tags."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernels_core.hookspecs import BackendTag

FIRST_MAJORS = {"cu": 10, "rocm": 4, "xpu": 2000}


def parse(text: str, prefix: str = "cu") -> BackendTag | None:
    return BackendTag.parse(text, backend="b", prefix=prefix, first_major=FIRST_MAJORS[prefix])


@pytest.mark.parametrize(
    ("prefix", "text", "version"),
    [
        ("cu", "cu118", (11, 8)),
        ("cu", "cu128", (12, 8)),
        ("cu", "cu1210", (12, 10)),
        ("cu", "cu130", (13, 0)),
        ("rocm", "rocm64", (6, 4)),
        ("rocm", "rocm710", (7, 10)),
        ("rocm", "rocm100", (10, 0)),
        ("rocm", "rocm1012", (10, 12)),
        ("xpu", "xpu20252", (2025, 2)),
        ("xpu", "xpu202510", (2025, 10)),
        ("xpu", "xpu20260", (2026, 0)),
    ],
)
def test_versions_as_they_occur(prefix: str, text: str, version: tuple[int, int]) -> None:
    tag = parse(text, prefix)
    assert tag == BackendTag("b", prefix, version)
    assert str(tag) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cu",
        "cu1",
        "cu12",
        "cu00",
        "cu0128",
        "cu1208",
        "cu1000",
        "cu12\uff18",
        "cu12\u0668",
        "cu²³⁴",
        "cu12 8",
        " cu128",
        "cu128 ",
        "cu128\n",
        "cu-128",
        "cu+128",
        "cu12.8",
        "cu1_28",
        "CU128",
        "cuda128",
        "cu" + "1" * 5000,
        "rocm71",
        "cpu",
        "128",
    ],
)
def test_hostile_and_foreign_text_is_no_tag(text: str) -> None:
    assert parse(text) is None


@given(
    prefix=st.sampled_from(sorted(FIRST_MAJORS)),
    offset=st.integers(0, 9),
    minor=st.integers(0, 999),
)
def test_what_a_tag_writes_is_read_back(prefix: str, offset: int, minor: int) -> None:
    tag = BackendTag("b", prefix, (FIRST_MAJORS[prefix] + offset, minor))
    assert parse(str(tag), prefix) == tag


@given(text=st.text() | st.from_regex(r"(cu|rocm|xpu)\d+", fullmatch=True))
@example(text="cu1280")
@example(text="rocm401")
def test_whatever_is_read_is_written_the_same(text: str) -> None:
    for prefix in FIRST_MAJORS:
        tag = parse(text, prefix)
        assert tag is None or str(tag) == text


@given(text=st.from_regex(r"(cu|rocm|xpu|cpu|u)[0-9]{1,6}", fullmatch=True))
def test_no_text_belongs_to_two_prefixes(text: str) -> None:
    assert sum(parse(text, prefix) is not None for prefix in FIRST_MAJORS) <= 1


def test_a_prefix_is_text_not_a_pattern() -> None:
    assert BackendTag.parse("c+12", backend="b", prefix="c+", first_major=1) is not None
    assert BackendTag.parse("cc12", backend="b", prefix="c+", first_major=1) is None
