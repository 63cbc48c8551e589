"""Whether a kernel may be loaded at all, which is decided before any of its files is downloaded.

Loading a kernel runs its code, so it must be trusted: by the Hub, which marks trusted publishers;
by the user, on a trust list on this machine; or by the caller, with `trust_remote_code`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import attrs

from kernels_core import environment
from kernels_core.errors import (
    HubError,
    HubUnreachableError,
    TrustListError,
    TrustUnknownError,
    UntrustedError,
)
from kernels_core.repository.names import PUBLISHER, REPO_ID, publisher_of, trusted_names
from kernels_core.repository.schema import parse_toml

FILE_VARIABLE = "KERNELS_TRUST_FILE"
LIST_VARIABLE = "KERNELS_TRUST"

# The form of each kind of entry. In a list without kinds an entry is of the first kind that it
# matches, so that 40 hexadecimal digits are a commit.
_KINDS = {
    "commits": (re.compile(r"[0-9a-fA-F]{40}"), "a commit with its 40 hexadecimal digits"),
    "digests": (re.compile(r"sha256:[0-9a-fA-F]{64}"), "a digest such as 'sha256:' and 64 digits"),
    "repositories": (REPO_ID, "a repository such as 'org/name'"),
    "publishers": (PUBLISHER, "a publisher such as 'org'"),
}


@attrs.frozen
class TrustList:
    """What a user trusts.

    Attributes:
        publishers: organizations or users, with all their repositories.
        repositories: repositories, "org/name", with all their commits.
        commits: commits, in lower case.
        digests: digests of single builds, as `hashes.tree_digest` makes them, in lower case.

    Example:
        >>> trusted = TrustList.of(["org", "other/activation"])
        >>> trusted.is_allowed("org/relu", "0" * 40)
        True
        >>> trusted.is_allowed("other/relu", "0" * 40)
        False
    """

    publishers: frozenset[str] = frozenset()
    repositories: frozenset[str] = frozenset()
    commits: frozenset[str] = frozenset()
    digests: frozenset[str] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[str]) -> TrustList:
        """Sort entries by their form: `org`, `org/name`, a commit, or `sha256:` and a digest.

        Raises:
            ValueError: an entry has none of these forms.
        """
        kinds: dict[str, list[str]] = {kind: [] for kind in _KINDS}
        for entry in entries:
            kinds[_kind_of(entry)].append(entry)
        return cls._of_kinds(kinds)

    @classmethod
    def _of_kinds(cls, kinds: dict[str, list[str]]) -> TrustList:
        exact = {kind: frozenset(entries) for kind, entries in kinds.items()}
        for kind in ("commits", "digests"):
            exact[kind] = frozenset(entry.lower() for entry in kinds.get(kind, ()))
        return cls(**exact)

    def is_allowed(self, repo_id: str, commit: str, digest: str | None = None) -> bool:
        """Whether the list names a repository, its publisher, the commit or the digest.

        Args:
            repo_id: the repository, "org/name".
            commit: the commit.
            digest: digest of the build; None when it is not known.
        """
        return self.entry_for(repo_id, commit, digest) is not None

    def entry_for(self, repo_id: str, commit: str, digest: str | None = None) -> str | None:
        """The entry that allows a build, the narrowest first; None when nothing does."""
        by_narrowness = (
            (digest, self.digests),
            (commit, self.commits),
            (repo_id, self.repositories),
            (publisher_of(repo_id), self.publishers),
        )
        return next((name for name, allowed in by_narrowness if name in allowed), None)

    def __or__(self, other: TrustList) -> TrustList:
        return TrustList(
            self.publishers | other.publishers,
            self.repositories | other.repositories,
            self.commits | other.commits,
            self.digests | other.digests,
        )


class TrustRecord(Protocol):
    """The Hub's last answer about each publisher, kept on this machine.

    Answers of different Hubs (`HF_ENDPOINT`) must be kept apart. Neither method raises when the
    record cannot be read or written: an answer that cannot be read does not count.
    """

    def recall(self, publisher: str) -> bool | None:
        """The last answer about a publisher; None when there is none."""
        ...

    def remember(self, publisher: str, trusted: bool) -> None:
        """Keep an answer, which replaces the previous one."""
        ...


def check_trust(
    repo_id: str,
    commit: str,
    *,
    trust_remote_code: bool | Iterable[str] = False,
    trust_list: TrustList | None = None,
    ask_hub: Callable[[str], bool],
    record: TrustRecord,
    digest: str | None = None,
    cached: bool = False,
) -> str:
    """Make sure that a kernel is trusted. To be called before its files are downloaded.

    Args:
        repo_id: the repository, "org/name".
        commit: the commit, 40 hexadecimal digits.
        trust_remote_code: True to trust this kernel, or a list of what to trust, with the same
            entries as `KERNELS_TRUST`.
        trust_list: what the user trusts; by default read from the file and the environment.
        ask_hub: asks the Hub whether a publisher is trusted, and raises a `HubError` when it
            cannot. It is only called when the answer matters.
        record: the Hub's earlier answers, which count when the Hub cannot be reached.
        digest: digest of the build, as `hashes.tree_digest` makes it; None when it is not known.
        cached: whether the commit's files are in the cache, so that an earlier yes of the Hub is
            enough and no request is needed.

    Returns:
        Why the kernel is trusted, for reports.

    Raises:
        UntrustedError: the kernel is not trusted; says how to allow it.
        TrustUnknownError: the Hub did not answer, and there is no earlier answer.
        TrustListError: the user's list is malformed.
        ValueError: `repo_id` or an entry of `trust_remote_code` is malformed.
        TypeError: `trust_remote_code` has the wrong type.

    Example:
        >>> class Nothing:
        ...     recall = staticmethod(lambda publisher: None)
        ...     remember = staticmethod(lambda publisher, trusted: None)
        >>> check_trust("org/name", "0" * 40, ask_hub=lambda publisher: True, record=Nothing())
        "the Hub trusts the publisher 'org'"
    """
    publisher = publisher_of(repo_id)
    reason = _named_by_caller(trust_remote_code, repo_id, commit, digest)
    reason = reason or _named_by_user(trust_list, repo_id, commit, digest)
    if reason:
        return reason
    if cached and record.recall(publisher):
        return _last_said_yes(publisher)
    try:
        trusted = ask_hub(publisher)
    except HubError as error:
        earlier = record.recall(publisher) if isinstance(error, HubUnreachableError) else None
        if earlier is None:
            raise _unknown(repo_id, commit, publisher, error) from error
        if earlier:
            return _last_said_yes(publisher)
        raise _untrusted(repo_id, commit, publisher, digest) from error
    record.remember(publisher, trusted)
    if trusted:
        return f"the Hub trusts the publisher {publisher!r}"
    raise _untrusted(repo_id, commit, publisher, digest)


def is_allowed_here(repo_id: str, trust_remote_code: bool | tuple[str, ...]) -> bool:
    """Whether the caller or the trust list names the repository, whatever its commit."""
    if isinstance(trust_remote_code, bool):
        return trust_remote_code or read_trust_list().is_allowed(repo_id, "")
    return (TrustList.of(trust_remote_code) | read_trust_list()).is_allowed(repo_id, "")


def _named_by_caller(
    trust_remote_code: object, repo_id: str, commit: str, digest: str | None
) -> str | None:
    names = trusted_names(trust_remote_code)
    if isinstance(names, bool):
        return "trust_remote_code=True" if names else None
    try:
        named = TrustList.of(names).entry_for(repo_id, commit, digest)
    except ValueError as error:
        raise ValueError(f"trust_remote_code: {error}") from None
    return f"trust_remote_code names {named!r}" if named else None


def _named_by_user(
    trust_list: TrustList | None, repo_id: str, commit: str, digest: str | None
) -> str | None:
    trusted = read_trust_list() if trust_list is None else trust_list
    named = trusted.entry_for(repo_id, commit, digest)
    return f"the trust list of this machine names {named!r}" if named else None


def _last_said_yes(publisher: str) -> str:
    return f"the Hub trusted the publisher {publisher!r} at the last request"


def _untrusted(repo_id: str, commit: str, publisher: str, digest: str | None) -> UntrustedError:
    build = f", or only this build: {digest}" if digest else ""
    return UntrustedError(
        f"{repo_id} is not trusted: the Hub does not list {publisher!r} as a trusted publisher of "
        f"kernels, and neither the trust list nor trust_remote_code allows it. Nothing was "
        f"loaded, because loading a kernel runs its code. If you trust it, add this commit to the "
        f"trust list, {_where()}: {commit}{build}. To trust all commits of the repository, add "
        f"{repo_id}, or pass trust_remote_code=[{repo_id!r}].",
        repository=repo_id,
        publisher=publisher,
        commit=commit,
    )


def _unknown(repo_id: str, commit: str, publisher: str, cause: HubError) -> TrustUnknownError:
    # No advice to switch the check off: a Hub that cannot be reached is no reason to trust.
    return TrustUnknownError(
        f"It is not known whether {publisher!r}, the publisher of {repo_id}, is trusted: the Hub "
        f"did not say, and the cache has no earlier answer. Nothing was loaded. Try again when "
        f"the Hub is reachable; a machine without a network needs a trust list, {_where()}. "
        f"The cause: {cause}",
        repository=repo_id,
        publisher=publisher,
        commit=commit,
    )


def _where() -> str:
    file = trust_file()
    return f"{file} or {LIST_VARIABLE}" if file else LIST_VARIABLE


# The user's list


def trust_file() -> Path | None:
    """The path of the user's trust list; None when there is no place for it.

    That is the path in `KERNELS_TRUST_FILE` (empty for none), else `kernels-core/trust.toml` in the
    user's configuration: `$XDG_CONFIG_HOME` or `~/.config`, on Windows `%APPDATA%`. Without a home
    directory there is none.

    Raises:
        EnvironmentVariableError: a variable names a home directory that does not exist.
    """
    if FILE_VARIABLE in os.environ:
        return environment.path(FILE_VARIABLE)
    base = environment.path("APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME")
    if base is None or not base.is_absolute():
        home = environment.home()
        if home is None:
            return None
        base = home / ".config"
    return base / "kernels-core" / "trust.toml"


def read_trust_list() -> TrustList:
    """Read what the user trusts: the entries of the trust file and those of `KERNELS_TRUST`.

    The file is TOML with the keys `publishers`, `repositories`, `commits` and `digests`, each a
    list of strings. The variable has entries of any kind, separated by commas.

    Raises:
        TrustListError: the file cannot be read, does not exist although `KERNELS_TRUST_FILE` names
            it, or an entry of the file or the variable is malformed.
        EnvironmentVariableError: a variable names a home directory that does not exist.

    Example:
        >>> import os
        >>> os.environ["KERNELS_TRUST_FILE"] = ""
        >>> os.environ["KERNELS_TRUST"] = "org, other/name"
        >>> read_trust_list().is_allowed("other/name", "0" * 40)
        True
    """
    return _read_file(trust_file()) | _read_variable()


def trusted_by_source() -> dict[str, TrustList]:
    """What the user trusts, by the file or variable that says so.

    Raises:
        TrustListError: as `read_trust_list`.

    Example:
        >>> import os
        >>> os.environ["KERNELS_TRUST_FILE"] = ""
        >>> os.environ["KERNELS_TRUST"] = "org"
        >>> sorted(trusted_by_source()["KERNELS_TRUST"].publishers)
        ['org']
    """
    file = trust_file()
    return {str(file): _read_file(file), LIST_VARIABLE: _read_variable()}


def _read_variable() -> TrustList:
    entries = (entry.strip() for entry in os.environ.get(LIST_VARIABLE, "").split(","))
    try:
        return TrustList.of(entry for entry in entries if entry)
    except ValueError as error:
        raise TrustListError(f"{LIST_VARIABLE}: {error}", source=LIST_VARIABLE) from None


def _read_file(path: Path | None) -> TrustList:
    try:
        content = path.read_text(encoding="utf-8") if path else ""
    except (FileNotFoundError, NotADirectoryError) as error:
        if FILE_VARIABLE not in os.environ:
            return TrustList()
        raise _bad_file(path, f"{FILE_VARIABLE} names this file, which does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_file(path, f"cannot be read: {error}") from error
    return _parse(content, path) if content else TrustList()


def _parse(content: str, path: Path | None) -> TrustList:
    try:
        kinds = parse_toml(content)
    except ValueError as error:
        raise _bad_file(path, f"is not TOML: {error}") from None
    for key, entries in kinds.items():
        if key not in _KINDS:
            raise _bad_file(path, f"key {key!r} is unknown; expected {', '.join(_KINDS)}.", key)
        if not isinstance(entries, list):
            raise _bad_file(path, f"key {key!r} must be a list of strings.", key)
        pattern, meaning = _KINDS[key]
        for entry in entries:
            if not isinstance(entry, str) or not pattern.fullmatch(entry):
                raise _bad_file(path, f"key {key!r}: {entry!r} is not {meaning}.", key)
    return TrustList._of_kinds(kinds)


def _bad_file(path: Path | None, problem: str, key: str = "") -> TrustListError:
    return TrustListError(f"{path}: {problem}", source=str(path), key=key)


def _kind_of(entry: Any) -> str:
    for kind, (pattern, _) in _KINDS.items():
        if isinstance(entry, str) and pattern.fullmatch(entry):
            return kind
    meanings = ", ".join(meaning for _, meaning in _KINDS.values())
    raise ValueError(f"{entry!r} is not one of these: {meanings}.")
