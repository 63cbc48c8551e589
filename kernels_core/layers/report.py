"""The report of a `kernelize` call: what every layer got, or why it kept its forward."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from kernels_core.mode import Mode

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn


@attrs.frozen
class ReportRow:
    """The decision for modules of one class, layer name and device.

    Attributes:
        layer_name: name under which the layer is extensible.
        class_name: the modules' class, or the function's name.
        device: the torch device, for example "cuda:0".
        count: how many modules.
        backend: the backend that serves the device, or None.
        kernel: the kernel's layer that they run, or None if they keep their own forward.
        repository: where the kernel comes from, or None.
        variant: name of the build, or None.
        commit: commit of the repository, or None where it has none.
        mode: the mode for which the kernel is registered, or None.
        candidates: in a plan, the repositories that will be tried, in this order.
        reason: why they keep their forward; "" if they run a kernel.
        passed_over: why candidates that come before the kernel in the mapping are not used.
        note: what a user of the kernel must know; usually "".
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
    candidates: tuple[str, ...] = ()
    reason: str = ""
    passed_over: tuple[str, ...] = ()
    note: str = ""

    @property
    def decision(self) -> str:
        """The kernel and where it comes from, or why the modules keep their forward."""
        if self.candidates:
            return "to try: " + ", then ".join(self.candidates)
        if self.kernel is None:
            return f"original forward: {self.reason}"
        parts = [self.kernel, f"from {self.repository}"]
        if self.variant:
            parts.append(f"variant {self.variant}")
        if self.commit:
            parts.append(f"commit {self.commit}")
        notes = [self.note] if self.note else []
        notes += [f"passed over: {' '.join(reason.split())}" for reason in self.passed_over]
        return ", ".join(parts) + (f" ({'; '.join(notes)})" if notes else "")


@attrs.frozen(eq=False)
class KernelizeReport:
    """What one `kernelize` call decided.

    Attributes:
        mode: the requested mode.
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
    # Of each row, the class that the modules got; weak, because it may refer to its instances.
    _classes: tuple[weakref.ref[type[nn.Module]], ...]

    def modules(self) -> Iterator[tuple[str, ReportRow]]:
        """Iterate over the modules with a decision, as pairs of qualified name and row.

        Extensible functions are not modules of the model, so they only have rows.
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

    def _says_the_same(self, other: KernelizeReport) -> bool:
        return self.rows == other.rows and all(
            set(mine) == set(their)
            for mine, their in zip(self._members, other._members, strict=True)
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        return rows_to_dict(self.mode, self.rows)

    def __str__(self) -> str:
        return table(self.rows)

    def __rich__(self) -> Table:
        """The report as a table for a terminal: `rich.print(report)`."""
        # Here, because rich calls this, and only then is it needed.
        from rich.table import Table

        made = Table(*_COLUMNS)
        for row in self.rows:
            made.add_row(*_cells(row))
        return made


_COLUMNS = ("count", "layer", "class", "device", "decision")


def _cells(row: ReportRow) -> tuple[str, ...]:
    return (str(row.count), row.layer_name, row.class_name, row.device, row.decision)


def table(rows: Iterable[ReportRow]) -> str:
    """Rows as aligned columns of plain text."""
    lines = [_cells(row) for row in rows]
    if not lines:
        return "no extensible layers"
    lines.insert(0, _COLUMNS)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def rows_to_dict(mode: Mode, rows: Iterable[ReportRow]) -> dict[str, Any]:
    """Rows as plain data, ready for JSON."""
    layers = [{**attrs.asdict(row), "decision": row.decision} for row in rows]
    return {"mode": str(mode), "layers": layers}


# Keyed by the model, so that a report lives as long as its model.
_reports: weakref.WeakKeyDictionary[nn.Module, KernelizeReport] = weakref.WeakKeyDictionary()


# A row, the class that modules got, and the modules.
Outcome = tuple[ReportRow, "type[nn.Module]", "list[nn.Module]"]


def make_report(model: nn.Module, mode: Mode, outcomes: Iterable[Outcome]) -> KernelizeReport:
    """Make the report of a call. Groups with equal rows share one row, which counts them all."""
    members: dict[ReportRow, list[int]] = {}
    classes: dict[ReportRow, type[nn.Module]] = {}
    for row, cls, modules in outcomes:
        members.setdefault(row, []).extend(map(id, modules))
        classes[row] = cls
    return KernelizeReport(
        mode,
        tuple(attrs.evolve(row, count=len(ids)) for row, ids in members.items()),
        weakref.ref(model),
        tuple(members.values()),
        tuple(map(weakref.ref, classes.values())),
    )


def current_report(model: nn.Module) -> KernelizeReport | None:
    """The report of a model, or None."""
    return _reports.get(model)


def set_report(model: nn.Module, new: KernelizeReport | None) -> None:
    """Replace the report of a model; None removes it."""
    if new is None:
        _reports.pop(model, None)
    else:
        _reports[model] = new


# By report, the ids of its modules, and what was warned of since it was made.
_warned: weakref.WeakKeyDictionary[KernelizeReport, tuple[frozenset[int], set[str]]] = (
    weakref.WeakKeyDictionary()
)


def is_news(module: nn.Module, text: str) -> bool:
    """Whether a text about one of a model's modules is new since the model was kernelized."""
    for made in _reports.values():
        if made not in _warned:
            _warned[made] = (frozenset(one for ids in made._members for one in ids), set())
        members, known = _warned[made]
        if id(module) in members:
            if text in known:
                return False
            known.add(text)
    return True
