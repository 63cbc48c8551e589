"""Which commit a version or revision of a Hub repository means. No I/O.

Two generations of repositories exist. Older ones tag their versions `vX.Y.Z`, and a PEP 440
specifier chooses among the tags. Current ones keep a branch `vN` for each major version, and an int
chooses the branch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import attrs
from packaging.version import Version

from kernels_core.errors import VersionNotFoundError
from kernels_core.repository.names import check_reference
from kernels_core.repository.paths import is_safe

DEFAULT_REVISION = "main"

_COMMIT = re.compile(r"[0-9a-fA-F]{40}")
_SHORT_COMMIT = re.compile(r"[0-9a-fA-F]{7,39}")
_REF = re.compile(r"(?!.*(\.\.|/\.|@\{|\.lock(/|$)|\.$))[^\s~^:?*\[\\]+")
_VERSION_TAG = re.compile(r"v[0-9]+\.")
_MAJOR_BRANCH = re.compile(r"v(0|[1-9][0-9]{0,8})")
_SHOWN = 20


@attrs.frozen
class Refs:
    """The branches and tags of a repository.

    Attributes:
        branches: commit by name of the branch.
        tags: commit by name of the tag.
        others: commit by what else the Hub takes as a revision, such as `refs/pr/1` or the first
            digits of a commit, as far as it was asked.
    """

    branches: Mapping[str, str]
    tags: Mapping[str, str]
    others: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def of_names(cls, names: Mapping[str, str]) -> Refs:
        """Refs of which only the names are known: `v1.0` is a tag, `v1` a branch."""
        others = {name: names[name] for name in names if name.startswith("refs/")}
        tags = {name: names[name] for name in names if _VERSION_TAG.match(name)}
        branches = {name: names[name] for name in names if name not in {**others, **tags}}
        return cls(branches, tags, others)

    def only(self, wanted: Callable[[str], bool]) -> Refs:
        """Those at certain commits."""

        def some(named: Mapping[str, str]) -> dict[str, str]:
            return {name: commit for name, commit in named.items() if wanted(commit)}

        return Refs(some(self.branches), some(self.tags), some(self.others))

    def __or__(self, other: Refs) -> Refs:
        return Refs(
            {**self.branches, **other.branches},
            {**self.tags, **other.tags},
            {**self.others, **other.others},
        )


@attrs.frozen
class Pinned:
    """A commit, and how it was chosen.

    Attributes:
        ref: the branch or tag, or the commit itself where that was given.
        commit: the commit, 40 hexadecimal digits.
        version: the version of the ref: of a tag `vX.Y.Z`, or the int of a branch `vN`; else None.
    """

    ref: str
    commit: str
    version: Version | int | None = None


def is_commit(text: str) -> bool:
    """Whether a text is a whole commit: 40 hexadecimal digits."""
    return _COMMIT.fullmatch(text) is not None


def is_listed(refs: Refs, revision: str) -> bool:
    """Whether refs have all that the Hub knows about a revision.

    It lists branches and tags. Pull requests and the first digits of commits it has to be asked
    for, by names that `git check-ref-format` allows, which are safe as parts of paths and URLs.
    """
    if not (revision.startswith("refs/") or _SHORT_COMMIT.fullmatch(revision)):
        return True
    known = _find(refs, "", revision) is not None
    return known or _REF.fullmatch(revision) is None or not is_safe(revision)


def choose_ref(
    refs: Refs, *, repo_id: str, revision: str | None = None, version: int | str | None = None
) -> Pinned:
    """The commit that a version or revision means, "main" by default.

    A revision is a branch, a tag (the branch where both have the name; `refs/tags/NAME` means the
    tag), one of the other refs, or a whole commit, which needs no refs. A specifier takes the
    highest matching tag, an int the branch of that major version. Raises a VersionNotFoundError
    that lists what exists.
    """
    check_reference(revision, version)
    if version is None:
        return _by_revision(refs, repo_id, DEFAULT_REVISION if revision is None else revision)
    if isinstance(version, int):
        return _by_major(refs, repo_id, version)
    return _by_specifier(refs, repo_id, version)


def newer_versions(refs: Refs, pinned: Pinned) -> list[str]:
    """The refs of versions above the chosen one, newest first.

    Pre-releases count only above a pre-release. A ref at the same commit is not newer, and nothing
    is newer than a ref without a version.
    """
    chosen = pinned.version
    if chosen is None:
        return []
    if isinstance(chosen, int):
        commits = refs.branches
        newer = [ref for major, ref in _majors(refs).items() if major > chosen]
    else:
        commits = refs.tags
        newer = [ref for version, ref in _versions(refs).items() if _is_newer(version, chosen)]
    return [ref for ref in reversed(newer) if commits[ref] != pinned.commit]


def _is_newer(version: Version, chosen: Version) -> bool:
    return version > chosen and (chosen.is_prerelease or not version.is_prerelease)


def newest_version(refs: Refs) -> int | None:
    """The newest of the major versions that have a branch; None when there are none."""
    return max(_majors(refs), default=None)


def _by_revision(refs: Refs, repo_id: str, revision: str) -> Pinned:
    if is_commit(revision):
        return Pinned(revision.lower(), revision.lower())
    pinned = _find(refs, repo_id, revision)
    if pinned is not None:
        return pinned
    hint = ""
    if _SHORT_COMMIT.fullmatch(revision):
        hint = " A commit must be given with all of its 40 hexadecimal digits."
    raise VersionNotFoundError(
        f"{repo_id} has no branch or tag {revision!r}. Its branches: {_listed(refs.branches)}. "
        f"Its tags: {_listed(refs.tags)}.{hint}",
        repository=repo_id,
        available=(*refs.branches, *refs.tags),
    )


def _find(refs: Refs, repo_id: str, revision: str) -> Pinned | None:
    for prefix, pin in (("refs/heads/", _branch), ("refs/tags/", _tag)):
        if revision.startswith(prefix):
            return pin(refs, repo_id, revision[len(prefix) :])
    if revision in refs.others:
        return Pinned(revision, _commit(repo_id, revision, refs.others[revision]))
    return _branch(refs, repo_id, revision) or _tag(refs, repo_id, revision)


def _by_major(refs: Refs, repo_id: str, major: int) -> Pinned:
    pinned = _branch(refs, repo_id, f"v{major}")
    if pinned is None:
        raise _no_version(refs, repo_id, f"no version {major} (a branch named 'v{major}')")
    return pinned


def _by_specifier(refs: Refs, repo_id: str, specifier: str) -> Pinned:
    # Takes 2 ms, and most kernels are named by a major version.
    from packaging.specifiers import SpecifierSet

    versions = _versions(refs)
    allowed = SpecifierSet(specifier)
    # Pre-releases where nothing else matches, as PEP 440 says and not every `packaging` does.
    matching = list(allowed.filter(versions)) or list(allowed.filter(versions, prereleases=True))
    pinned = _tag(refs, repo_id, versions[max(matching)]) if matching else None
    if pinned is None:
        raise _no_version(refs, repo_id, f"no version tag that matches {specifier!r}")
    return pinned


def _branch(refs: Refs, repo_id: str, name: str) -> Pinned | None:
    if name not in refs.branches:
        return None
    return Pinned(name, _commit(repo_id, name, refs.branches[name]), _major_of(name))


def _tag(refs: Refs, repo_id: str, name: str) -> Pinned | None:
    if name not in refs.tags:
        return None
    return Pinned(name, _commit(repo_id, name, refs.tags[name]), _version_of(name))


def _commit(repo_id: str, ref: str, commit: str) -> str:
    # Commits become parts of paths and URLs, so those from a server are checked first.
    if is_commit(commit):
        return commit.lower()
    raise VersionNotFoundError(
        f"{repo_id}: the Hub says that {ref!r} is at {commit!r}, which is not a commit.",
        repository=repo_id,
        available=(),
    )


def _major_of(branch: str) -> int | None:
    match = _MAJOR_BRANCH.fullmatch(branch)
    return int(match[1]) if match else None


def _version_of(tag: str) -> Version | None:
    try:
        return Version(tag[1:]) if tag.startswith("v") else None
    except ValueError:  # not a version, or a number with thousands of digits
        return None


def _majors(refs: Refs) -> dict[int, str]:
    """The branches of major versions, in their order."""
    majors = {_major_of(name): name for name in refs.branches}
    return {major: majors[major] for major in sorted(m for m in majors if m is not None)}


def _versions(refs: Refs) -> dict[Version, str]:
    """The tags of versions, in their order. Of `v1.0` and `v1.0.0`, the longer is used."""
    versions = {_version_of(name): name for name in sorted(refs.tags, key=lambda n: (len(n), n))}
    return {version: versions[version] for version in sorted(v for v in versions if v is not None)}


def _no_version(refs: Refs, repo_id: str, what: str) -> VersionNotFoundError:
    majors, versions = _majors(refs), _versions(refs)
    return VersionNotFoundError(
        f"{repo_id} has {what}. Its major versions, which an int chooses: "
        f"{_listed(map(str, majors))}. Its version tags, which a specifier such as '>=0.1' "
        f"chooses among: {_listed(versions.values())}.",
        repository=repo_id,
        available=(*majors.values(), *versions.values()),
    )


def _listed(names: Iterable[str]) -> str:
    """Some names for a message, the last and so the newest of many."""
    every = list(names)
    shown = ", ".join(every[-_SHOWN:])
    return f"(of {len(every)}) ..., {shown}" if len(every) > _SHOWN else shown or "none"
