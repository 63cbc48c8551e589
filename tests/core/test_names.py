"""Names of repositories and of what is wanted of them, as users write them."""

from __future__ import annotations

import pytest

from kernels_core.repository.names import check_reference, check_repo_id


def test_the_name_of_a_repository_has_two_parts() -> None:
    check_repo_id("org/activation")
    for malformed in ("activation", "../activation", "org/../activation", "or g/na me", "org/", ""):
        with pytest.raises(ValueError, match="must have the form 'organization/name', got"):
            check_repo_id(malformed)
    with pytest.raises(TypeError, match="repo_id must be a str such as 'org/name', got 1"):
        check_repo_id(1)


@pytest.mark.parametrize(
    ("revision", "version"), [(None, None), ("main", None), (None, 1), (None, ">=0.0.3,<0.1")]
)
def test_a_commit_may_be_named_in_one_way(revision: object, version: object) -> None:
    check_reference(revision, version)


@pytest.mark.parametrize(
    ("revision", "version", "error", "message"),
    [
        ("main", 1, ValueError, "Give revision or version, not both"),
        (None, "0.0.3", ValueError, "is not a PEP 440 specifier .* write '==0.0.3'"),
        (None, -1, ValueError, "must not be negative, got -1"),
        (None, True, TypeError, "version must be a specifier .* got True"),
        (1, None, TypeError, "revision must be a branch, tag or commit, got 1"),
    ],
)
def test_what_names_no_commit_is_refused(
    revision: object, version: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_reference(revision, version)
