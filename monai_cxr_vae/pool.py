"""Processes that run tasks nobody trusts: a crash, a hang or a memory bomb costs one task, never the run."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import time
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from monai_cxr_vae.errors import InputError, OutputError, Reason, WorkerError
from monai_cxr_vae.machine import cpu_count, one_thread

try:
    import resource
except ImportError:  # Windows: memory has no limit there
    resource = None  # type: ignore[assignment]

_START_SECONDS = 300.0
# How often in a row a process may be lost before it has begun, and the first pause before the next try, in seconds.
_START_TRIES = 6
_START_PAUSE = 0.2
_END_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
# Imported once, by the server that all processes are forked from.
_PRELOAD = ("monai_cxr_vae.inference.worker", "monai_cxr_vae.model", "monai.inferers", "monai.transforms")


class LostTask(str):
    """What became of a task that returned nothing: ``crashed``, ``timeout`` or ``out_of_memory``."""


def check_main_guard() -> None:
    """Refuse to go on in a process that is only starting, and imports a script that lacks its main guard for it.

    Raises:
        InputError: this is such a process.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(
            'films are read by processes that import the script: put its work under if __name__ == "__main__"'
        )


class IsolatedPool:
    """Run a function over tasks in processes of its own, in no particular order.

    Args:
        function: picklable; called with a task, returns something picklable. It runs with standard streams closed,
            logging and warnings silenced: libraries quote file contents there.
        workers: number of processes, each with one thread; None takes one per CPU core up to four.
        timeout: seconds a task may take before its process is killed.
        memory_limit: GiB of address space that a process may take beyond what it has when it starts (None: any).
        in_flight: tasks that a process holds: with 2, one waits while the other is at work, so that no process idles
            while the parent stores a row. Only 1 suits tasks and results larger than a pipe's buffer (about 100 kB):
            process and parent would wait for each other to read.

    Raises:
        InputError: see :func:`check_main_guard`.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        workers: int | None = None,
        timeout: float = 120,
        memory_limit: float | None = 3,
        in_flight: int = 2,
    ) -> None:
        check_main_guard()
        self._payload = pickle.dumps(function)
        self._timeout = timeout
        self._memory_limit = memory_limit
        self._in_flight = in_flight
        # A forked server never holds the parent's pipe ends, so a process whose parent dies sees its pipe close. A
        # program that has given up its privileges may no longer start its own interpreter: it can only fork.
        method = "forkserver" if os.access(sys.executable, os.X_OK) else "fork"
        known = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context(method if method in known else "spawn")
        if self._context.get_start_method() == "forkserver":
            self._context.set_forkserver_preload([__name__, *_PRELOAD])
        self._workers: list[_Worker | None] = [None] * (workers or min(4, cpu_count()))
        self._lost_starts = 0

    def __enter__(self) -> IsolatedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the processes before there are tasks for them."""
        self._workers = [worker or self._start() for worker in self._workers]

    def map(self, tasks: deque[Any], bell: Connection | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield ``(task, result)`` as they come; the result is a :class:`LostTask` where the process was lost.

        Args:
            tasks: emptied from the left; whoever takes the results may add to it.
            bell: a message on it ends the wait for results, with None for task and result, since there may be tasks.

        Raises:
            OutputError: raised by the function; the run is over.
            WorkerError: no process can be started, however often it is tried.
        """
        while True:
            for i, worker in enumerate(self._workers):
                while tasks and (worker is None or len(worker.tasks) < self._in_flight):
                    if worker is None:
                        worker = self._workers[i] = self._start()
                    worker.give(tasks.popleft())
            busy = [worker for worker in self._workers if worker is not None and worker.tasks]
            if not busy:
                return
            pipes: list[Connection] = [w.pipe for w in busy] + ([bell] if bell else [])
            ready = wait(pipes, timeout=max(0.0, min(w.deadline for w in busy) - time.monotonic()))
            if bell in ready:
                bell.recv_bytes()  # type: ignore[union-attr]
                yield None, None
            for worker in busy:
                if worker.pipe in ready:
                    yield from self._receive(worker, tasks)
                elif time.monotonic() >= worker.deadline and not worker.pipe.poll():
                    yield from self._lose(worker, tasks, Reason.TIMEOUT)

    def close(self) -> None:
        """End the processes, those at work by force; what they were at is not reported."""
        for worker in self._workers:
            if worker is not None:
                worker.end()
        self._workers = [None] * len(self._workers)

    def _start(self) -> _Worker:
        while True:
            ours, theirs = self._context.Pipe()
            arguments = (theirs, self._payload, self._memory_limit)
            process = self._context.Process(target=_serve, args=arguments, daemon=True)
            try:
                # Importing the program that is running is needed only for what it defines.
                with contextlib.nullcontext() if b"__main__" in self._payload else _without_main_module():
                    process.start()
            except (OSError, EOFError) as error:  # the server that processes are forked from is gone
                ours.close()
                self._count_lost_start(error)
                continue
            finally:
                theirs.close()
            return _Worker(process, ours, self._timeout)

    def _count_lost_start(self, error: BaseException | None = None) -> None:
        """Wait before a process is started again; out of memory, say, there will be room in a moment, or never."""
        self._lost_starts += 1
        if self._lost_starts >= _START_TRIES:
            raise WorkerError(f"the processes that read films cannot be started: {_START_TRIES} were lost") from error
        time.sleep(_START_PAUSE * 2 ** (self._lost_starts - 1))

    def _receive(self, worker: _Worker, tasks: deque[Any]) -> Iterator[tuple[Any, Any]]:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):  # OSError: in the middle of a message
            yield from self._lose(worker, tasks, Reason.CRASHED)
            return
        if kind == "ready":
            self._lost_starts = 0
            worker.begin()
        elif kind == "result":
            task = worker.tasks.popleft()
            worker.restart_clock()
            yield task, value
        elif kind == "output":
            raise OutputError(value)
        else:
            raise WorkerError(f"the processes that read films cannot be started: {value}")

    def _lose(self, worker: _Worker, tasks: deque[Any], reason: str) -> Iterator[tuple[Any, LostTask]]:
        """Give up a process with the task it was at; those that waited behind it get another process."""
        worker.kill()
        self._workers[self._workers.index(worker)] = None
        lost = [(worker.tasks.popleft(), LostTask(reason))] if worker.ready else []
        tasks.extendleft(reversed(worker.tasks))
        if not lost:
            self._count_lost_start()
        yield from lost


class _Worker:
    def __init__(self, process: Any, pipe: Connection, timeout: float) -> None:
        self.process, self.pipe, self._timeout = process, pipe, timeout
        self.tasks: deque[Any] = deque()
        self.ready = False
        self.deadline = time.monotonic() + _START_SECONDS

    def give(self, task: Any) -> None:
        self.tasks.append(task)
        if self.ready:  # else it may not read yet, and the parent must not wait for it
            if len(self.tasks) == 1:
                self.restart_clock()
            self._send(task)

    def begin(self) -> None:
        """The process has started."""
        self.ready = True
        self.restart_clock()
        for task in self.tasks:
            self._send(task)

    def _send(self, task: Any) -> None:
        with contextlib.suppress(ConnectionError):  # a dead process shows when its pipe is read
            self.pipe.send(task)

    def restart_clock(self) -> None:
        self.deadline = time.monotonic() + self._timeout

    def end(self) -> None:
        """Let an idle process clean up after its libraries; it leaves when its pipe closes."""
        if self.ready and not self.tasks:
            self.pipe.close()
            self.process.join(_END_SECONDS)
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, payload: bytes, memory_limit: float | None) -> None:
    """Life of a worker process."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    _silence()
    try:
        one_thread()
        function = pickle.loads(payload)
        _limit_memory(memory_limit)
    except Exception as error:
        pipe.send(("broken", f"{type(error).__name__}: {error}"))
        return
    pipe.send(("ready", None))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            answer = ("result", function(task))
        except OutputError as error:
            answer = ("output", str(error))
        except MemoryError:
            answer = ("result", LostTask(Reason.OUT_OF_MEMORY))
        pipe.send(answer)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _silence() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def _limit_memory(gigabytes: float | None) -> None:
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if gigabytes is not None and sys.platform == "linux":
        with Path("/proc/self/statm").open() as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        limit = taken + int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep a new process from importing the program that is running."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
