"""Getting chosen kernels onto this machine, ahead of the programs and bundles that want them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import attrs

from kernels_core.errors import KernelsError, NoFittingBuildError, RepositoryNotFoundError
from kernels_core.hub.install import HubBuild
from kernels_core.hub.repository import HubRepository
from kernels_core.hub.versions import is_commit
from kernels_core.loading.resolver import Resolver
from kernels_core.locks.lock import Lock, LockedKernel
from kernels_core.locks.project import Wanted
from kernels_core.repository.builds import Build

_PARALLEL = 4
_FIRST_DEVICE = 0


@attrs.frozen
class Order:
    """A kernel to get, with all that it needs.

    Attributes:
        wanted: the kernel.
        lock: the lock that says at which commits; None for no lock.
    """

    wanted: Wanted
    lock: Lock | None = None

    @classmethod
    def of_lock(cls, lock: Lock) -> list[Order]:
        """Everything that a lock names.

        Example:
            >>> Order.of_lock(Lock(()))
            []
        """
        # What others need comes with them; of an old lock it is not known what that is.
        own = [kernel for kernel in lock.kernels if kernel.direct is not False]
        return [cls(Wanted(kernel.repo_id), _seen_from(kernel, lock)) for kernel in own]


def _seen_from(kernel: LockedKernel, lock: Lock) -> Lock:
    """A lock in which a kernel is the one that its project asks for."""
    kernels = (attrs.evolve(other, direct=other is kernel) for other in lock.kernels)
    return attrs.evolve(lock, kernels=tuple(kernels))


@attrs.frozen
class Gathered:
    """Builds of one commit that are on this machine, whole and verified.

    Attributes:
        repository: their repository.
        commit: their commit.
        builds: the builds by the names of their variants.
    """

    repository: HubRepository
    commit: str
    builds: Mapping[str, HubBuild]

    @property
    def size(self) -> int:
        """Number of bytes of all their files."""
        return sum(file.size for build in self.builds.values() for file in build.files.values())


@attrs.frozen
class Outcome:
    """What became of an order.

    Attributes:
        order: the order.
        gathered: what was got: the kernel first, then what it needs.
        error: what went wrong; None when nothing did.
    """

    order: Order
    gathered: tuple[Gathered, ...] = ()
    error: KernelsError | None = None


_Get = Callable[[Order], Iterable[Gathered]]


@attrs.frozen
class Selection:
    """Which builds of a kernel to get, and with whose trust.

    Attributes:
        variants: patterns of the names of variants, as in a shell; None for the builds that fit the
            first device of a backend.
        backend: name of that backend; None for the most capable one of this machine. Patterns need
            no backend: any machine can get builds for any other.
        trust: what to trust this time; see `trust.check_trust`.
    """

    variants: tuple[str, ...] | None = None
    backend: str | None = None
    trust: tuple[str, ...] = ()


def gather(orders: Sequence[Order], selection: Selection) -> list[Outcome]:
    """Get kernels, and all that they need, onto this machine. Imports nothing.

    One that cannot be had does not keep the others from being got.

    Args:
        orders: the kernels.
        selection: which builds of them.

    Raises:
        KernelsError: the backend is not there, see `Registry.backend_for`.

    Example:
        >>> gather([], Selection(variants=("*",)))
        []
    """
    get = _for_device(selection) if selection.variants is None else _by_name(selection)

    def attempt(order: Order) -> Outcome:
        try:
            return Outcome(order, tuple(get(order)))
        except KernelsError as error:
            return Outcome(order, error=error)

    with ThreadPoolExecutor(_PARALLEL, "kernels-gather") as pool:
        return list(pool.map(attempt, orders))


def merged(outcomes: Iterable[Outcome]) -> list[Gathered]:
    """What was got in all, each build once, by repository and commit."""
    found: dict[tuple[str, str], Gathered] = {}
    for outcome in outcomes:
        for new in outcome.gathered:
            key = new.repository.repo_id, new.commit
            before = found.get(key)
            builds = {**before.builds, **new.builds} if before else new.builds
            found[key] = attrs.evolve(new, builds=builds)
    return [found[key] for key in sorted(found)]


# The builds for one device


def _for_device(selection: Selection) -> _Get:
    from kernels_core.plugins import registry

    name = selection.backend
    backend = registry().backend_for(name) if name else registry().default_backend()
    resolver = Resolver(backend, _FIRST_DEVICE, selection.trust)
    return lambda order: _chosen(order, resolver)


def _chosen(order: Order, resolver: Resolver) -> Iterator[Gathered]:
    wanted = order.wanted
    build = attrs.evolve(resolver, lock=order.lock).resolve(
        wanted.repo_id, wanted.revision, wanted.version
    )
    for each in dict.fromkeys(_with_dependencies(build)):
        if each.commit is None:
            raise RepositoryNotFoundError(
                f"{each.repository} is a directory that LOCAL_KERNELS puts in the place of a "
                f"repository of the Hub. Unset the variable to get what the Hub has.",
                repository=each.repository,
            )
        repository = resolver.repository(each.repository)
        builds = repository.builds(each.commit)
        yield Gathered(repository, each.commit, {each.variant: builds[each.variant]})


def _with_dependencies(build: Build) -> Iterator[Build]:
    yield build
    for _, dependency in build.dependencies:
        yield from _with_dependencies(dependency)


# The builds that patterns name


@attrs.frozen
class _Wish:
    """A kernel at a version, or at the commit that a lock names."""

    wanted: Wanted
    locked: LockedKernel | None = attrs.field(default=None, eq=False)


def _by_name(selection: Selection) -> _Get:
    return lambda order: _matching(order, selection)


def _matching(order: Order, selection: Selection) -> Iterator[Gathered]:
    lock = order.lock
    first = lock.kernel(order.wanted.repo_id) if lock else None
    pending = [_Wish(order.wanted, first)]
    seen = set(pending)
    while pending:
        wish = pending.pop(0)
        gathered = _install_matching(wish, selection)
        yield gathered
        installer = gathered.repository.installer(gathered.commit)
        for build in gathered.builds.values():
            metadata = installer.metadata(build)
            for needed in metadata.kernel_depends if metadata else ():
                wanted = Wanted(needed.repo_id, needed.version, needed.revision)
                new = _Wish(wanted, lock.dependency(needed) if lock else None)
                if new not in seen:
                    seen.add(new)
                    pending.append(new)


def _install_matching(wish: _Wish, selection: Selection) -> Gathered:
    patterns = selection.variants or ()
    repository = HubRepository(wish.wanted.repo_id, selection.trust)
    if wish.locked is not None:
        commit = wish.locked.commit
    else:
        pinned = repository.pin(wish.wanted.revision, wish.wanted.version)
        commit = pinned.commit
    there = repository.builds(commit)
    builds = {
        name: build
        for name, build in there.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    if not builds:
        raise NoFittingBuildError(
            f"{wish.wanted.repo_id} at commit {commit} has no build that matches "
            f"{' or '.join(patterns)}; it has {', '.join(sorted(there)) or 'none'}.",
            repository=wish.wanted.repo_id,
            decisions=(),
        )
    repository.install(commit, builds, wish.locked.variants if wish.locked else None)
    if wish.locked is None and not is_commit(pinned.ref):
        repository.cache.keep_ref(pinned.ref, commit)
    return Gathered(repository, commit, builds)
