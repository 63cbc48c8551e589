"""Which kernels are trusted, and by whom."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_core.errors import (
    EnvironmentVariableError,
    HubAnswerError,
    HubError,
    HubNotFoundError,
    HubOfflineError,
    HubRefusedError,
    HubUnreachableError,
    LoadError,
    TrustListError,
    TrustUnknownError,
    UntrustedError,
)
from kernels_core.hub.trust import (
    TrustList,
    check_trust,
    read_trust_list,
    trust_file,
)
from kernels_core.repository.names import publisher_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = f"sha256:{'5e' * 32}"
NOBODY = TrustList()


class Hub:
    """The Hub's answer or error; keeps the publishers it was asked about."""

    def __init__(self, answer: bool | Exception) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def __call__(self, publisher: str) -> bool:
        self.asked.append(publisher)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Record:
    def __init__(self, **answers: bool) -> None:
        self.answers = answers

    def recall(self, publisher: str) -> bool | None:
        return self.answers.get(publisher)

    def remember(self, publisher: str, trusted: bool) -> None:
        self.answers[publisher] = trusted


UNREACHABLE = HubUnreachableError("no answer", repository="org/name", request="GET /org")
OFFLINE = HubOfflineError("offline", repository="org/name", request="GET /org")


def check(hub: Hub, record: Record | None = None, **options: Any) -> str:
    options = {"trust_list": NOBODY, "record": record or Record(), **options}
    return check_trust("org/name", COMMIT, ask_hub=hub, **options)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a trust list."""
    for variable in ("KERNELS_TRUST", "KERNELS_TRUST_FILE", "XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    return tmp_path


# With the Hub's answer


def test_a_publisher_that_the_hub_trusts_is_trusted_and_the_answer_kept() -> None:
    hub, record = Hub(True), Record()
    assert check(hub, record) == "the Hub trusts the publisher 'org'"
    assert hub.asked == ["org"]
    assert record.answers == {"org": True}


def test_one_that_it_does_not_is_an_error_that_says_how_to_allow_it() -> None:
    record = Record()
    with pytest.raises(UntrustedError) as caught:
        check(Hub(False), record, digest=DIGEST)
    error, text = caught.value, str(caught.value)
    assert (error.repository, error.publisher, error.commit) == ("org/name", "org", COMMIT)
    assert isinstance(error, LoadError)
    assert isinstance(error, PermissionError)
    for part in ("org/name", COMMIT, DIGEST, "KERNELS_TRUST", "trust_remote_code", "trust.toml"):
        assert part in text
    assert record.answers == {"org": False}
    assert str(pickle.loads(pickle.dumps(error))) == text


def test_what_the_error_offers_does_allow_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UntrustedError) as caught:
        check(Hub(False), trust_list=None, digest=DIGEST)
    for offered in (COMMIT, DIGEST, "org/name"):
        assert offered in str(caught.value)
        monkeypatch.setenv("KERNELS_TRUST", offered)
        assert offered in check(Hub(False), trust_list=None, digest=DIGEST)
        monkeypatch.delenv("KERNELS_TRUST")
        assert offered in check(Hub(False), trust_remote_code=[offered], digest=DIGEST)


def test_the_last_answer_replaces_the_one_before() -> None:
    record = Record(org=True)
    with pytest.raises(UntrustedError):
        check(Hub(False), record)
    with pytest.raises(UntrustedError):
        check(Hub(UNREACHABLE), record)


# Without the Hub's answer


@pytest.mark.parametrize("error", [UNREACHABLE, OFFLINE])
def test_when_the_hub_cannot_be_reached_its_last_answer_counts(error: Exception) -> None:
    assert "at the last request" in check(Hub(error), Record(org=True))
    with pytest.raises(UntrustedError) as caught:
        check(Hub(error), Record(org=False))
    assert caught.value.__cause__ is error
    with pytest.raises(TrustUnknownError):
        check(Hub(error), Record(other=True))


@pytest.mark.parametrize(
    "kind", [HubUnreachableError, HubOfflineError, HubRefusedError, HubAnswerError]
)
def test_not_being_able_to_ask_is_not_an_answer(kind: type[HubError]) -> None:
    record = Record()
    cause = kind("GET /api/organizations/org/overview failed", repository="", request="GET /")
    with pytest.raises(TrustUnknownError) as caught:
        check(Hub(cause), record)
    error = caught.value
    assert not isinstance(error, UntrustedError)
    assert error.__cause__ is cause
    assert (error.repository, error.publisher, error.commit) == ("org/name", "org", COMMIT)
    assert "GET /api/organizations/org/overview failed" in str(error)
    assert "trust_remote_code" not in str(error)
    assert record.answers == {}


@pytest.mark.parametrize("kind", [HubRefusedError, HubAnswerError, HubNotFoundError])
def test_a_hub_that_answers_nonsense_does_not_count_as_being_offline(kind: type[HubError]) -> None:
    with pytest.raises(TrustUnknownError):
        check(Hub(kind("?", repository="", request="GET /")), Record(org=True))


def test_an_error_of_the_program_is_not_taken_for_an_answer() -> None:
    with pytest.raises(ZeroDivisionError):
        check(Hub(ZeroDivisionError()), Record(org=True))


def test_what_is_cached_needs_no_question_after_a_yes() -> None:
    hub = Hub(UNREACHABLE)
    assert "at the last request" in check(hub, Record(org=True), cached=True)
    assert hub.asked == []


@pytest.mark.parametrize("record", [Record(), Record(org=False)])
def test_for_what_is_cached_the_hub_is_asked_after_a_no_or_nothing(record: Record) -> None:
    hub = Hub(True)
    assert check(hub, record, cached=True) == "the Hub trusts the publisher 'org'"
    assert hub.asked == ["org"]


def test_for_what_is_not_cached_the_hub_is_asked_even_after_a_yes() -> None:
    hub = Hub(False)
    with pytest.raises(UntrustedError):
        check(hub, Record(org=True))
    assert hub.asked == ["org"]


# The user's list and the caller's word

ENTRIES = ["org", "org/name", COMMIT, COMMIT.upper(), DIGEST, DIGEST.replace("e", "E")]
OTHERS = ["Org", "or", "org/other", "other/name", "org/name2", "f" * 40, f"sha256:{'0' * 64}"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_listed_is_trusted_without_the_hub(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(UNREACHABLE)
    check(hub, trust_list=TrustList.of([entry]), digest=DIGEST)
    check(hub, trust_remote_code=[entry], digest=DIGEST)
    check(hub, trust_remote_code=iter((*OTHERS, entry)), digest=DIGEST)
    monkeypatch.setenv("KERNELS_TRUST", f"{','.join(OTHERS)} , {entry},")
    check(hub, trust_list=None, digest=DIGEST)
    assert hub.asked == []


@pytest.mark.parametrize("entry", OTHERS)
def test_what_is_listed_says_nothing_about_others(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UntrustedError):
        check(Hub(False), trust_list=TrustList.of([entry]), digest=DIGEST)
    with pytest.raises(UntrustedError):
        check(Hub(False), trust_remote_code=[entry], digest=DIGEST)
    monkeypatch.setenv("KERNELS_TRUST", entry)
    with pytest.raises(UntrustedError):
        check(Hub(False), trust_list=None, digest=DIGEST)


def test_a_digest_that_is_not_known_allows_nothing() -> None:
    with pytest.raises(UntrustedError):
        check(Hub(False), trust_list=TrustList.of([DIGEST]))


def test_the_caller_may_trust_whatever_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS_TRUST", "no list is read, so that this does not matter: *")
    hub, record = Hub(False), Record()
    assert check(hub, record, trust_remote_code=True, trust_list=None) == "trust_remote_code=True"
    assert (hub.asked, record.answers) == ([], {})


@pytest.mark.parametrize("nothing", [False, (), []])
def test_the_caller_may_say_nothing(nothing: Any) -> None:
    with pytest.raises(UntrustedError):
        check(Hub(False), trust_remote_code=nothing)


@pytest.mark.parametrize("wrong", ["org/name", None, 1, 1.5])
def test_trust_remote_code_of_another_type_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="trust_remote_code must be a bool or a list"):
        check(Hub(True), trust_remote_code=wrong)


MALFORMED = ["", "*", "org/*", "org/", "/name", "a/b/c", "../x", "org name", "sha256:12", "-org"]


@pytest.mark.parametrize("entry", [*MALFORMED, 5, True, None])
def test_entries_of_no_known_form_are_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match="is not one of these: "):
        TrustList.of([entry])
    with pytest.raises(ValueError, match=r"trust_remote_code: .* is not one of these: "):
        check(Hub(True), trust_remote_code=["org/name", entry])


@pytest.mark.parametrize("repo_id", ["name", "org/", "/name", "org/../x", "org/a/b", "a b/c", ""])
def test_a_malformed_repository_is_refused_before_all_else(repo_id: str) -> None:
    with pytest.raises(ValueError, match="organization/name"):
        publisher_of(repo_id)
    with pytest.raises(ValueError, match="organization/name"):
        check_trust(repo_id, COMMIT, trust_remote_code=True, ask_hub=Hub(True), record=Record())


# The trust file


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_user_without_a_file_trusts_nobody() -> None:
    assert read_trust_list() == TrustList()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has another place")
def test_the_file_lies_in_the_users_configuration(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trust_file() == home / ".config" / "kernels-core" / "trust.toml"
    write(home / ".config" / "kernels-core" / "trust.toml", 'publishers = ["org"]')
    assert read_trust_list() == TrustList.of(["org"])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert trust_file() == tmp_path / "xdg" / "kernels-core" / "trust.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert trust_file() == home / ".config" / "kernels-core" / "trust.toml"


def test_on_windows_it_lies_in_the_application_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("APPDATA", str(tmp_path))
    assert trust_file() == tmp_path / "kernels-core" / "trust.toml"


def test_nothing_in_the_working_directory_is_taken_for_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user without a home
    monkeypatch.chdir(tmp_path)
    for place in ("~/.config", ".config", "."):
        write(tmp_path / place / "kernels-core" / "trust.toml", 'publishers = ["org"]')
    assert trust_file() is None
    assert read_trust_list() == TrustList()
    with pytest.raises(UntrustedError, match="to the trust list, KERNELS_TRUST"):
        check(Hub(False), trust_list=None)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KERNELS_TRUST_FILE", "~/trust.toml"),
        ("KERNELS_TRUST_FILE", "~nobody-of-that-name/trust.toml"),
        ("KERNELS_TRUST_FILE", "$NOT_SET/trust.toml"),
        ("APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME", "~/config"),
    ],
)
def test_a_variable_without_a_home_directory_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for home in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(home, "")
    written = Path(value) if value.endswith(".toml") else Path(value, "kernels-core", "trust.toml")
    write(tmp_path / written, 'publishers = ["org"]')
    monkeypatch.setenv(variable, value)
    with pytest.raises(EnvironmentVariableError, match=f"^{variable}=") as raised:
        check(Hub(False), trust_list=None)
    assert raised.value.variable == variable


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_that_is_no_absolute_path_has_no_trust_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, home)
    write(tmp_path / "relative" / ".config" / "kernels-core" / "trust.toml", "publishers = ['org']")
    assert trust_file() is None
    assert read_trust_list() == TrustList()


def test_a_home_that_is_no_directory_has_no_trust_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "USERPROFILE", "APPDATA"):
        monkeypatch.setenv(variable, os.devnull)
    assert read_trust_list() == TrustList()


@pytest.mark.parametrize("value", ["~/trust.toml", "$PLACE/trust.toml"])
def test_home_and_variables_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("KERNELS_TRUST_FILE", value)
    assert trust_file() == tmp_path / "trust.toml"


def test_a_variable_names_another_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / ".config" / "kernels-core" / "trust.toml", 'publishers = ["org"]')
    path = write(tmp_path / "mine.toml", 'publishers = ["mine"]')
    monkeypatch.setenv("KERNELS_TRUST_FILE", str(path))
    assert read_trust_list() == TrustList.of(["mine"])
    monkeypatch.setenv("KERNELS_TRUST_FILE", "")
    assert read_trust_list() == TrustList()


def test_a_file_that_is_named_and_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_TRUST_FILE", str(tmp_path / "nothing.toml"))
    with pytest.raises(TrustListError, match="KERNELS_TRUST_FILE names this file"):
        read_trust_list()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write(tmp_path / "trust.toml", "")
    monkeypatch.setenv("KERNELS_TRUST_FILE", str(path))
    return path


def test_file_and_variable_add_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        file,
        f"""
        # Checked by hand.
        publishers = ["org"]
        repositories = ["other/name"]
        commits = ["{COMMIT.upper()}"]
        digests = ["{DIGEST}"]
        """,
    )
    monkeypatch.setenv("KERNELS_TRUST", "third, fourth/name")
    assert read_trust_list() == TrustList(
        publishers=frozenset({"org", "third"}),
        repositories=frozenset({"other/name", "fourth/name"}),
        commits=frozenset({COMMIT}),
        digests=frozenset({DIGEST}),
    )


def test_a_publisher_that_looks_like_a_commit_can_be_named_in_the_file(file: Path) -> None:
    write(file, f'publishers = ["{COMMIT}"]')
    trusted = read_trust_list()
    assert trusted.is_allowed(f"{COMMIT}/name", "f" * 40)
    assert not trusted.is_allowed("org/name", COMMIT)


def test_the_list_is_read_when_it_is_used(file: Path) -> None:
    with pytest.raises(UntrustedError):
        check(Hub(False), trust_list=None)
    write(file, 'repositories = ["org/name"]')
    check(Hub(False), trust_list=None)


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ('publisher = ["org"]', "publisher", "'publisher' is unknown; expected commits"),
        ('[publishers]\norg = "yes"', "publishers", "must be a list"),
        ('publishers = "org"', "publishers", "must be a list"),
        ("publishers = [1]", "publishers", "1 is not a publisher"),
        ('publishers = ["org/name"]', "publishers", "'org/name' is not a publisher"),
        ('publishers = ["*"]', "publishers", "'\\*' is not a publisher"),
        ('repositories = ["org"]', "repositories", "'org' is not a repository"),
        ('commits = ["v1"]', "commits", "'v1' is not a commit"),
        (f'commits = ["{COMMIT[:12]}"]', "commits", "40 hexadecimal digits"),
        ('digests = ["sha256:0"]', "digests", "'sha256:0' is not a digest"),
        ("publishers = [", "", "is not TOML"),
        ("publishers = []\npublishers = []", "", "is not TOML"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_the_key(
    file: Path, text: str, key: str, message: str
) -> None:
    write(file, text)
    with pytest.raises(TrustListError, match=message) as caught:
        check(Hub(True), trust_list=None)
    assert (caught.value.source, caught.value.key) == (str(file), key)
    assert str(file) in str(caught.value)


def test_a_file_that_cannot_be_read_is_an_error(file: Path) -> None:
    file.write_bytes(b"\xff")
    with pytest.raises(TrustListError, match="cannot be read"):
        read_trust_list()
    file.unlink()
    file.mkdir()
    with pytest.raises(TrustListError, match="cannot be read"):
        read_trust_list()


@pytest.mark.parametrize("entry", [entry for entry in MALFORMED if entry])
def test_a_malformed_variable_is_an_error_that_names_it(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_TRUST", f"org,{entry}")
    with pytest.raises(TrustListError, match=r"KERNELS_TRUST: .* is not one of these: ") as caught:
        check(Hub(True), trust_list=None)
    assert caught.value.source == "KERNELS_TRUST"


# Always

_names = st.sampled_from(["org", "Org", "other", "org-2", "or"])
_repositories = st.builds("{}/{}".format, _names, st.sampled_from(["name", "Name", "name2"]))
_commits = st.sampled_from([COMMIT, "f" * 40, "0" * 40])
_entries = st.lists(_names | _repositories | _commits, max_size=4)
_answers = st.sampled_from([True, False, UNREACHABLE, OFFLINE])
_records = st.dictionaries(_names, st.booleans())


@given(
    repo_id=_repositories,
    commit=_commits,
    listed=_entries,
    named=st.booleans() | _entries,
    answer=_answers,
    known=_records,
    cached=st.booleans(),
)
def test_nothing_is_trusted_without_a_reason(
    repo_id: str,
    commit: str,
    listed: list[str],
    named: bool | list[str],
    answer: bool | Exception,
    known: dict[str, bool],
    cached: bool,
) -> None:
    publisher = repo_id.split("/")[0]
    allowed = {publisher, repo_id, commit}
    by_caller = named is True or (named is not False and bool(allowed & set(named)))
    by_user = bool(allowed & set(listed))
    reachable = isinstance(answer, bool)
    said = answer if reachable and not (cached and known.get(publisher)) else known.get(publisher)
    record = Record(**known)
    try:
        reason = check_trust(
            repo_id,
            commit,
            trust_remote_code=named,
            trust_list=TrustList.of(listed),
            ask_hub=Hub(answer),
            record=record,
            cached=cached,
        )
    except UntrustedError:
        assert (by_caller, by_user, said) == (False, False, False)
    except TrustUnknownError:
        assert (by_caller, by_user, said, reachable) == (False, False, None, False)
    else:
        assert by_caller or by_user or said
        assert reason
    changed = {name for name in record.answers if record.answers[name] != known.get(name)}
    assert changed <= {publisher}
    assert not changed or record.answers[publisher] is answer


def test_the_narrowest_entry_that_allows_a_build_is_named() -> None:
    trusted = TrustList.of(["org", "org/name", COMMIT])
    assert trusted.entry_for("org/name", COMMIT) == COMMIT
    assert trusted.entry_for("org/name", "0" * 40) == "org/name"
    assert trusted.entry_for("org/other", "0" * 40) == "org"
    assert trusted.entry_for("other/name", "0" * 40) is None
