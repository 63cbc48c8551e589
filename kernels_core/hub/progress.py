"""One line on the terminal that shows how far downloads, and other work on large files, are.

It appears when work takes longer than a moment, also while a server does not answer, and is written
by a thread of its own. It looks like the bars of the Hub client, and is switched off as they are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from kernels_core import notices

Progress = Callable[[int], None]

# Seconds: what is done by then is not shown at all, and how often the line is written.
_DELAY = 0.5
_INTERVAL = 0.2
# Columns: what the figures and the verb need, and the least for the name.
_FIGURES, _NARROWEST = 60, 12

_logger = logging.getLogger("kernels_core")


class _Line:
    """The line of the blocks that are open at the same time, in whichever threads."""

    def __init__(self) -> None:
        self.blocks = 0
        self.failed = False
        self.verb = "Downloading"
        self.names: set[str] = set()
        self.done = self.total = 0
        self._start = time.monotonic()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._shown = ""

    def begin(self) -> None:
        """There is something to wait for, so the line may appear."""
        with self._writing:
            if self._thread is not None or not _is_terminal():
                return
            self._start = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="kernels progress", daemon=True)
            # Where the system has no more threads, there is no line.
            with contextlib.suppress(RuntimeError):
                self._thread.start()

    def end(self) -> None:
        """Write the line for the last time, or remove it."""
        self._ended.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(1.0)  # a terminal may be stopped

    def _run(self) -> None:
        if self._ended.wait(_DELAY):
            return
        from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]

        if are_progress_bars_disabled("kernels_core.download"):
            return
        # What is said meanwhile has a line of its own, and this one is written again after it.
        _logger.addFilter(self._filter)
        notices.before_saying.append(self._clear)
        try:
            self._write(self._text())
            while not self._ended.wait(_INTERVAL):
                self._write(self._text())
            if self.done and not self.failed:
                self._write(self._text())
                _print("\n")
            else:
                self._clear()
        finally:
            self.remove_hooks()

    def remove_hooks(self) -> None:
        """Let others write to the terminal without asking."""
        _logger.removeFilter(self._filter)
        if self._clear in notices.before_saying:
            notices.before_saying.remove(self._clear)

    def _filter(self, _: logging.LogRecord) -> bool:
        self._clear()
        return True

    def _clear(self) -> None:
        self._write("")

    def _text(self) -> str:
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

        names = [*self.names]
        what = names[0] if len(names) == 1 else f"{len(names)} kernels" if names else ""
        room = max(_NARROWEST, _columns() - _FIGURES)
        if len(what) > room:  # a path; its end says more
            what = f"...{what[3 - room :]}"
        encoding = getattr(sys.stderr, "encoding", None) or ""
        return str(
            tqdm.format_meter(
                self.done,
                self.total or None,
                time.monotonic() - self._start,
                ncols=_columns() - 1,
                prefix=f"{self.verb} {what}".rstrip(),
                ascii=not encoding.lower().startswith("utf"),
                unit="B",
                unit_scale=True,
            )
        )

    def _write(self, text: str) -> None:
        with self._writing:
            if text:
                _print("\r" + text.ljust(len(self._shown)))
            elif self._shown:
                # Two more: the terminal shows ^C where the line ends.
                width = min(len(self._shown) + 2, _columns() - 1)
                _print("\r" + " " * width + "\r")
            self._shown = text


_line: _Line | None = None
_lock = threading.Lock()


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Everything in the block shows its progress in one line; blocks may be nested."""
    global _line
    with _lock:
        line = _line = _line or _Line()
        line.blocks += 1
    try:
        yield
    except BaseException:
        line.failed = True
        raise
    finally:
        with _lock:
            line.blocks -= 1
            is_last = line.blocks == 0
            if is_last and _line is line:
                _line = None
        if is_last:
            line.end()


def show_waiting() -> None:
    """Show that the block waits for something, such as the answer of a server."""
    line = _line
    if line is not None:
        line.begin()


@contextlib.contextmanager
def progress_bar(verb: str, name: str, size: int) -> Iterator[Progress]:
    """Show that something is done with a number of bytes, such as "Downloading" "org/name".

    Yields a function to call with the number of bytes as they are done, from any thread.
    """
    with one_line():
        line = _line
        assert line is not None

        def advance(count: int) -> None:
            with _lock:
                line.done += count

        with _lock:
            line.verb = verb
            line.names.add(name)
            line.total += size
        line.begin()
        yield advance


def _is_terminal() -> bool:
    with contextlib.suppress(AttributeError, ValueError):  # not a file, or closed
        return sys.stderr.isatty()
    return False


def _columns() -> int:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return 80


def _print(text: str) -> None:
    with contextlib.suppress(AttributeError, ValueError, OSError):  # it may be closed by now
        sys.stderr.write(text)
        sys.stderr.flush()


def _forget_line() -> None:
    # Its thread, and the blocks that are open in other threads, do not exist in a forked process.
    global _line, _lock
    if _line is not None:
        _line.remove_hooks()
    _line, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_line)
