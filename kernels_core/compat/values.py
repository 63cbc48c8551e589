"""The value types of Hugging Face `kernels`, made from those of kernels-core."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from kernels_core.loading import loaded
from kernels_core.repository import metadata as core
from kernels_core.variants.fit import BuildDecision


class Benchmark:
    """Base class of the benchmark scripts that kernels are published with.

    Attributes:
        seed: seed of the random numbers; None for none.
        device: the device to measure on; set by what runs the benchmark.
    """

    seed: int | None = None
    device: str = "cpu"

    def __init__(self) -> None:
        self.kernel: Any = None
        self.out: Any = None

    def setup(self) -> None:
        """Make the tensors that the benchmark needs; to be overridden."""


class KernelName(str):
    """Name of a kernel."""

    __slots__ = ()

    @property
    def python_name(self) -> str:
        """The name as a Python identifier."""
        return self.replace("-", "_")


@attrs.frozen
class BackendInfo:
    """What a build was made for.

    Attributes:
        backend_type: name of the backend.
        archs: the architectures that native code was compiled for; None when it does not say.
    """

    backend_type: str
    archs: list[str] | None

    @classmethod
    def of(cls, backend: core.BackendMetadata) -> BackendInfo:
        """Convert this package's metadata."""
        return cls(backend.type, list(backend.archs) or None)


@attrs.frozen
class Provenance:
    """The sources that a build was built from.

    Attributes:
        dirty: whether they had uncommitted changes.
    """

    dirty: bool


@attrs.frozen
class Metadata:
    """The metadata of a build.

    Attributes:
        name: name of the kernel.
        id: namespace of its operators in `torch.ops`.
        version: its major version.
        license: its licence.
        backend: what it was built for.
        python_depends: Python packages that it needs.
        kernel_depends: other kernels that it needs.
        upstream: the repository that the kernel was taken from.
        source: the repository that it was built from.
        digest: the hashes of its files.
        kernels_minver: the version of Hugging Face `kernels` that it needs at least.
        provenance: the sources that it was built from if they had uncommitted changes, else None.
    """

    name: KernelName | None
    id: str | None
    version: int | None
    license: str | None
    backend: BackendInfo | None
    python_depends: list[str]
    kernel_depends: list[core.KernelDependency]
    upstream: str | None
    source: str | None
    digest: core.Digest | None
    kernels_minver: str | None
    provenance: Provenance | None

    @classmethod
    def of(cls, metadata: core.Metadata | None) -> Metadata:
        """Convert this package's metadata; a build may have none."""
        own = metadata or core.Metadata()
        return cls(
            name=KernelName(own.name) if own.name else None,
            id=own.id,
            version=own.version,
            license=own.license,
            backend=BackendInfo.of(own.backend) if own.backend else None,
            python_depends=list(own.python_depends),
            kernel_depends=list(own.kernel_depends),
            upstream=own.upstream[0] if own.upstream else None,
            source=own.source,
            digest=own.digest,
            kernels_minver=".".join(map(str, own.kernels_minver)) if own.kernels_minver else None,
            provenance=Provenance(dirty=True) if own.dirty else None,
        )

    @classmethod
    def read_from_file(cls, metadata_path: str | Path) -> Metadata:
        """Read a `metadata.json`.

        Raises:
            FileNotFoundError: there is no such file.
            MetadataError: it is not valid.
        """
        found = core.read_metadata(Path(metadata_path))
        if found is None:
            raise FileNotFoundError(f"There is no {metadata_path}.")
        return cls.of(found)

    @classmethod
    def from_bytes(cls, bytes: bytes) -> Metadata:  # noqa: A002  its name there
        """Read the content of a `metadata.json`.

        Raises:
            MetadataError: it is not valid.
        """
        return cls.of(core.parse_metadata(bytes))


# Documented as dataclasses by Hugging Face `kernels`, so that programs may use their fields.


@dataclass(frozen=True)
class RepoInfo:
    """Where a kernel was loaded from.

    Attributes:
        repo_id: the repository, "org/name".
        revision: its commit.
    """

    repo_id: str
    revision: str


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel that this process has imported.

    Attributes:
        metadata: the metadata of its build.
        module: its module.
        repo_info: where on the Hub it comes from; None for one from a directory.
    """

    metadata: Metadata
    module: ModuleType
    repo_info: RepoInfo | None

    @classmethod
    def of(cls, kernel: loaded.LoadedKernel) -> LoadedKernel:
        """The same kernel as this package knows it."""
        build = kernel.build
        info = RepoInfo(build.repository, build.commit) if build.commit else None
        return cls(Metadata.of(build.metadata), kernel.module, info)


@dataclass(frozen=True)
class Variant:
    """A build of a kernel.

    Attributes:
        variant_str: its name.
    """

    variant_str: str


@dataclass(frozen=True)
class VariantAccepted:
    """A build that fits this machine."""

    variant: Variant


@dataclass(frozen=True)
class VariantRejected:
    """A build that does not fit this machine, and why."""

    variant: Variant
    reason: str


def as_variant(decision: BuildDecision) -> VariantAccepted | VariantRejected:
    """A decision about a build, as Hugging Face `kernels` reports it."""
    variant = Variant(decision.name)
    return (
        VariantAccepted(variant) if decision.accepted else VariantRejected(variant, decision.reason)
    )
