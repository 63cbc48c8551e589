"""A diagnosis as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kernels_core.cli.doctor import Active, Diagnosis
    from kernels_core.cli.examination import BackendReport
    from kernels_core.compat.provider import Provider
    from kernels_core.host import HostInfo

# The width of text for files and pipes: every row stays on one line.
_UNLIMITED = 100_000


def as_text(diagnosis: Diagnosis, width: int | None) -> str:
    """A diagnosis as text, for a terminal of this width; None for a file or a pipe."""
    text = click.HelpFormatter(width=width or _UNLIMITED)
    _rows(text, f"kernels-core {diagnosis.kernels_core}", _machine(diagnosis))
    _rows(text, "Backends", ((_title(r), _state(r)) for r in diagnosis.backends))
    _rows(text, "Devices", (row for r in diagnosis.backends for row in _devices(r)))
    active = [*diagnosis.active.items(), ("(none requested)", diagnosis.default)]
    _rows(text, "Backend of each device type", ((kind, _served(choice)) for kind, choice in active))
    _rows(
        text,
        "Disabled",
        ((f"{b.plugin} ({b.distribution})", b.reason) for b in diagnosis.blocked),
    )
    _rows(
        text, "To install", ((d.device_type, f"{d.name}: {d.advice}") for d in diagnosis.unserved)
    )
    _rows(text, "import kernels", _import_kernels(diagnosis.import_kernels))
    for failure in diagnosis.failures:
        title = f"{failure.plugin} ({failure.distribution}) failed ({failure.phase})"
        _trouble(text, title, str(failure.error), failure.traceback)
    for problem in diagnosis.problems:
        _trouble(text, "Problem", problem.message, problem.traceback)
    text.write_paragraph()
    text.write_text(_verdict(diagnosis))
    return text.getvalue().strip()


def _import_kernels(provider: Provider | None) -> list[tuple[str, str]]:
    if provider is None:
        return []
    return [(f"{provider.name} {provider.version or ''}".strip(), provider.note)]


def _rows(text: click.HelpFormatter, title: str, rows: Iterable[tuple[str, str]]) -> None:
    rows = [(first, " ".join(second.split())) for first, second in rows]
    if not rows:
        return
    with text.section(click.style(title, bold=True)):
        text.write_dl(rows, col_max=50)


def _trouble(text: click.HelpFormatter, title: str, message: str, trace: str) -> None:
    with text.section(click.style(title, bold=True)):
        text.write_text(message)
        text.write_paragraph()
        for line in trace.splitlines():
            text.write(f"{'':{text.current_indent}}{line}\n")


def _machine(diagnosis: Diagnosis) -> Iterable[tuple[str, str]]:
    if diagnosis.host is not None:
        yield from _host(diagnosis.host)
    yield from diagnosis.environment.items()


def _host(host: HostInfo) -> Iterable[tuple[str, str]]:
    yield "system", f"{host.os} {host.os_version}"
    yield "CPU", host.cpu
    free_threaded = " (free-threaded)" if host.free_threaded else ""
    yield "Python", ".".join(map(str, host.python)) + free_threaded
    if host.torch is None:
        yield "torch", "not installed"
        return
    abi = {True: ", C++11 ABI", False: ", C++98 ABI", None: ""}[host.torch.cxx11_abi]
    yield "torch", host.torch.version + abi


def _title(report: BackendReport) -> str:
    return f"{report.name} ({report.distribution})"


def _state(report: BackendReport) -> str:
    if report.available is None:
        return "failed, see below"
    parts = [report.reason or _count(len(report.devices), "device")]
    if report.available and report.runtime_version:
        parts.append(f"runtime {report.runtime_version}")
    if report.layers:
        parts.append(f"provides {', '.join(report.layers)}")
    return "; ".join(parts)


def _devices(report: BackendReport) -> Iterable[tuple[str, str]]:
    for facts in report.devices:
        others = {key: value for key, value in facts.items() if key not in ("index", "name")}
        described = [f"{key} {_fact(value)}" for key, value in others.items()]
        yield f"{report.name}:{facts['index']}", "; ".join([str(facts["name"]), *described])


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_fact, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    return str(value)


def _served(active: Active) -> str:
    return f"{active.backend}: {active.why}" if active.backend else f"none: {active.why}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _verdict(diagnosis: Diagnosis) -> str:
    if diagnosis.healthy:
        return click.style("Healthy.", fg="green")
    reasons = []
    failed = {(failure.plugin, failure.distribution) for failure in diagnosis.failures}
    if failed:
        reasons.append(f"{_count(len(failed), 'plugin')} failed")
    reasons += [problem.message for problem in diagnosis.problems]
    if diagnosis.default.backend is None and not diagnosis.problems:
        reasons.append(f"no backend can be used: {diagnosis.default.why}")
    return click.style(f"Not healthy: {'; '.join(reasons)}", fg="red")
