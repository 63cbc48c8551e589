"""Loading kernels from the Hub, and from repositories on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from kernels_core import environment
from kernels_core.errors import (
    HubNotFoundError,
    NoFittingBuildError,
    RepositoryNotFoundError,
    VersionNotFoundError,
)
from kernels_core.loading.loaded import load_build
from kernels_core.loading.resolver import FIRST_DEVICE, Resolver
from kernels_core.plugins import registry
from kernels_core.repository.local import LocalRepository
from kernels_core.repository.names import check_reference, check_repo_id
from kernels_core.variants.fit import BuildDecision

if TYPE_CHECKING:
    from kernels_core.locks.lock import Lock

Trust = bool | Iterable[str]
UserAgent = str | Mapping[str, str] | None


def get_kernel(
    repo_id: str,
    *,
    revision: str | None = None,
    version: int | str | None = None,
    backend: str | None = None,
    trust_remote_code: Trust = False,
    user_agent: UserAgent = None,
    check_arch: bool = True,
) -> ModuleType:
    """Load a kernel from the Hub.

    Args:
        repo_id: the repository, "org/name".
        revision: branch, tag, commit or ref such as "refs/pr/1"; "main" by default.
        version: instead of a revision, a PEP 440 specifier such as ">=0.0.3,<0.1" over the
            version tags, or an int, the branch of that major version.
        backend: which backend to choose a build for, for example "cpu"; by default the one that
            `KERNELS_BACKEND` names, else the most capable one of this machine.
        trust_remote_code: True to run whatever the repository contains, or a list of what to trust.
            Without it, the publisher must be trusted by the Hub, or the trust list of this machine
            must allow the kernel.
        user_agent: added to the user agent of requests, to identify the application.
        check_arch: whether the build must support this device, if it declares its architectures.

    Returns:
        The kernel's module. A second call returns the same one and sends no requests.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: `repo_id` or `version` is malformed, or both version and revision are given.
        LoadError: there is no such kernel, no build that fits, it is not trusted, or it cannot be
            downloaded; the subclass says which.
        KernelsError: the backend is not available, see `Registry.backend_for`.
        Exception: whatever the kernel's own code raises while it is imported, unchanged.

    Example:
        >>> kernel = get_kernel("kernels-community/activation", version=1)  # doctest: +SKIP
    """
    resolver = _resolver(
        repo_id,
        backend,
        revision,
        version,
        trust_remote_code=trust_remote_code,
        user_agent=user_agent,
        check_arch=check_arch,
    )
    return load_build(resolver.resolve(repo_id, revision, version))


def has_kernel(
    repo_id: str,
    *,
    revision: str | None = None,
    version: int | str | None = None,
    backend: str | None = None,
    trust_remote_code: Trust = False,
    check_arch: bool = True,
) -> bool:
    """Whether a kernel on the Hub has a build for this machine. Loads no code.

    Args:
        repo_id: the repository, "org/name".
        revision: branch, tag, commit or ref such as "refs/pr/1"; "main" by default.
        version: as for `get_kernel`.
        backend: as for `get_kernel`.
        trust_remote_code: accepted for symmetry; nothing of the repository is run.
        check_arch: whether the build must support this device, if it declares its architectures.

    Returns:
        False also if there is no such repository or version, or if a kernel that it depends on
        has no build.

    Raises:
        HubError: a request to the Hub failed, so it is unknown whether the kernel exists.
        TypeError, ValueError, KernelsError: as for `get_kernel`.

    Example:
        >>> has_kernel("kernels-community/activation", version=1)  # doctest: +SKIP
        True
    """
    resolver = _resolver(
        repo_id,
        backend,
        revision,
        version,
        check_arch=check_arch,
        trust_remote_code=trust_remote_code,
    )
    try:
        return resolver.has(repo_id, revision, version)
    except (HubNotFoundError, NoFittingBuildError, RepositoryNotFoundError, VersionNotFoundError):
        return False


def install_kernel(
    repo_id: str,
    *,
    revision: str | None = None,
    version: int | str | None = None,
    backend: str | None = None,
    trust_remote_code: Trust = False,
    local_files_only: bool = False,
    user_agent: UserAgent = None,
) -> Path:
    """Download and verify a kernel and the kernels that it depends on. Imports nothing.

    Args:
        repo_id: the repository, "org/name".
        revision: branch, tag, commit or ref such as "refs/pr/1"; "main" by default.
        version: as for `get_kernel`.
        backend: as for `get_kernel`; one that is named needs no device on this machine, and no
            Python package that the kernel depends on has to be installed.
        trust_remote_code: as for `get_kernel`.
        local_files_only: whether to use only what is in the cache.
        user_agent: added to the user agent of requests, to identify the application.

    Returns:
        The directory of the build.

    Raises:
        LoadError, TypeError, ValueError, KernelsError: as for `get_kernel`.

    Example:
        >>> path = install_kernel("kernels-community/activation", version=1)  # doctest: +SKIP
    """
    resolver = _resolver(
        repo_id,
        backend,
        revision,
        version,
        trust_remote_code=trust_remote_code,
        user_agent=user_agent,
        local_files_only=local_files_only,
        ahead=True,
    )
    return resolver.resolve(repo_id, revision, version).path


def get_local_kernel(
    repo_path: str | os.PathLike[str],
    *,
    backend: str | None = None,
    trust_remote_code: Trust = False,
    user_agent: UserAgent = None,
) -> ModuleType:
    """Load a kernel from a kernel repository on disk.

    A second call with the same repository gives the same module. Files that changed in between
    have no effect until the next process.

    Args:
        repo_path: the directory that contains `build`.
        backend: which backend to choose a build for, for example "cpu"; by default the one that
            `KERNELS_BACKEND` names, else the most capable one of this machine.
        trust_remote_code: as for `get_kernel`, for kernels on the Hub that this one depends on. The
            repository itself is trusted because you name it.
        user_agent: as for `get_kernel`.

    Returns:
        The kernel's module.

    Raises:
        TypeError: an argument has the wrong type.
        RepositoryNotFoundError: there is no kernel repository at the path.
        NoFittingBuildError: none of its builds fits; it has the reason for each.
        MetadataError: the chosen build's metadata is malformed.
        DependencyError: a package that the chosen build depends on is not installed.
        KernelsError: the backend is not available, see `Registry.backend_for`.
        Exception: whatever the kernel's own code raises while it is imported, unchanged.

    Example:
        >>> import tempfile
        >>> build = Path(tempfile.mkdtemp(), "build", "torch-universal")
        >>> build.mkdir(parents=True)
        >>> _ = (build / "__init__.py").write_text("answer = 42")
        >>> get_local_kernel(build.parents[1]).answer
        42
    """
    if not isinstance(repo_path, (str, os.PathLike)):
        raise TypeError(f"repo_path must be a str or a Path, got {repo_path!r}.")
    resolver = Resolver(
        registry().backend_or_default(backend), FIRST_DEVICE, trust_remote_code, user_agent
    )
    return load_build(resolver.resolve_local(repo_path))


def get_locked_kernel(
    repo_id: str,
    *,
    lockfile: str | os.PathLike[str] | None = None,
    backend: str | None = None,
    trust_remote_code: Trust = False,
    user_agent: UserAgent = None,
) -> ModuleType:
    """Load a kernel from the Hub, at the commit in a lock file.

    Args:
        repo_id: the repository, "org/name".
        lockfile: the lock file; by default the one in the metadata of the calling package.
        backend: as for `get_kernel`.
        trust_remote_code: as for `get_kernel`.
        user_agent: added to the user agent of requests, to identify the application.

    Returns:
        The kernel's module.

    Raises:
        LockFileNotFoundError: there is no lock file.
        LockFileError: the lock file is malformed.
        NotLockedError: it does not contain the repository.
        LoadError, TypeError, ValueError, KernelsError: as for `get_kernel`.

    Example:
        >>> kernel = get_locked_kernel("kernels-community/activation")  # doctest: +SKIP
    """
    resolver = _resolver(
        repo_id,
        backend,
        trust_remote_code=trust_remote_code,
        user_agent=user_agent,
        lock=_lock(lockfile),
    )
    return load_build(resolver.resolve(repo_id))


def load_kernel(
    repo_id: str,
    lockfile: str | os.PathLike[str] | None = None,
    *,
    backend: str | None = None,
    trust_remote_code: Trust = False,
) -> ModuleType:
    """Load a locked kernel from the cache. Sends no requests to the Hub.

    Args:
        repo_id: the repository, "org/name".
        lockfile: the lock file; by default the one in the metadata of the calling package.
        backend: as for `get_kernel`.
        trust_remote_code: as for `get_kernel`.

    Returns:
        The kernel's module.

    Raises:
        HubOfflineError: the kernel, or something that it needs, is not in the cache.
        LockFileNotFoundError, LockFileError, NotLockedError: as for `get_locked_kernel`.
        LoadError, TypeError, ValueError, KernelsError: as for `get_kernel`.

    Example:
        >>> kernel = load_kernel("kernels-community/activation")  # doctest: +SKIP
    """
    resolver = _resolver(
        repo_id,
        backend,
        trust_remote_code=trust_remote_code,
        local_files_only=True,
        lock=_lock(lockfile),
    )
    return load_build(resolver.resolve(repo_id))


def get_kernel_variants(
    repo: str | Path,
    *,
    revision: str | None = None,
    version: int | str | None = None,
    backend: str | None = None,
) -> list[BuildDecision]:
    """Decide for every build in a kernel repository whether it fits. Loads no code.

    Args:
        repo: a repository on the Hub, "org/name", or a directory that contains `build`, as a Path.
        revision: branch, tag or commit of a repository on the Hub; "main" by default.
        version: its version, as for `get_kernel`.
        backend: which backend to decide for; the default is that of `get_kernel`.

    Returns:
        The builds that fit, best first, then the others, each with the reason against it.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a repository on the Hub that is not named "org/name".
        RepositoryNotFoundError: there is no kernel repository at the path.
        VersionNotFoundError: there is no such version, branch or tag.
        HubError: a request to the Hub failed.
        KernelsError: the backend is not available, see `Registry.backend_for`.

    Example:
        >>> import tempfile
        >>> repository = Path(tempfile.mkdtemp())
        >>> (repository / "build" / "torch-abacus").mkdir(parents=True)
        >>> for decision in get_kernel_variants(repository):
        ...     print(decision.name, decision.reason or "fits")
        torch-abacus made for backend 'abacus'; ...
    """
    if not isinstance(repo, (str, os.PathLike)):
        raise TypeError(f"repo must be a str or a pathlib.Path, got {repo!r}.")
    if isinstance(repo, str):
        return list(_resolver(repo, backend, revision, version).decisions(repo, revision, version))
    chosen = registry().backend_or_default(backend)
    return list(
        LocalRepository(environment.expand_home(repo, "repo")).decisions(chosen, FIRST_DEVICE)
    )


def _lock(lockfile: str | os.PathLike[str] | None) -> Lock:
    if lockfile is not None and not isinstance(lockfile, (str, os.PathLike)):
        raise TypeError(f"lockfile must be a path, got {lockfile!r}.")
    # Takes 2 ms, and most programs have no lock.
    from kernels_core.locks.installed import find_lock

    return find_lock(None if lockfile is None else environment.expand_home(lockfile, "lockfile"))


def _resolver(
    repo_id: str,
    backend: str | None,
    revision: str | None = None,
    version: int | str | None = None,
    *,
    check_arch: bool = True,
    trust_remote_code: Trust = False,
    user_agent: UserAgent = None,
    local_files_only: bool = False,
    lock: Lock | None = None,
    ahead: bool = False,
) -> Resolver:
    check_repo_id(repo_id)
    check_reference(revision, version)
    if ahead:
        chosen, device = registry().backend_to_download_for(backend)
    else:
        chosen, device = registry().backend_or_default(backend), FIRST_DEVICE
    return Resolver(
        chosen,
        device if check_arch else None,
        trust_remote_code,
        user_agent,
        local_files_only,
        lock,
    )
