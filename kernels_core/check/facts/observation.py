"""What running the build for this machine shows; `run/` finds it out."""

from __future__ import annotations

import attrs


@attrs.frozen
class Failure:
    """Something that failed when the build was run.

    Attributes:
        kind: what was tried: "import", "beside", "layer", "test", "opcheck", "compile", "gradient".
        what: what it was tried with: the name of a layer, an operator or a test.
        text: what went wrong.
        path: the file, relative to the repository.
        line: the line in it.
    """

    kind: str
    what: str
    text: str
    path: str
    line: int | None = None


@attrs.frozen
class Observation:
    """What running a build showed.

    Attributes:
        variant: the build; None when none fits this machine.
        path: its directory, relative to the repository.
        declared: the `id` in its metadata.
        dependencies: the Python packages that it declares.
        namespaces: the namespaces of the operators that importing it registered.
        failures: what went wrong.
        not_judged: what could not be tried, each with its reason.
    """

    variant: str | None
    path: str = ""
    declared: str | None = None
    dependencies: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    not_judged: tuple[str, ...] = ()
