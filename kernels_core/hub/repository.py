"""A kernel repository on the Hub: its versions, its builds, and the one to use.

What the Hub said is remembered on this machine. It is asked again for branches, tags and
publishers; of a commit, which never changes, it is asked once for all time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs

from kernels_core.errors import (
    DigestError,
    HubAnswerError,
    HubError,
    HubNotFoundError,
    HubOfflineError,
    MetadataError,
    NoFittingBuildError,
)
from kernels_core.hub import records
from kernels_core.hub.answers import BUILD_FOLDER, TreeFile
from kernels_core.hub.cache import RepositoryCache, cache_root
from kernels_core.hub.client import REPOSITORY_TYPES, client
from kernels_core.hub.install import METADATA_FILE, HubBuild, Installer
from kernels_core.hub.single_flight import SingleFlight
from kernels_core.hub.trust import check_trust, is_allowed_here
from kernels_core.hub.versions import Pinned, Refs, choose_ref, is_commit, newer_versions
from kernels_core.parallel import in_background, in_parallel
from kernels_core.plugins import Backend
from kernels_core.repository.builds import Build, BuildSelector, make_build
from kernels_core.repository.hashes import variant_hash
from kernels_core.repository.metadata import Metadata, read_metadata
from kernels_core.repository.names import publisher_of
from kernels_core.variants.fit import BuildDecision

# Of how many newer versions to find out whether they have a build for this machine.
_NEWER_VERSIONS = 3

_builds = SingleFlight()

AskHub = Callable[[str], bool]


def forget() -> None:
    """Read again what is remembered of commits, as a new process does."""
    _builds.clear()


@attrs.frozen
class HubRepository:
    """A kernel repository on the Hub. Making one touches nothing.

    Attributes:
        repo_id: the repository, "org/name".
        trust_remote_code: whether, or for what, the caller vouches; see `trust.check_trust`.
        agent: what the application wants the Hub to know of it.
        local_files_only: whether to make do with what is on this machine.
    """

    repo_id: str
    trust_remote_code: bool | tuple[str, ...] = False
    agent: str = ""
    local_files_only: bool = False

    @property
    def is_offline(self) -> bool:
        """Whether the Hub may not be asked."""
        return self.local_files_only or client().is_offline

    @property
    def cache(self) -> RepositoryCache:
        """What lies on this machine of it."""
        hub = client()

        def of_type(repository_type: str) -> RepositoryCache:
            return RepositoryCache(self.repo_id, repository_type, cache_root(), hub.endpoint)

        repository_type = hub.repository_type(self.repo_id)
        if repository_type is not None:
            return of_type(repository_type)
        for candidate in map(of_type, REPOSITORY_TYPES):
            if candidate.is_known:
                hub.expect_type(self.repo_id, candidate.repository_type)
                return candidate
        return of_type(REPOSITORY_TYPES[0])

    # Versions

    def refs(self) -> Refs:
        """Its branches and tags; those last seen when the Hub cannot be reached.

        Raises:
            HubOfflineError: the Hub may not be asked, and never was.
            HubError: the Hub cannot be asked, or says no.
        """
        earlier = records.recall_refs(self.cache)
        if self.is_offline:
            if earlier is None:
                raise self.not_known("its branches and tags")
            return earlier
        return client().refs(self.repo_id, agent=self.agent, earlier=earlier)

    def pin(self, revision: str | None = None, version: int | str | None = None) -> Pinned:
        """The commit that a version or revision means; see `versions.choose_ref`.

        Raises:
            VersionNotFoundError: there is no such version, branch or tag.
            HubError: see `refs`; not for a commit, of which nothing is asked.
        """
        asked = revision is None or not is_commit(revision)
        refs = self.refs() if asked else Refs({}, {})
        return choose_ref(refs, repo_id=self.repo_id, revision=revision, version=version)

    # Builds

    def builds(self, commit: str) -> dict[str, HubBuild]:
        """The builds of a commit by the names of their variants, some of which may be invalid.

        Raises:
            HubOfflineError: the Hub may not be asked, and never was.
            HubError: the Hub cannot be asked, or says no.
        """
        return _builds.get(self._question(commit), lambda: self._builds(commit))

    def _question(self, commit: str) -> tuple[Path, str, str, str]:
        return cache_root(), client().endpoint, self.repo_id, commit

    def _builds(self, commit: str) -> dict[str, HubBuild]:
        files = records.recall_tree(self.cache, commit)
        if files is None:
            if self.is_offline:
                raise self.not_known(f"the files of its commit {commit}")
            files = client().tree(self.repo_id, commit, agent=self.agent)
        by_variant: dict[str, dict[str, TreeFile]] = {}
        for file in files:
            _, variant, *rest = file.path.split("/", 2)
            if rest:
                by_variant.setdefault(variant, {})[rest[0]] = file
        return {name: HubBuild(name, inside) for name, inside in by_variant.items()}

    def decisions(
        self, commit: str, backend: Backend, device_index: int | None = None
    ) -> tuple[BuildDecision, ...]:
        """Decide over every build of a commit. Downloads nothing but metadata.

        Args:
            commit: the commit.
            backend: the backend to use.
            device_index: the device that builds must cover; None for no particular one.

        Raises:
            HubError: the Hub cannot be asked, or says no.
        """
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
        """What the build to use says about itself. Downloads nothing but metadata.

        Args:
            commit: the commit.
            backend: the backend to use.
            device_index: the device that the build must cover; None for no particular one.

        Raises:
            NoFittingBuildError: none of the builds fits.
            HubError: the Hub cannot be asked, or says no.
        """
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
        """Select the best build that fits, and download it. Imports nothing.

        Args:
            revision: a branch, tag or commit; see `versions.choose_ref`.
            version: a PEP 440 specifier or a major version.
            backend: the backend to use.
            device_index: the device that the build must cover; None for no particular one.
            expected: the hash of each build by the name of its variant, when a lock says so; see
                `hashes.variant_hash`.

        Raises:
            VersionNotFoundError: there is no such version, branch or tag.
            NoFittingBuildError: none of the builds fits; it has the reason for each.
            UntrustedError: nobody vouches for the kernel.
            TrustUnknownError: it is not known whether somebody does.
            DigestError: the build is not what was published, or what was locked.
            DependencyError: Python packages that it needs are missing.
            LoadError: the Hub cannot be asked, or what it has is no kernel.
        """
        asked_for_commit = revision is not None and is_commit(revision)
        with self._asking_for_trust(revision) as ask_hub:
            pinned = self.pin(revision, version)
            with self._remembering(pinned):
                builds, installer = self.builds(pinned.commit), self.installer(pinned.commit)

                def metadata_of(variant: str) -> Metadata | None:
                    build = builds[variant]
                    _check_expected(self.repo_id, pinned.commit, build, expected)
                    self._check_trust(build, installer, ask_hub, asked_for_commit)
                    path = installer.install(build)
                    return read_metadata(path / METADATA_FILE, repository=self.repo_id)

                selector = BuildSelector(self.repo_id, backend, device_index)
                try:
                    variant, metadata = selector.select_best(builds, metadata_of)
                except NoFittingBuildError as error:
                    raise self._with_newer_version(error, pinned, selector) from None
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
        """Get builds of a commit onto this machine, whether they fit it or not.

        Args:
            commit: the commit.
            variants: some of its `builds`.
            expected: as for `install_best`.

        Returns:
            The directory that holds `build`.

        Raises:
            UntrustedError, TrustUnknownError, DigestError, LoadError: as for `install_best`.
        """
        installer = self.installer(commit)
        with self._asking_for_trust(commit) as ask_hub:
            for build in variants.values():
                _check_expected(self.repo_id, commit, build, expected)
                self._check_trust(build, installer, ask_hub, asked_for_commit=True)
        with self._remembering(Pinned(commit, commit)):
            for build in variants.values():
                installer.install(build)
        return self.cache.snapshot(commit)

    def installer(self, commit: str) -> Installer:
        """What gets builds of a commit onto this machine. Does not ask whether they are trusted."""
        hub = None if self.is_offline else client()
        return Installer(self.cache, commit, hub, self.agent)

    @contextlib.contextmanager
    def _remembering(self, pinned: Pinned) -> Iterator[None]:
        """Remember what the Hub said when it has led to a verified build, and only then."""
        try:
            yield
        except (DigestError, HubAnswerError, HubNotFoundError):
            # What was said of the commit, or that it is the one, may have been garbled.
            self._doubt(pinned.commit)
            raise
        if self.is_offline:
            return
        cache = self.cache
        refs = client().known_refs(self.repo_id)
        if refs is not None and refs != records.recall_refs(cache):
            records.remember_refs(cache, refs)
        if records.recall_tree(cache, pinned.commit) is None:
            builds = self.builds(pinned.commit).values()
            files = tuple(file for build in builds for file in build.files.values())
            records.remember_tree(cache, pinned.commit, files)
        if not is_commit(pinned.ref):
            cache.keep_ref(pinned.ref, pinned.commit)

    def _doubt(self, commit: str) -> None:
        client().doubt(self.repo_id, commit)
        _builds.forget(self._question(commit))
        if not self.is_offline:
            records.forget_tree(self.cache, commit)

    # Trust

    @contextlib.contextmanager
    def _asking_for_trust(self, revision: str | None) -> Iterator[AskHub]:
        """Begin to ask about the publisher beside other requests, if it will be needed.

        The block gets what `trust.check_trust` needs to ask the Hub.
        """
        named = publisher_of(self.repo_id)
        earlier = records.PublisherRecord(self.cache).recall(named)

        def ask(publisher: str) -> bool:
            if self.is_offline:
                raise self.not_known("its publisher's standing")
            return client().publisher_is_trusted(publisher, earlier=earlier)

        if not self._needs_publisher(revision, earlier):
            yield ask
            return
        with in_background(lambda: ask(named)) as answer:
            yield lambda publisher: answer()

    def _needs_publisher(self, revision: str | None, earlier: bool | None) -> bool:
        """Whether asking is worth a thread; `trust.check_trust` decides what counts."""
        if self.is_offline or client().is_asked_about(publisher_of(self.repo_id)):
            return False
        if earlier and revision is not None and is_commit(revision):
            return False
        return not is_allowed_here(self.repo_id, self.trust_remote_code)

    def _check_trust(
        self, build: HubBuild, installer: Installer, ask_hub: AskHub, asked_for_commit: bool
    ) -> None:
        check_trust(
            self.repo_id,
            installer.commit,
            trust_remote_code=self.trust_remote_code,
            ask_hub=ask_hub,
            record=records.PublisherRecord(self.cache),
            digest=build.digest,
            # A branch or tag means that the Hub is asked anyway.
            cached=asked_for_commit and installer.has(build),
        )

    # Errors

    def _with_newer_version(
        self, error: NoFittingBuildError, pinned: Pinned, selector: BuildSelector
    ) -> NoFittingBuildError:
        """Say whether a newer version has a build for this machine."""
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

    def not_known(self, what: str) -> HubOfflineError:
        """The error of something that is not on this machine, when the Hub may not be asked."""
        why = "only local files are allowed" if self.local_files_only else "HF_HUB_OFFLINE is set"
        return HubOfflineError(
            f"{self.repo_id}: {what} was never asked for on this machine, and {why}. Load the "
            f"kernel once with the Hub in reach, with the same cache ({cache_root()}).",
            repository=self.repo_id,
            request=what,
        )


def _check_expected(
    repo_id: str, commit: str, build: HubBuild, expected: Mapping[str, str] | None
) -> None:
    if expected is None:
        return
    wanted = expected.get(build.variant, "no such build")
    got = variant_hash(build.hashes)
    if wanted != got:
        raise DigestError(
            f"{repo_id} ({build.variant}) at commit {commit}: the lock expects {wanted}, "
            f"the Hub has {got}. Nothing was downloaded.",
            repository=repo_id,
            files=(),
            path=f"{BUILD_FOLDER}/{build.variant}",
            expected=wanted,
            got=got,
        )
