"""A kernel repository on the Hub: its versions, its builds, and the one to use.

Answers of the Hub are kept in the cache. Branches, tags and publishers are requested again in each
process; the files of a commit, which never change, are requested once.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs

from kernels_core import notices
from kernels_core.errors import (
    DigestError,
    HubAnswerError,
    HubError,
    HubNotFoundError,
    HubOfflineError,
    HubUnreachableError,
    MetadataError,
    NoFittingBuildError,
    UntrustedError,
    VersionNotFoundError,
)
from kernels_core.hub import foreign, records
from kernels_core.hub.answers import BUILD_FOLDER, TreeFile
from kernels_core.hub.cache import CACHE_VARIABLE, RepositoryCache, cache_root
from kernels_core.hub.client import REPOSITORY_TYPES, client
from kernels_core.hub.install import METADATA_FILE, HubBuild, Installer
from kernels_core.hub.single_flight import SingleFlight
from kernels_core.hub.trust import check_trust, is_allowed_here, read_trust_list
from kernels_core.hub.versions import (
    Pinned,
    Refs,
    choose_ref,
    is_commit,
    is_listed,
    newer_versions,
    newest_version,
)
from kernels_core.parallel import in_background, in_parallel
from kernels_core.plugins import Backend
from kernels_core.repository.builds import Build, BuildSelector, make_build
from kernels_core.repository.hashes import variant_hash
from kernels_core.repository.metadata import Metadata, read_metadata
from kernels_core.repository.names import publisher_of
from kernels_core.variants.fit import BuildDecision

logger = logging.getLogger("kernels_core")

# How many newer versions to search for a build for this machine.
_NEWER_VERSIONS = 3

_builds = SingleFlight()

AskHub = Callable[[str], bool]


def forget() -> None:
    """Read the lists of files from the cache again, as a new process does."""
    _builds.clear()


@attrs.frozen
class HubRepository:
    """A kernel repository on the Hub. Making one does no I/O; requests may raise a `HubError`.

    Attributes:
        repo_id: the repository, "org/name".
        trust_remote_code: what the caller trusts; see `trust.check_trust`.
        agent: added to the user agent of requests.
        local_files_only: whether to send no request.
    """

    repo_id: str
    trust_remote_code: bool | tuple[str, ...] = False
    agent: str = ""
    local_files_only: bool = False

    @property
    def is_offline(self) -> bool:
        """Whether no request may be sent."""
        return self.local_files_only or client().is_offline

    @property
    def cache(self) -> RepositoryCache:
        """Its part of the cache."""
        hub = client()

        def of_type(repository_type: str) -> RepositoryCache:
            return RepositoryCache(self.repo_id, repository_type, cache_root(), hub.endpoint)

        repository_type = hub.repository_type(self.repo_id)
        if repository_type is not None:
            return of_type(repository_type)
        candidates = [of_type(kind) for kind in REPOSITORY_TYPES]
        known = [candidate for candidate in candidates if candidate.is_known]
        if not known and self.is_offline:
            known = [candidate for candidate in candidates if candidate.is_filled]
        if known:
            hub.expect_type(self.repo_id, known[0].repository_type)
            return known[0]
        return of_type(REPOSITORY_TYPES[0])

    # Versions

    def refs(self, revision: str | None = None) -> Refs:
        """Its branches and tags, and a revision; those last seen when the Hub is not reachable."""
        earlier = self._earlier_refs()
        if not self.is_offline:
            try:
                refs = client().refs(self.repo_id, revision, agent=self.agent, earlier=earlier)
            except HubNotFoundError as error:
                if error.missing == "repository" and (similar := self._similar_names()):
                    raise HubNotFoundError(
                        f"There is no repository {self.repo_id}.{similar} {error}",
                        repository=self.repo_id,
                        request=error.request,
                        missing=error.missing,
                    ) from error
                raise
            if client().known_refs(self.repo_id) is None:
                self._say_if_of_another_hub()
            return refs
        if earlier is None:
            raise self.not_cached("its branches and tags")
        if revision is not None and not is_listed(earlier, revision):
            raise self.not_cached(f"the commit of {revision}")
        self._say_if_of_another_hub()
        return earlier

    def _earlier_refs(self) -> Refs | None:
        """The Hub's last answer, and the names of commits that are in the cache without one."""
        other = records.of_another_hub(self.cache)
        recorded = records.recall_refs(other or self.cache)
        named = foreign.cached_refs(self.cache)
        if recorded is None or named is None:
            return recorded or named
        return recorded | named | recorded.only(self._is_cached)

    def _say_if_of_another_hub(self, commit: str | None = None) -> None:
        other = records.of_another_hub(self.cache, commit)
        if other is not None and notices.is_new(("another hub", cache_root(), self.repo_id)):
            logger.warning(
                "%s: no answer of %s is available, so what %s answered about its versions and "
                "files is used. Whether the kernel is trusted is not taken from there.",
                self.repo_id,
                self.cache.endpoint,
                other.endpoint,
            )

    def _is_cached(self, commit: str) -> bool:
        return self.cache.snapshot(commit).is_dir()

    def pin(self, revision: str | None = None, version: int | str | None = None) -> Pinned:
        """The commit that a version or revision means; no request is sent for a commit."""
        needs_refs = revision is None or not is_commit(revision)
        refs = self.refs(revision) if needs_refs else Refs({}, {})
        if self.is_offline:
            # Only what is in the cache can be loaded: a newer version in the range cannot.
            cached = refs.only(self._is_cached)
            with contextlib.suppress(VersionNotFoundError):
                return choose_ref(cached, repo_id=self.repo_id, revision=revision, version=version)
        return choose_ref(refs, repo_id=self.repo_id, revision=revision, version=version)

    # Builds

    def builds(self, commit: str) -> dict[str, HubBuild]:
        """The builds of a commit by the names of their variants, which may be invalid."""
        return _builds.get(self._key(commit), lambda: self._builds(commit))

    def _key(self, commit: str) -> tuple[Path, str, str, str, bool]:
        # What is known without a request may be only what was downloaded.
        return cache_root(), client().endpoint, self.repo_id, commit, self.is_offline

    def _builds(self, commit: str) -> dict[str, HubBuild]:
        files = records.recall_tree(self.cache, commit)
        if files is None and self.is_offline:
            files = self._files_without_hub(commit)
            if files is None:
                raise self.not_cached(f"the list of files of commit {commit}")
        if files is None:
            try:
                files = client().tree(self.repo_id, commit, agent=self.agent)
            except HubUnreachableError:
                files = self._files_without_hub(commit)
                if files is None:
                    raise
        by_variant: dict[str, dict[str, TreeFile]] = {}
        for file in files:
            _, variant, *rest = file.path.split("/", 2)
            if rest:
                by_variant.setdefault(variant, {})[rest[0]] = file
        return {name: HubBuild(name, inside) for name, inside in by_variant.items()}

    def _files_without_hub(self, commit: str) -> tuple[TreeFile, ...] | None:
        """What another Hub, or the files themselves, say about a commit; None for nothing."""
        other = records.of_another_hub(self.cache, commit)
        files = records.recall_tree(other, commit) if other else None
        if files is not None:
            self._say_if_of_another_hub(commit)
            return files
        return foreign.cached_tree(self.cache, commit)

    def decisions(
        self, commit: str, backend: Backend, device_index: int | None = None
    ) -> tuple[BuildDecision, ...]:
        """Decide about every build of a commit. Downloads nothing but metadata."""
        builds = self.builds(commit)
        installer = self.installer(commit)
        selector = BuildSelector(self.repo_id, backend, device_index)
        fitting = [
            decision.name for decision in selector.decisions_by_name(builds) if decision.accepted
        ]

        def fetch(variant: str) -> None:
            with contextlib.suppress(MetadataError):  # the reason against that build, below
                installer.metadata(builds[variant])

        in_parallel(fetch, fitting)
        return selector.decisions(builds, lambda variant: installer.metadata(builds[variant]))

    def best_metadata(
        self, commit: str, backend: Backend, device_index: int | None = None
    ) -> Metadata:
        """The metadata of the best build that fits. Downloads nothing else."""
        builds, installer = self.builds(commit), self.installer(commit)
        selector = BuildSelector(self.repo_id, backend, device_index)
        _, metadata = selector.select_best(builds, lambda name: installer.metadata(builds[name]))
        return metadata or Metadata()

    def install_best(
        self,
        revision: str | None,
        version: int | str | None,
        backend: Backend,
        device_index: int | None = None,
        expected: Mapping[str, str] | None = None,
    ) -> Build:
        """Select the best build that fits, and download and verify it. Imports nothing.

        `expected` is the hash of each build by the name of its variant, when a lock has them; see
        `hashes.variant_hash`.
        """
        by_commit = revision is not None and is_commit(revision)
        with self._requesting_publisher(revision) as ask_hub:
            pinned = self.pin(revision, version)
            with self._remembering(pinned):
                builds, installer = self.builds(pinned.commit), self.installer(pinned.commit)

                def metadata_of(variant: str) -> Metadata | None:
                    build = builds[variant]
                    _check_expected(self.repo_id, pinned.commit, build, expected)
                    self._check_trust(build, installer, ask_hub, by_commit)
                    path = installer.install(build)
                    return read_metadata(path / METADATA_FILE, repository=self.repo_id)

                selector = BuildSelector(self.repo_id, backend, device_index)
                try:
                    variant, metadata = selector.select_best(builds, metadata_of)
                except NoFittingBuildError as error:
                    raise self._with_newer_version(error, pinned, selector) from None
        self._say(pinned, moving=revision is None and version is None)
        return make_build(
            installer.path(builds[variant]),
            metadata,
            repository=self.repo_id,
            name=self.repo_id.partition("/")[2],
            commit=pinned.commit,
        )

    def install(
        self,
        commit: str,
        variants: Mapping[str, HubBuild],
        expected: Mapping[str, str] | None = None,
    ) -> Path:
        """Download and verify builds of a commit, whether they fit this machine or not.

        Returns the directory that holds `build`. `expected` is the same as for `install_best`.
        """
        installer = self.installer(commit)
        with self._requesting_publisher(commit) as ask_hub:
            for build in variants.values():
                _check_expected(self.repo_id, commit, build, expected)
                self._check_trust(build, installer, ask_hub, by_commit=True)
        with self._remembering(Pinned(commit, commit)):
            for build in variants.values():
                installer.install(build)
        return self.cache.snapshot(commit)

    def installer(self, commit: str) -> Installer:
        """An installer for builds of a commit. It does not check trust."""
        hub = None if self.is_offline else client()
        return Installer(self.cache, commit, hub, self.agent)

    @contextlib.contextmanager
    def _remembering(self, pinned: Pinned) -> Iterator[None]:
        """Keep the Hub's answers once they have led to a verified build, and only then."""
        try:
            yield
        except (DigestError, HubAnswerError, HubNotFoundError):
            # The list of files, or which commit the version means, may have been garbled.
            self._invalidate(pinned)
            raise
        if self.is_offline:
            return
        cache = self.cache
        refs, earlier = client().known_refs(self.repo_id), records.recall_refs(cache)
        if refs is not None:
            others = {**(earlier.others if earlier else {}), **refs.others}
            if not is_commit(pinned.ref) and pinned.ref not in {*refs.branches, *refs.tags}:
                others[pinned.ref] = pinned.commit
            refs = attrs.evolve(refs, others=others)
            if refs != earlier:
                records.remember_refs(cache, refs)
        if client().has_listed(self.repo_id, pinned.commit) and (
            records.recall_tree(cache, pinned.commit) is None
        ):
            builds = self.builds(pinned.commit).values()
            files = tuple(file for build in builds for file in build.files.values())
            records.remember_tree(cache, pinned.commit, files)
        if is_commit(pinned.ref):
            cache.keep_commit(pinned.commit)
        else:
            cache.keep_ref(pinned.ref, pinned.commit)

    def _invalidate(self, pinned: Pinned) -> None:
        client().invalidate(self.repo_id, pinned)
        _builds.forget(self._key(pinned.commit))
        if not self.is_offline:
            records.forget_tree(self.cache, pinned.commit)

    # Trust

    @contextlib.contextmanager
    def _requesting_publisher(self, revision: str | None) -> Iterator[AskHub]:
        """Send the request about the publisher, and yield a function that waits for the answer."""
        named = publisher_of(self.repo_id)
        earlier = records.PublisherRecord(self.cache).recall(named)

        def ask(publisher: str) -> bool:
            if self.is_offline:
                raise self.not_cached("whether its publisher is trusted")
            return client().publisher_is_trusted(publisher, earlier=earlier)

        if not self._needs_publisher(revision, earlier):
            yield ask
            return
        with in_background(lambda: ask(named)) as answer:
            yield lambda publisher: answer()

    def _needs_publisher(self, revision: str | None, earlier: bool | None) -> bool:
        """Whether the request is worth a thread; `trust.check_trust` makes the decision."""
        if self.is_offline or client().publisher_is_requested(publisher_of(self.repo_id)):
            return False
        if earlier and revision is not None and is_commit(revision):
            return False
        return not is_allowed_here(self.repo_id, self.trust_remote_code)

    def why_trusted(self, commit: str) -> str:
        """Why a commit is trusted, or builds of it; raises as `check_trust` where it is not."""
        with self._requesting_publisher(commit) as ask_hub:
            try:
                return check_trust(
                    self.repo_id,
                    commit,
                    trust_remote_code=self.trust_remote_code,
                    ask_hub=ask_hub,
                    record=records.PublisherRecord(self.cache),
                )
            except UntrustedError:
                digests = read_trust_list().digests
                builds = [b.variant for b in self.builds(commit).values() if b.digest in digests]
                if not builds:
                    raise
                return f"the trust list of this machine names its builds {', '.join(builds)}"

    def _check_trust(
        self, build: HubBuild, installer: Installer, ask_hub: AskHub, by_commit: bool
    ) -> None:
        check_trust(
            self.repo_id,
            installer.commit,
            trust_remote_code=self.trust_remote_code,
            ask_hub=ask_hub,
            record=records.PublisherRecord(self.cache),
            digest=build.digest,
            # For a branch or tag a request is sent anyway.
            cached=by_commit and installer.has(build),
        )

    # Notices

    def _say(self, pinned: Pinned, *, moving: bool) -> None:
        """Say that the version is not fixed, or is not the newest. Sends no request."""
        if pinned.version is None and not moving:
            return
        refs = self.refs()  # known, since the version was found in them
        if moving:
            newest = newest_version(refs)
            advice = "revision=" if newest is None else f"version={newest}"
            notices.say_once(
                ("moving", self.repo_id),
                f"{self.repo_id}: neither revision nor version is given, so the branch "
                f"{pinned.ref} is used, which may change at any time. Pass {advice}.",
            )
        newer = newer_versions(refs, pinned)
        if newer:
            notices.say_once(
                ("newer", self.repo_id, pinned.ref),
                f"{self.repo_id}: {pinned.ref} is used, and a newer version is available, "
                f"{newer[0]}.",
            )

    # Errors

    def _similar_names(self) -> str:
        """A sentence with the kernels in the cache that may have been meant; "" for none."""
        with contextlib.suppress(OSError):
            folders = (path.name.split("--") for path in cache_root().iterdir())
            known = {f"{name[1]}/{name[2]}" for name in folders if len(name) == 3} - {self.repo_id}
            if similar := difflib.get_close_matches(self.repo_id, known, cutoff=0.7):
                return f" In the cache is {' and '.join(similar)}: was that meant?"
        return ""

    def _with_newer_version(
        self, error: NoFittingBuildError, pinned: Pinned, selector: BuildSelector
    ) -> NoFittingBuildError:
        """Add whether a newer version has a build for this machine."""
        if is_commit(pinned.ref):
            return error
        with contextlib.suppress(HubError):
            refs = self.refs()
            for ref in newer_versions(refs, pinned)[:_NEWER_VERSIONS]:
                newer = choose_ref(refs, repo_id=self.repo_id, revision=ref)
                if any(d.accepted for d in selector.decisions_by_name(self.builds(newer.commit))):
                    return NoFittingBuildError(
                        f"{error}\nIts newer version {ref} has a build for this machine.",
                        repository=error.repository,
                        decisions=error.decisions,
                    )
        return error

    def not_cached(self, what: str) -> HubOfflineError:
        """The error for something that is not in the cache while no request may be sent."""
        why = "local_files_only" if self.local_files_only else "HF_HUB_OFFLINE"
        root = cache_root()
        named = f" ({CACHE_VARIABLE})" if os.environ.get(CACHE_VARIABLE) else ""
        lacks = f"has no record of {what}" if root.is_dir() else "does not exist"
        similar = self._similar_names()
        return HubOfflineError(
            f"{self.repo_id}: the cache {root}{named} {lacks}, and {why} is set, so no request was "
            f"sent.{similar} Load the kernel once with access to the Hub and this cache.",
            repository=self.repo_id,
            request=what,
        )


def _check_expected(
    repo_id: str, commit: str, build: HubBuild, expected: Mapping[str, str] | None
) -> None:
    if expected is None:
        return
    locked = expected.get(build.variant, "no such build")
    got = variant_hash(build.hashes)
    if locked != got:
        raise DigestError(
            f"{repo_id} ({build.variant}) at commit {commit}: the lock expects {locked}, "
            f"the Hub has {got}. Nothing was downloaded.",
            repository=repo_id,
            files=(),
            path=f"{BUILD_FOLDER}/{build.variant}",
            expected=locked,
            got=got,
        )
