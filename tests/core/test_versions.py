"""Which commit a version or revision means."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kernels_core.errors import LoadError, VersionNotFoundError
from kernels_core.hub.versions import Pinned, Refs, choose_ref, newer_versions, newest_version


def commit(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


def refs(*, branches: str = "", tags: str = "") -> Refs:
    return Refs(
        {name: commit(f"branch {name}") for name in branches.split()},
        {name: commit(f"tag {name}") for name in tags.split()},
    )


def choose(there: Refs, revision: str | None = None, version: int | str | None = None) -> Pinned:
    return choose_ref(there, repo_id="org/name", revision=revision, version=version)


OLD = refs(branches="main", tags="v0.0.1 v0.0.3 v0.0.10 v0.1.0 v1.0.0rc1 nightly v-broken 2.0.0")
NEW = refs(branches="main v1 v2 v10 v01 vNext dev", tags="")


def test_without_a_version_it_is_the_main_branch() -> None:
    assert choose(OLD) == Pinned("main", commit("branch main"))


@pytest.mark.parametrize(
    ("specifier", "tag"),
    [
        (">=0.0.3,<0.1", "v0.0.10"),  # by number, not by text
        ("==0.0.3", "v0.0.3"),
        ("~=0.0.1", "v0.0.10"),
        ("<0.0.3", "v0.0.1"),
        ("", "v0.1.0"),  # any, but no pre-release
        (">=0.1", "v0.1.0"),
        (">=1.0rc0", "v1.0.0rc1"),  # a specifier that names a pre-release allows them
        ("!=0.1.0", "v0.0.10"),
    ],
)
def test_a_specifier_takes_the_highest_tag_that_matches(specifier: str, tag: str) -> None:
    assert choose(OLD, version=specifier) == Pinned(tag, commit(f"tag {tag}"), Version(tag))


def test_a_pre_release_is_chosen_where_there_is_nothing_else() -> None:
    assert choose(refs(tags="v1.0a1 v1.0a2"), version=">=0.1").ref == "v1.0a2"


def test_an_int_takes_the_branch_of_that_name() -> None:
    assert choose(NEW, version=10) == Pinned("v10", commit("branch v10"), 10)


def test_an_int_takes_neither_a_tag_nor_a_branch_spelt_otherwise() -> None:
    with pytest.raises(VersionNotFoundError):
        choose(refs(branches="main v01", tags="v1"), version=1)


@pytest.mark.parametrize(
    ("revision", "pinned"),
    [
        ("dev", Pinned("dev", commit("branch dev"))),
        ("v2", Pinned("v2", commit("branch v2"), 2)),
        ("v0.1.0", Pinned("v0.1.0", commit("tag v0.1.0"), Version("0.1.0"))),
        ("nightly", Pinned("nightly", commit("tag nightly"))),
        ("both", Pinned("both", commit("branch both"))),
        ("refs/tags/both", Pinned("both", commit("tag both"))),
        ("refs/heads/both", Pinned("both", commit("branch both"))),
        ("refs/odd", Pinned("refs/odd", commit("branch refs/odd"))),
    ],
)
def test_a_revision_is_a_branch_or_a_tag(revision: str, pinned: Pinned) -> None:
    there = refs(branches="main dev v2 both refs/odd", tags="v0.1.0 nightly both")
    assert choose(there, revision=revision) == pinned


def test_a_commit_is_taken_as_it_is() -> None:
    upper = commit("anything").upper()
    assert choose(refs(), revision=upper) == Pinned(upper.lower(), upper.lower())


def test_a_branch_cannot_take_the_place_of_a_commit() -> None:
    pinned = commit("the one that was meant")
    hostile = Refs({pinned: commit("another")}, {pinned: commit("a third")})
    assert choose(hostile, revision=pinned).commit == pinned


@pytest.mark.parametrize(
    ("there", "reference", "message"),
    [
        (OLD, {"version": ">=2"}, "'>=2'.*v0.0.1, v0.0.3, v0.0.10, v0.1.0, v1.0.0rc1"),
        (NEW, {"version": 3}, "no version 3.*1, 2, 10"),
        (NEW, {"version": ">=1"}, "an int chooses: 1, 2, 10.*: none"),
        (OLD, {"version": 1}, "an int chooses: none.*v0.0.10"),
        (OLD, {"revision": "v0.0.2"}, "no branch or tag 'v0.0.2'.*main.*nightly"),
        (NEW, {"revision": "refs/pr/1"}, "no branch or tag 'refs/pr/1'"),
        (NEW, {"revision": "refs/tags/v1"}, "no branch or tag"),
        (NEW, {"revision": ""}, "no branch or tag ''"),
        (NEW, {"revision": commit("x")[:10]}, "all of its 40 hexadecimal digits"),
        (refs(), {}, "no branch or tag 'main'.*none.*none"),
    ],
)
def test_what_is_not_there_is_an_error_that_lists_what_is(
    there: Refs, reference: dict[str, object], message: str
) -> None:
    with pytest.raises(VersionNotFoundError, match=f"(?s)org/name has .*{message}") as caught:
        choose_ref(there, repo_id="org/name", **reference)  # type: ignore[arg-type]
    assert isinstance(caught.value, LoadError)
    assert caught.value.repository == "org/name"
    assert set(caught.value.available) <= {*there.branches, *there.tags}


def test_of_very_many_versions_the_message_shows_the_newest() -> None:
    there = refs(tags=" ".join(f"v0.{n}.0" for n in range(10_000)))
    with pytest.raises(VersionNotFoundError) as caught:
        choose(there, version=">=1")
    assert "v0.9999.0" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert len(caught.value.available) == 10_000


def test_revision_and_version_together_are_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        choose(OLD, revision="main", version=1)


@pytest.mark.parametrize("version", [True, 1.0, b"1", ["1"]])
def test_a_version_of_another_type_is_refused(version: object) -> None:
    with pytest.raises(TypeError, match="version must be a specifier"):
        choose(OLD, version=version)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["0.0.3", "latest", ">=x", -1])
def test_a_malformed_version_is_refused(version: int | str) -> None:
    with pytest.raises(ValueError, match="version"):
        choose(OLD, version=version)


@pytest.mark.parametrize("bad", ["", "main", "../../etc", "a" * 39, "a" * 41, "g" * 40])
@pytest.mark.parametrize("reference", [{}, {"version": 1}, {"version": ">=0"}])
def test_a_commit_that_is_none_is_never_handed_on(bad: str, reference: dict[str, object]) -> None:
    hostile = Refs({"main": bad, "v1": bad}, {"v0.1": bad})
    with pytest.raises(VersionNotFoundError, match="not a commit"):
        choose_ref(hostile, repo_id="org/name", **reference)  # type: ignore[arg-type]


def test_names_with_absurd_numbers_are_no_versions() -> None:
    there = refs(branches=f"v{'9' * 5000} v1", tags=f"v{'9' * 5000} v{'1.' * 3000}1rcx v0.1")
    assert choose(there, version=">=0").ref == "v0.1"
    assert newer_versions(there, choose(there, version=1)) == []


def test_of_two_tags_of_one_version_the_same_is_always_chosen() -> None:
    names = ["v1", "v1.00", "v1.0.0"]
    chosen = set()
    for seed in range(20):
        random.Random(seed).shuffle(names)
        chosen.add(choose(refs(tags=" ".join(names)), version="==1").ref)
    assert chosen == {"v1.0.0"}


def test_newer_versions_come_newest_first() -> None:
    assert newer_versions(NEW, choose(NEW, version=1)) == ["v10", "v2"]
    assert newer_versions(OLD, choose(OLD, version="<0.0.5")) == ["v0.1.0", "v0.0.10"]
    assert newer_versions(OLD, choose(OLD, revision="v0.0.10")) == ["v0.1.0"]


def test_pre_releases_are_newer_only_to_pre_releases() -> None:
    there = refs(tags="v1.0rc1 v1.0rc2 v0.9")
    assert newer_versions(there, choose(there, revision="v1.0rc1")) == ["v1.0rc2"]
    assert newer_versions(there, choose(there, revision="v0.9")) == []


def test_nothing_is_newer_than_what_is_no_version() -> None:
    for revision in ("main", commit("x")):
        assert newer_versions(NEW, choose(NEW, revision=revision)) == []


def test_a_version_at_the_same_commit_is_not_newer() -> None:
    same = commit("same")
    there = Refs({"v1": same, "v2": same, "v3": commit("other")}, {})
    assert newer_versions(there, choose(there, version=1)) == ["v3"]


version_texts = st.builds(
    lambda numbers, suffix: "v" + ".".join(map(str, numbers)) + suffix,
    st.lists(st.integers(0, 12), min_size=1, max_size=3),
    st.sampled_from(["", "", "", "a1", "rc2", ".post1", ".dev3", "+local"]),
)
other_names = st.sampled_from(["main", "latest", "v", "version1", "vx.1", "0.1.0", "V1.0"])
tag_lists = st.lists(version_texts | other_names, max_size=12, unique=True)
specifiers = st.builds(
    lambda operator, numbers: operator + ".".join(map(str, numbers)),
    st.sampled_from([">=", "<=", ">", "<", "==", "!=", "~="]),
    st.lists(st.integers(0, 12), min_size=2, max_size=3),
) | st.sampled_from(["", ">=0.0.3,<0.1", ">=1.0rc1", "==1.*"])


@given(tags=tag_lists, specifier=specifiers, seed=st.randoms())
def test_the_choice_is_the_highest_match_whatever_the_order(
    tags: list[str], specifier: str, seed: random.Random
) -> None:
    versions = [Version(tag[1:]) for tag in tags if tag[0] == "v" and tag[1:2].isdigit()]
    allowed = SpecifierSet(specifier)
    matching = list(allowed.filter(versions)) or list(allowed.filter(versions, prereleases=True))
    shuffled = tags[:]
    seed.shuffle(shuffled)
    if not matching:
        with pytest.raises(VersionNotFoundError):
            choose(refs(tags=" ".join(tags)), version=specifier)
        return
    pinned = choose(refs(tags=" ".join(tags)), version=specifier)
    assert pinned == choose(refs(tags=" ".join(shuffled)), version=specifier)
    assert pinned.version == max(matching)
    assert Version(pinned.ref) == max(matching)
    assert pinned.commit == commit(f"tag {pinned.ref}")


@given(majors=st.sets(st.integers(0, 100), min_size=1), data=st.data())
def test_newer_majors_are_those_above_in_descending_order(
    majors: set[int], data: st.DataObject
) -> None:
    there = refs(branches="main " + " ".join(f"v{major}" for major in majors))
    chosen = data.draw(st.sampled_from(sorted(majors)))
    newer = newer_versions(there, choose(there, version=chosen))
    assert newer == [f"v{major}" for major in sorted(majors, reverse=True) if major > chosen]


@given(tags=tag_lists)
def test_newer_tags_are_all_above_and_none_is_left_out(tags: list[str]) -> None:
    there = refs(tags=" ".join(tags))
    known = {tag: Version(tag[1:]) for tag in tags if tag[0] == "v" and tag[1:2].isdigit()}
    assume(known)
    for tag, version in known.items():
        newer = newer_versions(there, choose(there, revision=tag))
        found = [Version(name) for name in newer]
        assert found == sorted(set(found), reverse=True)
        assert set(found) == {
            other
            for other in known.values()
            if other > version and (version.is_prerelease or not other.is_prerelease)
        }


def test_the_newest_major_version_is_by_number() -> None:
    assert newest_version(refs(branches="main v9 v10 v010", tags="v11")) == 10
    assert newest_version(refs(branches="main", tags="v11")) is None
