"""The exceptions of kernels-core.

Every exception derives from `KernelsError` and from the built-in exception that suits it, so
callers may catch either. Details are in its attributes, not only in its message.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class KernelsError(Exception):
    """Base of every exception of kernels-core.

    The keyword arguments become attributes of the exception. They survive pickling, so an error
    that was raised in a worker process still has its plugin, repository or layer.

    Example:
        >>> from kernels_core.errors import VariantNameError
        >>> VariantNameError("not a variant", name="torch").name
        'torch'
    """

    def __init__(self, message: str, **about: object) -> None:
        super().__init__(message)
        self.__dict__.update(about)


class EnvironmentVariableError(KernelsError, ValueError):
    """An environment variable has an invalid value."""

    variable: str


class InvalidModeError(KernelsError, ValueError):
    """A combination of `Mode` flags is meaningless, or not allowed in this place."""


class MappingError(KernelsError, ValueError):
    """A kernel mapping has an invalid value."""


class MappingTypeError(KernelsError, TypeError):
    """A kernel mapping has a value of the wrong type."""


# Plugins and backends


class PluginError(KernelsError, RuntimeError):
    """A backend plugin failed or broke the hook contract.

    Attributes:
        plugin: name of the entry point.
        distribution: name and version of the package that contains it.
        phase: the step that failed, for example "import" or "detect".
        backend: name of the backend that it declares; "" when it failed before that.
        torch_device_type: what torch calls the devices of that backend; "" when it failed before.
    """

    plugin: str
    distribution: str
    phase: str
    backend: str = ""
    torch_device_type: str = ""


class PluginConflictError(PluginError):
    """Two plugins claim the same backend name or the same tag; neither can be used."""


class UnknownDeviceError(KernelsError, ValueError):
    """No installed backend knows this type of device."""

    device: str


class MissingDeviceError(KernelsError, ValueError):
    """No device was given, and the module has no parameters or buffers to take it from."""


class BackendNotInstalledError(KernelsError, ImportError, ValueError):
    """The plugin that serves this type of device is not installed, or is disabled."""

    backend: str


class BackendUnavailableError(KernelsError, RuntimeError, ValueError):
    """The backend is installed, but this machine has no such device, or the plugin failed."""

    backend: str


# Repositories


class VariantNameError(KernelsError, ValueError):
    """A directory name under `build/` does not follow the grammar of variant names."""

    name: str


class LoadError(KernelsError, RuntimeError):
    """A kernel could not be loaded; each subclass is one reason."""

    repository: str


class RepositoryNotFoundError(LoadError, FileNotFoundError):
    """The kernel repository, or its `build` directory, does not exist."""


class NoFittingBuildError(LoadError, FileNotFoundError):
    """The repository exists, but none of its builds fits this machine.

    Attributes:
        decisions: one `BuildDecision` per build, each with the reason for its rejection.
    """

    decisions: Sequence[object]


class MetadataError(LoadError, ValueError):
    """A `metadata.json` does not match its schema.

    Attributes:
        path: the file.
        key: the invalid key, or "" when the whole file cannot be read.
    """

    path: Path
    key: str


class DependencyError(LoadError, ImportError):
    """Python packages or kernels that a kernel depends on are missing."""

    missing: Sequence[str]


class KernelImportError(LoadError, ImportError):
    """The kernel's own code raised an exception when it was imported: the `__cause__`."""


class NamespaceTakenError(LoadError, ImportError):
    """The operators of a native build are registered already: loading it would abort the process.

    Attributes:
        namespace: the namespace of the operators, in `torch.ops`.
    """

    namespace: str


class VersionNotFoundError(LoadError, FileNotFoundError, ValueError):
    """A repository on the Hub has no such version, branch or tag.

    Attributes:
        available: the versions, branches and tags that exist.
    """

    available: Sequence[str]


class TrustListError(KernelsError, ValueError):
    """The user's list of trusted kernels, in the trust file or in `KERNELS_TRUST`, is malformed.

    Attributes:
        source: the file, or the name of the environment variable.
        key: the invalid key of the file; "" for the whole file, and for the variable.
    """

    source: str
    key: str = ""


class UntrustedError(LoadError, PermissionError, ValueError):
    """The kernel is trusted neither by the Hub, for its publisher, nor by the user or the caller.

    Attributes:
        publisher: the organization or user that the repository belongs to.
        commit: the requested commit.
    """

    publisher: str
    commit: str


class TrustUnknownError(LoadError, ConnectionError, FileNotFoundError):
    """The Hub did not say whether it trusts the publisher, and no earlier answer is in the cache.

    That does not make the kernel untrusted: the `__cause__` says why the request failed.

    Attributes:
        publisher: the organization or user that the repository belongs to.
        commit: the requested commit.
    """

    publisher: str
    commit: str


class DigestError(LoadError, ValueError):
    """Files of a build differ from those that were published.

    Attributes:
        files: all paths that are wrong, missing or unexpected, relative to the build.
        path: the first of them.
        expected: what was expected of it, such as "sha256 0f3a...".
        got: what was found.
    """

    files: Sequence[str]
    path: str
    expected: str
    got: str


class DependencyCycleError(DependencyError):
    """Kernels depend on each other in a cycle, or in a chain that is too long."""


# The Hub


class HubError(LoadError):
    """A request to the Hub failed, or its response cannot be used.

    Attributes:
        request: the request, for example "GET http://hub/api/kernels/org/name/refs".
    """

    request: str


class HubUnreachableError(HubError, ConnectionError, FileNotFoundError):
    """A request to the Hub failed, after all retries: no connection, a time-out or a server error.

    It is unknown whether the requested file or repository exists.
    """


class HubOfflineError(HubUnreachableError):
    """The Hub client is offline, or the caller allowed no requests, and the cache has no answer."""


class HubNotFoundError(HubError, FileNotFoundError):
    """What was requested does not exist on the Hub.

    Attributes:
        missing: "repository", "revision" or "entry".
    """

    missing: str


class HubRefusedError(HubError, PermissionError):
    """The Hub refused the request: the token is missing, invalid or lacks access."""


class HubAnswerError(HubError, ValueError):
    """A response of the Hub breaks the protocol, or is too large."""


class CacheError(LoadError, OSError):
    """The cache cannot be written to."""


# Lock files


class LockFileError(LoadError, ValueError):
    """A lock file, or its file of digests, is malformed, or the two do not belong together.

    Attributes:
        path: the file.
        key: the invalid key, or "" for the whole file.
    """

    path: Path
    key: str


class LockFileNotFoundError(LoadError, FileNotFoundError, ValueError):
    """No lock file exists at the given path, or for the calling package.

    Attributes:
        source: where it was expected.
    """

    source: str


class NotLockedError(LoadError, LookupError, ValueError):
    """A lock file does not contain the kernel.

    Attributes:
        source: the lock file.
    """

    source: str


class BundleError(KernelsError, ValueError):
    """A bundle of kernels is damaged, is not the expected one, or cannot be written.

    Attributes:
        path: the bundle.
    """

    path: Path


class ProjectError(KernelsError, ValueError):
    """The kernels that a `pyproject.toml` requires are malformed.

    Attributes:
        path: the file.
        key: the invalid key, or "" for the whole file.
    """

    path: Path
    key: str


# Layers


class InvalidLayerError(LoadError, TypeError):
    """A kernel layer breaks a rule for layers.

    Attributes:
        layer: name of the layer in the kernel repository.
        rule: the rule that it breaks.
    """

    layer: str
    rule: str


class LayerNotFoundError(InvalidLayerError, ValueError):
    """A kernel exports no layers, or not this one."""


class NotExtensibleError(KernelsError, TypeError, ValueError):
    """A function that was passed to `use_kernelized_func` is not extensible."""


class SignatureMismatchError(InvalidLayerError):
    """A kernel's `forward` cannot be called like the `forward` that it would replace."""


class LayerModeError(KernelsError, ValueError):
    """A mapping entry is registered for a mode that its layer does not support."""

    repository: str
    layer: str


class NoKernelError(KernelsError, ValueError):
    """No kernel is available for a layer, and `use_fallback` does not allow the original `forward`.

    Attributes:
        layer: the name that the layer is marked with.
        reason: why there is none.
    """

    layer: str
    reason: str


class ApplyError(KernelsError, TypeError):
    """The `forward` of a module cannot be replaced, because of its class."""

    layer: str


class NoBackwardError(KernelsError, RuntimeError):
    """Gradients were computed through a kernel that has no backward."""

    layer: str


class StalePlanError(KernelsError, RuntimeError):
    """The layers of a model changed after it was planned and before the plan was applied."""

    layer: str


class ReportNotFoundError(KernelsError, LookupError):
    """The model has no report, because it has not been kernelized."""


class CheckError(KernelsError):
    """A kernel repository could not be checked, so there is no result.

    Attributes:
        path: the repository or file that should have been checked.
    """

    path: object


class CompatError(KernelsError, RuntimeError):
    """This package cannot provide `kernels` in this process."""
