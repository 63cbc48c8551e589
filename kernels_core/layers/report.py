"""The report of a `kernelize` call: what every layer got, or why it kept its forward."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs

from kernels_core.errors import ReportNotFoundError
from kernels_core.mode import Mode

if TYPE_CHECKING:
    from torch import nn

    from kernels_core.layers.choose import Choice

_FUNCTION_NOTE = "one function for the whole process"


@attrs.frozen
class ReportRow:
    """The decision for the modules that share class, device and outcome.

    Attributes:
        layer_name: name under which the layer is extensible.
        class_name: the modules' class, or the function's name.
        device: the torch device, for example "cuda:0".
        count: how many modules.
        backend: the backend that serves the device, or None.
        kernel: the kernel's layer that they run, or None when they keep their own forward.
        repository: where the kernel comes from, or None.
        variant: name of the build, or None.
        commit: commit of the repository, or None where it has none.
        mode: the mode under which the kernel is registered, or None.
        reason: why they keep their forward; "" when there is a kernel.
        note: what a user of the kernel must know; mostly "".
    """

    layer_name: str
    class_name: str
    device: str
    count: int
    backend: str | None = None
    kernel: str | None = None
    repository: str | None = None
    variant: str | None = None
    commit: str | None = None
    mode: str | None = None
    reason: str = ""
    note: str = ""

    @property
    def decision(self) -> str:
        """The kernel and where it comes from, or why the modules keep their forward."""
        if self.kernel is None:
            return f"original forward: {self.reason}"
        parts = [self.kernel, f"from {self.repository}"]
        if self.variant:
            parts.append(f"variant {self.variant}")
        if self.commit:
            parts.append(f"commit {self.commit}")
        return ", ".join(parts) + (f" ({self.note})" if self.note else "")


@attrs.frozen(eq=False)
class KernelizeReport:
    """What one `kernelize` call decided.

    Attributes:
        mode: the mode that was asked for.
        rows: one row per distinct class, layer name, device and decision.

    Example:
        >>> import kernels_core
        >>> from torch import nn
        >>> model = kernels_core.kernelize(
        ...     nn.Linear(2, 2), mode=kernels_core.Mode.INFERENCE, device="cpu"
        ... )
        >>> print(kernels_core.report(model))
        no extensible layers
    """

    mode: Mode
    rows: tuple[ReportRow, ...]
    _model: weakref.ref[nn.Module]
    _members: tuple[list[int], ...]  # ids: a report must not keep the modules alive

    def modules(self) -> Iterator[tuple[str, ReportRow]]:
        """The qualified name of every module with a decision, and its row.

        Functions are no modules of the model and have rows only.
        """
        model = self._model()
        if model is None:
            return
        row_of = {
            member: row
            for row, members in zip(self.rows, self._members, strict=True)
            for member in members
        }
        for name, module in model.named_modules():
            row = row_of.get(id(module))
            if row is not None:
                yield name, row

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        rows = [{**attrs.asdict(row), "decision": row.decision} for row in self.rows]
        return {"mode": str(self.mode), "layers": rows}

    def __str__(self) -> str:
        if not self.rows:
            return "no extensible layers"
        lines = [("count", "layer", "class", "device", "decision")]
        for row in self.rows:
            cells = (str(row.count), row.layer_name, row.class_name, row.device, row.decision)
            lines.append(cells)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


# Keyed by the model, so that a report lives as long as its model and says nothing about another.
_reports: weakref.WeakKeyDictionary[nn.Module, KernelizeReport] = weakref.WeakKeyDictionary()


def _row(choice: Choice) -> ReportRow:
    group = choice.row.group
    loaded = choice.loaded
    build = loaded.build if loaded else None
    target = choice.row.target
    notes = [choice.note, _FUNCTION_NOTE if group.function and loaded else ""]
    return ReportRow(
        layer_name=group.layer_name,
        class_name=group.original.__qualname__,
        device=str(group.device),
        count=len(group.modules),
        backend=target.backend.name if target else None,
        kernel=loaded.layer.__name__ if loaded else None,
        repository=str(choice.candidate.repository) if choice.candidate else None,
        variant=build.variant if build else None,
        commit=build.commit if build else None,
        mode=str(choice.candidate.mode) if choice.candidate else None,
        reason=choice.reason,
        note="; ".join(note for note in notes if note),
    )


def make_report(model: nn.Module, mode: Mode, choices: list[Choice]) -> KernelizeReport:
    """Make the report of a call and keep it for `report`.

    Args:
        model: the model that was kernelized.
        mode: the mode that was asked for.
        choices: what was chosen. Modules that differ only in the class they had before share a row.
    """
    members: dict[ReportRow, list[int]] = {}
    for choice in choices:
        row = attrs.evolve(_row(choice), count=0)
        members.setdefault(row, []).extend(map(id, choice.row.group.modules))
    made = KernelizeReport(
        mode,
        tuple(attrs.evolve(row, count=len(ids)) for row, ids in members.items()),
        weakref.ref(model),
        tuple(members.values()),
    )
    _reports[model] = made
    return made


def forget(model: nn.Module) -> None:
    """Drop the report of a model that is no longer kernelized."""
    _reports.pop(model, None)


def report(model: nn.Module) -> KernelizeReport:
    """The report of the last `kernelize` call on this model.

    Args:
        model: the very object that was given to `kernelize`.

    Raises:
        ReportNotFoundError: the model was never kernelized, or `unkernelize` undid it.

    Example:
        >>> import kernels_core
        >>> from torch import nn
        >>> model = kernels_core.kernelize(
        ...     nn.Linear(2, 2), mode=kernels_core.Mode.INFERENCE, device="cpu"
        ... )
        >>> kernels_core.report(model).to_dict()
        {'mode': 'INFERENCE', 'layers': []}
    """
    found = _reports.get(model)
    if found is None:
        raise ReportNotFoundError(
            f"There is no report for this {type(model).__qualname__}: it has not been kernelized. "
            f"Reports belong to the object that was given to kernelize, not to its copies or parts."
        )
    return found
