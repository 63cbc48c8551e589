"""The exceptions of kernels-core.

Every exception derives from `KernelsError` and from the built-in that its kind suggests, so callers
may catch either. What an exception is about stands in its attributes, not only in its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class KernelsError(Exception):
    """Base of every exception that kernels-core raises on purpose.

    The keyword arguments become attributes of the exception. They survive pickling, so an error
    that was raised in a worker process still names its plugin, repository or layer.

    Example:
        >>> from kernels_core.errors import VariantNameError
        >>> VariantNameError("not a variant", name="torch").name
        'torch'
    """

    def __init__(self, message: str, **about: object) -> None:
        super().__init__(message)
        self.__dict__.update(about)


class EnvironmentVariableError(KernelsError, ValueError):
    """An environment variable has a value that cannot be understood."""

    variable: str


class InvalidModeError(KernelsError, ValueError):
    """A combination of `Mode` flags that means nothing, or one that is not allowed here."""


class MappingError(KernelsError, ValueError):
    """A kernel mapping has a value that cannot be used."""


class MappingTypeError(KernelsError, TypeError):
    """A kernel mapping holds an object of the wrong type."""


# Plugins and backends


class PluginError(KernelsError, RuntimeError):
    """A backend plugin broke the hook contract or failed.

    Attributes:
        plugin: name of the entry point.
        distribution: name and version of the package that brings it.
        phase: what the core was doing with it, for example "import" or "detect".
        backend: name of the backend that it declares; "" when it failed before it declared one.
        torch_device_type: what torch calls the devices of that backend; "" likewise.
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
    """No device was given, and there are no parameters or buffers to tell one from."""


class BackendNotInstalledError(KernelsError, ImportError):
    """The plugin that serves this type of device is not installed, or is switched off."""

    backend: str


class BackendUnavailableError(KernelsError, RuntimeError):
    """The backend is installed, but this machine lacks what it needs, or the plugin failed."""

    backend: str


# Repositories


class VariantNameError(KernelsError, ValueError):
    """A directory name under `build/` does not follow the grammar of variant names."""

    name: str


class LoadError(KernelsError, RuntimeError):
    """A kernel could not be loaded. Subclasses say at which step."""

    repository: str


class RepositoryNotFoundError(LoadError, FileNotFoundError):
    """The kernel repository, or its `build` directory, is not there."""


class NoFittingBuildError(LoadError, FileNotFoundError):
    """The repository is there and none of its builds fits this machine.

    Attributes:
        decisions: one `BuildDecision` per build, each with the reason for its rejection.
    """

    decisions: Sequence[object]


class MetadataError(LoadError, ValueError):
    """A `metadata.json` that breaks its schema.

    Attributes:
        path: the file.
        key: the offending key, or "" when the file as a whole is unreadable.
    """

    path: Path
    key: str


class DependencyError(LoadError, ImportError):
    """Python packages or kernels that a kernel declares as dependencies are missing."""

    missing: Sequence[str]


class KernelImportError(LoadError, ImportError):
    """The kernel's own code failed while it was imported; its exception is the `__cause__`."""


class NamespaceTakenError(LoadError, ImportError):
    """The operators of a native build are registered already, so loading it would end the process.

    Attributes:
        namespace: the namespace of the operators, in `torch.ops`.
    """

    namespace: str


class VersionNotFoundError(LoadError, ValueError):
    """A repository of the Hub has no such version, branch or tag.

    Attributes:
        available: the versions, branches and tags that exist.
    """

    available: Sequence[str]


class TrustListError(KernelsError, ValueError):
    """What the user allows, in the trust file or in `KERNELS_TRUST`, cannot be understood.

    Attributes:
        source: the file, or the name of the environment variable.
        key: the offending key of the file; "" when it is the file as a whole, or a variable.
    """

    source: str
    key: str = ""


class UntrustedError(LoadError, PermissionError):
    """Nobody vouches for the kernel: not its publisher's standing on the Hub, and not the user.

    Attributes:
        publisher: the organization or user that the repository belongs to.
        commit: the commit that was asked for.
    """

    publisher: str
    commit: str


class TrustUnknownError(LoadError, ConnectionError):
    """Whether the publisher is trusted could not be asked, and no earlier answer is on record.

    That is not the same as being untrusted: the `__cause__` says why the Hub could not be asked.

    Attributes:
        publisher: the organization or user that the repository belongs to.
        commit: the commit that was asked for.
    """

    publisher: str
    commit: str


class DigestError(LoadError, ValueError):
    """Files of a build are not what was published.

    Attributes:
        files: all the paths that are wrong, missing or not expected, relative to the build.
        path: the first of them.
        expected: what was expected there, such as "sha256 0f3a...".
        got: what is there.
    """

    files: Sequence[str]
    path: str
    expected: str
    got: str


class DependencyCycleError(DependencyError):
    """Kernels depend on each other in a circle, or in a chain that is too long to be meant."""


# The Hub


class HubError(LoadError):
    """The Hub could not be asked, or its answer is of no use.

    Attributes:
        request: the request, for example "GET http://hub/api/kernels/org/name/refs".
    """

    request: str


class HubUnreachableError(HubError, ConnectionError):
    """A request failed, however often it was made. Says nothing of what exists on the Hub.

    There was no connection, no answer in time, or an error of the server.
    """


class HubOfflineError(HubUnreachableError):
    """The Hub client is offline, or the caller forbade requests, and the cache has no answer."""


class HubNotFoundError(HubError, FileNotFoundError):
    """The Hub says that something is not there.

    Attributes:
        missing: "repository", "revision" or "entry".
    """

    missing: str


class HubRefusedError(HubError, PermissionError):
    """The Hub refuses the request: a token is missing, is wrong, or gives no access."""


class HubAnswerError(HubError, ValueError):
    """The Hub's answer breaks the protocol, or is larger than anything a kernel needs."""


class CacheError(LoadError, OSError):
    """The cache cannot be written."""


# Lock files


class LockFileError(LoadError, ValueError):
    """A lock file, or its file of digests, is malformed, or the two do not belong together.

    Attributes:
        path: the file.
        key: the offending key, or "" for the file as a whole.
    """

    path: Path
    key: str


class LockFileNotFoundError(LoadError, FileNotFoundError):
    """There is no lock file: at the path that was given, or for the package that asks.

    Attributes:
        source: where it was looked for.
    """

    source: str


class NotLockedError(LoadError, LookupError):
    """A lock file does not name the kernel.

    Attributes:
        source: the lock file.
    """

    source: str


class BundleError(KernelsError, ValueError):
    """A bundle of kernels is damaged, is not what it says it is, or cannot be made.

    Attributes:
        path: the bundle.
    """

    path: Path


class ProjectError(KernelsError, ValueError):
    """The kernels that a `pyproject.toml` asks for cannot be understood.

    Attributes:
        path: the file.
        key: the offending key, or "" for the file as a whole.
    """

    path: Path
    key: str


# Layers


class InvalidLayerError(LoadError, TypeError):
    """A kernel layer breaks the rules for layers.

    Attributes:
        layer: name of the layer in the kernel repository.
        rule: which rule it breaks.
    """

    layer: str
    rule: str


class SignatureMismatchError(InvalidLayerError):
    """A kernel's `forward` cannot stand in for the forward that it should replace."""


class LayerModeError(KernelsError, ValueError):
    """A mapping entry is registered for a mode that its layer does not support."""

    repository: str
    layer: str


class NoKernelError(KernelsError, ValueError):
    """No compatible kernel exists for a layer and the fallback policy does not allow to go without.

    Attributes:
        layer: name under which the layer is extensible.
        reason: why there is none.
    """

    layer: str
    reason: str


class ApplyError(KernelsError, TypeError):
    """A module's class does not let its forward be replaced."""

    layer: str


class NoBackwardError(KernelsError, RuntimeError):
    """Gradients were asked of a kernel that has no backward."""

    layer: str


class StalePlanError(KernelsError, RuntimeError):
    """A model's layers were changed after it was planned and before the plan was applied."""

    layer: str


class ReportNotFoundError(KernelsError, LookupError):
    """The model has no report, since it has not been kernelized."""


class CheckError(KernelsError):
    """A kernel repository could not be checked, so nothing is known of it.

    Attributes:
        path: what was to be checked.
    """

    path: object
