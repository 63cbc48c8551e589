"""Progress bars, in the style of the Hub client."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

Progress = Callable[[int], None]

# Below this many bytes a bar is gone before it can be read, and dozens of them are noise.
_WORTH_A_BAR = 1_000_000


@contextlib.contextmanager
def progress_bar(title: str, size: int) -> Iterator[Progress]:
    """Show a bar on a terminal, unless the Hub client's bars are disabled or there are few bytes.

    Yields a function to call with the number of bytes as they arrive, from any thread.
    """
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    lock = threading.Lock()
    # disable=None: only where standard error is a terminal.
    with tqdm(  # type: ignore[no-untyped-call]
        desc=title,
        total=size,
        unit="B",
        unit_scale=True,
        disable=None if size >= _WORTH_A_BAR else True,
        name="kernels_core.download",
    ) as bar:

        def advance(count: int) -> None:
            with lock:
                bar.update(count)

        yield advance
