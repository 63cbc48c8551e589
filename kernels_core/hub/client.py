"""Requests to the Hub: branches and tags, the files of a commit, publishers, and downloads.

Nothing is requested twice in a process: answers are kept, and threads that need the same one wait
for one request. The cache on disk is not used here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import quote

import attrs

from kernels_core.errors import (
    HubAnswerError,
    HubNotFoundError,
    HubRefusedError,
    HubUnreachableError,
)
from kernels_core.hub.answers import (
    BUILD_FOLDER,
    TreeFile,
    TreePage,
    read_file,
    read_publisher,
    read_refs,
    read_revision,
    read_tree_page,
)
from kernels_core.hub.single_flight import SingleFlight
from kernels_core.hub.transport import ATTEMPTS, Request, fetch, offline
from kernels_core.hub.versions import Pinned, Refs, is_listed

if TYPE_CHECKING:
    from kernels_core.hub.transport import Answer

T = TypeVar("T")

logger = logging.getLogger("kernels_core")

# The types of current and of older repositories of kernels.
REPOSITORY_TYPES = ("kernel", "model")

# If there is an earlier answer, a Hub that is down should not delay a program for long.
_ATTEMPTS_WITH_EARLIER = 2
_PAGES = 100
_FILES = 100_000


@attrs.frozen
class Listing:
    """What a commit has below `build`.

    Attributes:
        files: the files, in the order of their paths.
        unsafe: other files, with paths that must not be written anywhere.
    """

    files: tuple[TreeFile, ...]
    unsafe: tuple[str, ...]


class HubClient:
    """The Hub at `HF_ENDPOINT`. Each method may raise a `HubError`; see `transport.fetch`."""

    def __init__(self) -> None:
        self._once = SingleFlight()
        self._types: dict[str, str] = {}
        self._recalled: set[str] = set()

    @property
    def endpoint(self) -> str:
        """The address of the Hub."""
        from huggingface_hub import constants

        return str(constants.ENDPOINT)

    @property
    def is_offline(self) -> bool:
        """Whether HF_HUB_OFFLINE is set."""
        from huggingface_hub import constants

        return bool(constants.is_offline_mode())

    def repository_type(self, repo_id: str) -> str | None:
        """The type "kernel", or "model" for older repositories; None when not known yet."""
        return self._types.get(repo_id)

    def expect_type(self, repo_id: str, repository_type: str) -> None:
        """Try this type first when a repository is requested."""
        self._types.setdefault(repo_id, repository_type)

    def refs(
        self,
        repo_id: str,
        revision: str | None = None,
        *,
        agent: str = "",
        earlier: Refs | None = None,
    ) -> Refs:
        """The branches and tags of a repository, and the revision if it is another that exists.

        When the Hub is not reachable, `earlier` is used instead for the rest of the process.
        """
        refs = self._branches_and_tags(repo_id, agent, earlier)
        if revision is None or is_listed(refs, revision):
            return refs
        commit = self._commit_of(repo_id, revision, agent, earlier)
        if commit is None:
            return refs
        return attrs.evolve(refs, others={**refs.others, revision: commit})

    def _commit_of(
        self, repo_id: str, revision: str, agent: str, earlier: Refs | None
    ) -> str | None:
        known = earlier.others.get(revision) if earlier else None

        def send(request: Request) -> str:
            return fetch(request, read_revision, attempts=_attempts(known))

        def send_or_recall() -> str | None:
            path = f"revision/{quote(revision, safe='')}"
            try:
                return self._send_as_either_type(repo_id, path, send, agent)
            except HubNotFoundError as error:
                if error.missing == "repository":
                    raise
                return None
            except HubUnreachableError as error:
                if known is None:
                    raise
                logger.warning("Using the last known commit of %s. %s", revision, error)
                return known

        return self._once.get(("revision", self.endpoint, repo_id, revision), send_or_recall)

    def _branches_and_tags(self, repo_id: str, agent: str, earlier: Refs | None) -> Refs:

        def send(request: Request) -> Refs:
            return fetch(request, read_refs, attempts=_attempts(earlier))

        def send_or_recall() -> Refs:
            try:
                return self._send_as_either_type(repo_id, "refs", send, agent)
            except HubUnreachableError as error:
                if earlier is None:
                    raise
                logger.warning("Using the last known branches and tags of %s. %s", repo_id, error)
                self._recalled.add(repo_id)
                return earlier

        return self._once.get(("refs", self.endpoint, repo_id), send_or_recall)

    def known_refs(self, repo_id: str) -> Refs | None:
        """The branches and tags of a repository, if the Hub answered a request of this process."""
        if repo_id in self._recalled:
            return None
        refs: Refs | None = self._once.known(("refs", self.endpoint, repo_id))
        return refs

    def has_listed(self, repo_id: str, commit: str) -> bool:
        """Whether the Hub answered which files a commit has."""
        return self._once.known(("tree", self.endpoint, repo_id, commit)) is not None

    def invalidate(self, repo_id: str, pinned: Pinned) -> None:
        """Forget the files of a commit, the repository's branches and tags, and a revision."""
        self._once.forget(("revision", self.endpoint, repo_id, pinned.ref))
        self._once.forget(("refs", self.endpoint, repo_id))
        self._recalled.discard(repo_id)
        self._once.forget(("tree", self.endpoint, repo_id, pinned.commit))

    def tree(self, repo_id: str, commit: str, *, agent: str = "") -> tuple[TreeFile, ...]:
        """The files below `build` in a commit, in the order of their paths, all of them safe."""
        listed = self.listing(repo_id, commit, agent=agent)
        if listed.unsafe:
            raise HubAnswerError(
                f"{repo_id} has a file {listed.unsafe[0]!r} in commit {commit}, which cannot be "
                f"written safely.",
                repository=repo_id,
                request=f"list of files of {commit}",
            )
        return listed.files

    def listing(self, repo_id: str, commit: str, *, agent: str = "") -> Listing:
        """All files of a commit below `build`, including those that must not be written."""

        def all_pages(request: Request) -> Listing:
            return _all_pages(request, commit)

        def send() -> Listing:
            path = f"tree/{commit}/{BUILD_FOLDER}"
            try:
                return self._send_as_either_type(repo_id, path, all_pages, agent)
            except HubNotFoundError as error:
                if error.missing != "entry":
                    raise
                return Listing((), ())

        return self._once.get(("tree", self.endpoint, repo_id, commit), send)

    def publisher_is_trusted(self, publisher: str, *, earlier: bool | None = None) -> bool:
        """Whether the Hub lists a publisher as trusted. Only organizations can be.

        With an `earlier` answer, fewer attempts are made at a Hub that does not respond.
        """

        def send() -> bool:
            path = f"api/organizations/{quote(publisher, safe='')}/overview"
            try:
                request = self._request(path, publisher)
                return fetch(request, read_publisher, attempts=_attempts(earlier))
            except HubNotFoundError:
                return False

        return self._once.get(("publisher", self.endpoint, publisher), send)

    def publisher_is_requested(self, publisher: str) -> bool:
        """Whether this process has sent a request about a publisher, answered or not."""
        return self._once.is_requested(("publisher", self.endpoint, publisher))

    def download(
        self,
        repo_id: str,
        commit: str,
        file: TreeFile,
        target: BinaryIO,
        *,
        agent: str = "",
        progress: Callable[[int], object] = lambda count: None,
    ) -> None:
        """Download a file into an empty one. Its size is checked here, its content is not."""
        prefix = "" if self.repository_type(repo_id) == "model" else "kernels/"
        request = self._request(
            f"{prefix}{quote(repo_id)}/resolve/{commit}/{quote(file.path)}",
            repo_id,
            agent,
            # The size is that of the file itself, so the server must not compress it.
            headers={"accept-encoding": "identity"},
            received=target.tell,  # where another attempt continues
        )

        def read(answer: Answer) -> None:
            read_file(answer, commit, file.size, target, progress)

        fetch(request, read)

    def _send_as_either_type(
        self, repo_id: str, path: str, send: Callable[[Request], T], agent: str
    ) -> T:
        """Send a request about a repository, as either type until one exists."""
        expected = self.repository_type(repo_id)
        failure: HubNotFoundError | HubRefusedError | None = None
        for kind in sorted(REPOSITORY_TYPES, key=lambda kind: kind != expected):
            request = self._request(f"api/{kind}s/{quote(repo_id)}/{path}", repo_id, agent)
            try:
                answer = send(request)
            except (HubNotFoundError, HubRefusedError) as error:
                # Without a login, the Hub may refuse what does not exist.
                if getattr(error, "missing", "repository") != "repository":
                    self._types[repo_id] = kind
                    raise
                failure = failure or error
            else:
                self._types[repo_id] = kind
                return answer
        assert failure is not None
        raise failure

    def _request(
        self,
        path: str,
        repository: str,
        agent: str = "",
        *,
        headers: dict[str, str] | None = None,
        received: Callable[[], int] | None = None,
    ) -> Request:
        from huggingface_hub import constants

        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT if received else constants.HF_HUB_ETAG_TIMEOUT
        request = Request(
            f"{self.endpoint}/{path}",
            repository,
            headers=headers or {},
            agent=agent,
            timeout=float(timeout),
            received=received,
        )
        if self.is_offline:
            raise offline(request)
        return request


def _attempts(earlier: object) -> int:
    return ATTEMPTS if earlier is None else _ATTEMPTS_WITH_EARLIER


def _all_pages(request: Request, commit: str) -> Listing:
    def read(answer: Answer) -> TreePage:
        return read_tree_page(answer, commit)

    files: list[TreeFile] = []
    unsafe: list[str] = []
    params: dict[str, str] = {"recursive": "true", "expand": "false"}
    for _ in range(_PAGES):
        page = fetch(attrs.evolve(request, params=params), read)
        files += page.files
        unsafe += page.unsafe
        if page.following is None:
            return Listing(tuple(sorted(files, key=lambda file: file.path)), tuple(unsafe))
        if page.following == params or len(files) > _FILES:
            break
        params = page.following
    raise HubAnswerError(
        f"The list of files of {request.repository} does not end ({len(files)} files so far): "
        f"{request}",
        repository=request.repository,
        request=str(request),
    )


_client = HubClient()


def client() -> HubClient:
    """The client of this process."""
    return _client


def reset() -> None:
    """Forget every answer, so that requests are sent again."""
    global _client
    _client = HubClient()
