"""Signs of life in long work: a bar on a terminal, else a line now and then; numbers alone, no names."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from ignite.engine import Engine

T = TypeVar("T")
# A line is due after so many seconds, or earlier once so much more is done, but never in quick succession.
INTERVAL, SHARE, LEAST = 30.0, 0.05, 5.0


class Progress:
    """How far a piece of work has come; a context manager.

    Args:
        what: what is done, as ``"reading films"``.
        total: how many there are.
        shown: whether anything is shown.
    """

    def __init__(self, what: str, total: int, shown: bool = True) -> None:
        self.what, self.total, self.done = what, total, 0
        self._bar = tqdm(desc=what, total=total, unit=" films", disable=not (shown and sys.stderr.isatty()))
        self._lines = shown and self._bar.disable
        self._reported, self._then = 0, time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """Say that so many more are done."""
        self._bar.update(count)
        self.done = min(self.done + count, self.total)
        waited = time.monotonic() - self._then
        due = waited >= INTERVAL or (waited >= LEAST and self.done - self._reported >= SHARE * self.total)
        if self._lines and due:
            share = 100 * self.done // max(self.total, 1)
            print(f"{self.what}: {self.done} of {self.total} ({share}%)", file=sys.stderr, flush=True)
            self._reported, self._then = self.done, time.monotonic()


def progress(items: Iterable[T], what: str, total: int, shown: bool = True) -> Iterator[T]:
    """Pass items on and show how many; see :class:`Progress`."""
    with Progress(what, total, shown) as bar:
        for item in items:
            yield item
            bar.update()


class EngineProgress:
    """A handler that shows how far an epoch of an engine has come.

    Args:
        what: what is done.
        films: how many films an iteration takes.
    """

    def __init__(self, what: str = "films", films: int = 1) -> None:
        self.what, self.films = what, films
        self._seen: Progress | None = None

    def attach(self, engine: Engine) -> None:
        """Follow the iterations of ``engine``."""
        from ignite.engine import Events  # which the processes that read films do without

        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._close)
        engine.add_event_handler(Events.TERMINATE, self._close)

    def _start(self, engine: Engine) -> None:
        epochs = engine.state.max_epochs or 1
        what = f"epoch {engine.state.epoch} of {epochs}, {self.what}" if epochs > 1 else self.what
        self._seen = Progress(what, self.films * (engine.state.epoch_length or 0))

    def _update(self, engine: Engine) -> None:
        if self._seen:
            self._seen.update(self.films)

    def _close(self, engine: Engine) -> None:
        if self._seen:
            self._seen.__exit__()
            self._seen = None
