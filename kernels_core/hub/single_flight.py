"""Questions that are asked once, whichever threads ask them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class SingleFlight:
    """Answers to questions. Threads that ask the same one at the same time wait for one answer.

    A failure is told to everybody who was waiting for the answer, and is not kept.

    Example:
        >>> once = SingleFlight()
        >>> once.get("when", lambda: "now"), once.get("when", lambda: "later")
        ('now', 'now')
    """

    def __init__(self) -> None:
        self._answers: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_unanswered)

    def get(self, question: Hashable, ask: Callable[[], T]) -> T:
        """The answer to a question.

        Args:
            question: what identifies the question.
            ask: finds the answer; called when nobody has asked.

        Raises:
            Exception: what `ask` raises.
        """
        with self._lock:
            known = self._answers.get(question)
            answer: Future[T] = Future() if known is None else known
            self._answers[question] = answer
        if known is None:
            try:
                answer.set_result(ask())
            except BaseException as error:
                self.forget(question)
                answer.set_exception(error)
        return answer.result()

    def known(self, question: Hashable) -> Any:
        """The answer to a question that has been asked; None for one that has not."""
        answer = self._answers.get(question)
        return answer.result() if answer is not None and answer.done() else None

    def is_asked(self, question: Hashable) -> bool:
        """Whether the question has been asked, or is being asked now."""
        return question in self._answers

    def forget(self, question: Hashable) -> None:
        """Forget an answer; the question is asked again."""
        with self._lock:
            self._answers.pop(question, None)

    def clear(self) -> None:
        """Forget every answer; each question is asked again."""
        with self._lock:
            self._answers.clear()

    def _forget_unanswered(self) -> None:
        # The threads that were asking do not exist in a forked process.
        self._answers = {q: answer for q, answer in self._answers.items() if answer.done()}
        self._lock = threading.Lock()
