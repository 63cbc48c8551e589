"""What the Hub says: branches and tags, the files of a commit, publishers, the files themselves.

Nothing is asked twice in a process: an answer is kept, and threads that ask the same question at
the same time wait for one answer. The cache on disk plays no part here.
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
    read_tree_page,
)
from kernels_core.hub.single_flight import SingleFlight
from kernels_core.hub.transport import ATTEMPTS, Request, fetch, offline
from kernels_core.hub.versions import Refs

if TYPE_CHECKING:
    from httpx2 import Response

T = TypeVar("T")

logger = logging.getLogger("kernels_core")

# What current repositories of kernels are, and what older ones are.
REPOSITORY_TYPES = ("kernel", "model")

# With an earlier answer at hand, a Hub that is down should not hold up a program for long.
_ATTEMPTS_WITH_EARLIER = 2
_PAGES = 100
_FILES = 100_000


@attrs.frozen
class Listing:
    """What a commit has below `build`.

    Attributes:
        files: the files, in the order of their paths.
        unsafe: paths that must not be written anywhere, of files which are not among the others.
    """

    files: tuple[TreeFile, ...]
    unsafe: tuple[str, ...]


class HubClient:
    """The Hub that `HF_ENDPOINT` names, asked through the installed Hub client."""

    def __init__(self) -> None:
        self._once = SingleFlight()
        self._types: dict[str, str] = {}

    @property
    def endpoint(self) -> str:
        """The address of the Hub."""
        from huggingface_hub import constants

        return str(constants.ENDPOINT)

    @property
    def is_offline(self) -> bool:
        """Whether the Hub client's switch for offline work is on."""
        from huggingface_hub import constants

        return bool(constants.is_offline_mode())

    def repository_type(self, repo_id: str) -> str | None:
        """What type a repository has: "kernel", or "model" for older ones; None if not known."""
        return self._types.get(repo_id)

    def expect_type(self, repo_id: str, repository_type: str) -> None:
        """Have a repository asked for as this type first.

        Args:
            repo_id: the repository.
            repository_type: what it was when it was last loaded.
        """
        self._types.setdefault(repo_id, repository_type)

    def refs(self, repo_id: str, *, agent: str = "", earlier: Refs | None = None) -> Refs:
        """The branches and tags of a repository.

        Args:
            repo_id: the repository, "org/name".
            agent: what the application wants the Hub to know of it.
            earlier: what the Hub said before. It stands in, for the rest of the process, when the
                Hub cannot be reached.

        Raises:
            HubError: the Hub cannot be asked, or says no; see `transport.fetch`.
        """

        def ask(request: Request) -> Refs:
            return fetch(request, read_refs, attempts=_attempts(earlier))

        def ask_or_recall() -> Refs:
            try:
                return self._ask_repository(repo_id, "refs", ask, agent)
            except HubUnreachableError as error:
                if earlier is None:
                    raise
                logger.warning("Using the versions of %s as last seen. %s", repo_id, error)
                return earlier

        return self._once.get(("refs", self.endpoint, repo_id), ask_or_recall)

    def known_refs(self, repo_id: str) -> Refs | None:
        """The branches and tags of a repository, when this process has asked for them."""
        refs: Refs | None = self._once.known(("refs", self.endpoint, repo_id))
        return refs

    def doubt(self, repo_id: str, commit: str) -> None:
        """Forget what the Hub said of a commit, and which branches and tags point to commits.

        Args:
            repo_id: the repository, "org/name".
            commit: the commit.
        """
        self._once.forget(("refs", self.endpoint, repo_id))
        self._once.forget(("tree", self.endpoint, repo_id, commit))

    def tree(self, repo_id: str, commit: str, *, agent: str = "") -> tuple[TreeFile, ...]:
        """The files below `build` in a commit, in the order of their paths.

        Args:
            repo_id: the repository, "org/name".
            commit: the commit.
            agent: what the application wants the Hub to know of it.

        Raises:
            HubAnswerError: there are files that must not be written anywhere, or far too many.
            HubError: the Hub cannot be asked, or says no; see `transport.fetch`.
        """
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
        """All that a commit has below `build`, also what must not be written.

        Args:
            repo_id: the repository, "org/name".
            commit: the commit.
            agent: what the application wants the Hub to know of it.

        Raises:
            HubAnswerError: there are far too many files.
            HubError: the Hub cannot be asked, or says no; see `transport.fetch`.
        """

        def all_pages(request: Request) -> Listing:
            return _all_pages(request, commit)

        def ask() -> Listing:
            path = f"tree/{commit}/{BUILD_FOLDER}"
            try:
                return self._ask_repository(repo_id, path, all_pages, agent)
            except HubNotFoundError as error:
                if error.missing != "entry":
                    raise
                return Listing((), ())

        return self._once.get(("tree", self.endpoint, repo_id, commit), ask)

    def publisher_is_trusted(self, publisher: str, *, earlier: bool | None = None) -> bool:
        """Whether the Hub counts a publisher among those that it trusts to publish kernels.

        Args:
            publisher: the organization or user.
            earlier: what the Hub said before. Where there is something to go by, less patience is
                spent on a Hub that does not answer.

        Raises:
            HubError: the Hub cannot be asked. Not for a publisher who is no organization: only
                organizations are trusted.
        """

        def ask() -> bool:
            path = f"api/organizations/{quote(publisher, safe='')}/overview"
            try:
                request = self._request(path, publisher)
                return fetch(request, read_publisher, attempts=_attempts(earlier))
            except HubNotFoundError:
                return False

        return self._once.get(("publisher", self.endpoint, publisher), ask)

    def is_asked_about(self, publisher: str) -> bool:
        """Whether this process has asked about a publisher, or is asking now."""
        return self._once.is_asked(("publisher", self.endpoint, publisher))

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
        """Download a file. What arrives has the right size, and is not checked otherwise.

        Args:
            repo_id: the repository, "org/name".
            commit: the commit.
            file: the file.
            target: where to write it: an empty file.
            agent: what the application wants the Hub to know of it.
            progress: told the number of bytes as they arrive, a negative one when they are lost.

        Raises:
            HubError: the Hub cannot be asked, or says no; see `transport.fetch`.
        """
        prefix = "" if self.repository_type(repo_id) == "model" else "kernels/"
        request = self._request(
            f"{prefix}{quote(repo_id)}/resolve/{commit}/{quote(file.path)}",
            repo_id,
            agent,
            # The size is that of the file itself, so the server must not compress it.
            headers={"accept-encoding": "identity"},
            is_download=True,
        )

        def read(response: Response) -> None:
            try:
                read_file(response, commit, file.size, target, progress)
            finally:
                # The next attempt, if any, goes on where this one stopped.
                request.headers["range"] = f"bytes={target.tell()}-"

        fetch(request, read)

    def _ask_repository(
        self, repo_id: str, path: str, ask: Callable[[Request], T], agent: str
    ) -> T:
        """Ask for something of a repository, of whichever type it is."""
        expected = self.repository_type(repo_id)
        failure: HubNotFoundError | HubRefusedError | None = None
        for kind in sorted(REPOSITORY_TYPES, key=lambda kind: kind != expected):
            request = self._request(f"api/{kind}s/{quote(repo_id)}/{path}", repo_id, agent)
            try:
                answer = ask(request)
            except (HubNotFoundError, HubRefusedError) as error:
                # The Hub may refuse, to someone not logged in, what does not exist.
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
        is_download: bool = False,
    ) -> Request:
        from huggingface_hub import constants

        timeout = (
            constants.HF_HUB_DOWNLOAD_TIMEOUT if is_download else constants.HF_HUB_ETAG_TIMEOUT
        )
        request = Request(
            f"{self.endpoint}/{path}",
            repository,
            headers=headers or {},
            agent=agent,
            timeout=float(timeout),
        )
        if self.is_offline:
            raise offline(request)
        return request


def _attempts(earlier: object) -> int:
    return ATTEMPTS if earlier is None else _ATTEMPTS_WITH_EARLIER


def _all_pages(request: Request, commit: str) -> Listing:
    def read(response: Response) -> TreePage:
        return read_tree_page(response, commit)

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
    """Forget every answer, so that the Hub is asked again."""
    global _client
    _client = HubClient()
