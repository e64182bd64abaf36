"""The processes of one folder run, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from monai_cxr_vae.errors import InputError, OutputError

T = TypeVar("T")

# The first rank to finish waits for the last one, however long that takes; a rank that dies ends the others at once.
_PATIENCE = timedelta(days=30)


class Ranks:
    """Processes that share the films of a folder run; a context manager.

    Entering connects them, leaving in peace waits for all. What they say to each other travels by gloo, whatever the
    network runs on.

    Args:
        rank: number of this process.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._own, self._group = False, None

    @classmethod
    def from_environment(cls) -> Ranks:
        """The processes that torchrun started; one alone if it did not."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.rank == 0

    def __enter__(self) -> Ranks:
        if self.size > 1:
            self._own = not dist.is_initialized()
            if self._own:
                dist.init_process_group("gloo")
            self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.wait()
        if self._own:
            self._group = None  # its threads end with the last reference, and must not outlive the interpreter
            dist.destroy_process_group()

    def wait(self) -> None:
        """Wait until all have come here."""
        if self.size > 1:
            dist.barrier(self._group)

    def from_first(self, make: Callable[[], T]) -> T:
        """Give what ``make`` gives in the first process, in all of them.

        Raises:
            InputError, OutputError: what ``make`` raises, in all of them too.
        """
        answer: list[Any] = [None]
        if self.first:
            try:
                answer = [(make(), None)]
            except (InputError, OutputError) as error:
                answer = [(None, error)]
        if self.size > 1:
            dist.broadcast_object_list(answer, group=self._group)
        value, raised = answer[0]
        if raised is not None:
            raise raised
        result: T = value
        return result

    def share(self, whole: list[T]) -> list[T]:
        """This process's part of a list that all have."""
        return whole[self.rank :: self.size]
