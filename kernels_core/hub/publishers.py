"""Asking the Hub about a publisher while other questions are on their way to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kernels_core.hub.client import client
from kernels_core.hub.records import PublisherRecord
from kernels_core.hub.trust import TrustList, read_trust_list
from kernels_core.hub.versions import is_commit
from kernels_core.repository.names import publisher_of

if TYPE_CHECKING:
    from kernels_core.hub.repository import HubRepository

AskHub = Callable[[str], bool]


@contextlib.contextmanager
def asking_for_trust(repository: HubRepository, revision: str | None) -> Iterator[AskHub]:
    """Start to ask about the publisher of a repository, if that will be needed.

    Args:
        repository: the repository.
        revision: the revision that is wanted.

    Returns:
        What `trust.check_trust` asks: it has the answer at hand, waits for it, or asks now.
    """
    earlier = PublisherRecord(repository.cache).recall(publisher_of(repository.repo_id))

    def ask(publisher: str) -> bool:
        if repository.is_offline:
            raise repository.not_known("its publisher's standing")
        return client().publisher_is_trusted(publisher, earlier=earlier)

    if not _will_be_asked(repository, revision, earlier):
        yield ask
        return
    with ThreadPoolExecutor(1, "kernels-trust") as pool:
        asked = pool.submit(ask, publisher_of(repository.repo_id))
        yield lambda publisher: asked.result()


def _will_be_asked(repository: HubRepository, revision: str | None, earlier: bool | None) -> bool:
    """Whether it is worth a thread; `trust.check_trust` has the say."""
    if repository.is_offline or client().is_asked_about(publisher_of(repository.repo_id)):
        return False
    if earlier and revision is not None and is_commit(revision):
        return False
    return not _is_vouched_for(repository)


def _is_vouched_for(repository: HubRepository) -> bool:
    trusted = repository.trust_remote_code
    named = TrustList() if isinstance(trusted, bool) else TrustList.of(trusted)
    return trusted is True or (named | read_trust_list()).is_allowed(repository.repo_id, "")
