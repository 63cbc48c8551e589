"""A repository on the Hub, downloaded for as long as it is checked.

Nothing loads the files from where they are written. The publisher need not be trusted: nothing is
imported.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from kernels_core.check.facts.build_names import is_selected
from kernels_core.check.facts.repository import HubFacts, Repository, read_repository
from kernels_core.errors import CheckError, KernelsError
from kernels_core.hub.answers import TreeFile
from kernels_core.hub.client import HubClient, client
from kernels_core.hub.install import download_file
from kernels_core.hub.progress import progress_bar
from kernels_core.hub.versions import Pinned, Refs, choose_ref, is_commit, newest_version
from kernels_core.parallel import in_parallel
from kernels_core.repository.metadata import read_repo_id
from kernels_core.repository.schema import InvalidError

_SHOWN_COMMIT = 12
# Errors that are not caused by the path.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EMFILE, errno.EIO)


@contextlib.contextmanager
def fetched(
    repo_id: str,
    revision: str | None,
    variants: tuple[str, ...],
) -> Iterator[Repository]:
    """Download the builds of a repository for as long as the context lasts.

    Raises `CheckError` for whatever goes wrong: an invalid name or revision, the Hub, the disk.
    """
    _check_name(repo_id)
    with contextlib.ExitStack() as stack:
        try:
            hub = client()
            pinned = _pin(hub, repo_id, revision)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kernels-")))
            unwritable = _download(hub, repo_id, pinned.commit, folder, variants)
            kind = hub.repository_type(repo_id) or "kernel"
        except (KernelsError, OSError) as error:
            raise CheckError(f"{repo_id} could not be checked. {error}", path=repo_id) from error
        yield read_repository(
            folder,
            variants=variants,
            subject=_subject(repo_id, pinned),
            hub=HubFacts(repo_id, pinned.ref, pinned.commit, kind),
            unwritable=unwritable,
        )


def _check_name(repo_id: str) -> None:
    try:
        read_repo_id(repo_id, "")
    except InvalidError:
        raise CheckError(
            f"There is no file or directory {repo_id!r}, and it is not the name of a repository on "
            f"the Hub, such as org/name.",
            path=repo_id,
        ) from None


def _pin(hub: HubClient, repo_id: str, revision: str | None) -> Pinned:
    if revision is not None and is_commit(revision):
        return choose_ref(Refs({}, {}), repo_id=repo_id, revision=revision)
    refs = hub.refs(repo_id, revision)
    newest = newest_version(refs) if revision is None else None
    return choose_ref(refs, repo_id=repo_id, revision=revision, version=newest)


def _download(
    hub: HubClient,
    repo_id: str,
    commit: str,
    folder: Path,
    variants: tuple[str, ...],
) -> tuple[tuple[str, str], ...]:
    """Download a commit. Returns the files that cannot be written here, each with the reason."""
    listing = hub.listing(repo_id, commit)
    unwritable = [(path, "the path is not safe to write") for path in listing.unsafe]
    (folder / "build").mkdir()
    places: list[TreeFile] = []
    for file in listing.files:
        variant, _, inside = file.path.removeprefix("build/").partition("/")
        if inside and not is_selected(variant, variants):
            (folder / "build" / variant).mkdir(exist_ok=True)
        elif reason := _make_place(folder / file.path):
            unwritable.append((file.path, reason))
        else:
            places.append(file)
    _download_all(hub, repo_id, commit, folder, places)
    return tuple(unwritable)


def _make_place(path: Path) -> str:
    """Create an empty file. Returns why that fails, where this system has no such path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("xb").close()
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        return f"another file has the same path: {error.strerror}"
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in _DISK_ERRORS:
            raise
        return f"the path is not valid on this system: {error}"
    return ""


def _download_all(
    hub: HubClient,
    repo_id: str,
    commit: str,
    folder: Path,
    files: Sequence[TreeFile],
) -> None:
    with progress_bar("Downloading", repo_id, sum(file.size for file in files)) as progress:

        def download(file: TreeFile) -> None:
            download_file(hub, repo_id, commit, file, folder / file.path, progress=progress)

        in_parallel(download, files)


def _subject(repo_id: str, pinned: Pinned) -> str:
    commit = pinned.commit[:_SHOWN_COMMIT]
    return f"{repo_id} at {commit if is_commit(pinned.ref) else f'{pinned.ref} ({commit})'}"
