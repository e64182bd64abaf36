"""The folder run as a MONAI evaluator: one film is one iteration of the engine."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import Evaluator

from monai_cxr_vae.dicom.objects import Provenance
from monai_cxr_vae.errors import InputError, OutputError, WorkerError
from monai_cxr_vae.inference.batches import FixedBatches, default_size
from monai_cxr_vae.inference.film_chain import FilmChain
from monai_cxr_vae.inference.folder import FilmFolder
from monai_cxr_vae.inference.plan import FolderOptions
from monai_cxr_vae.inference.ranks import Ranks
from monai_cxr_vae.inference.rows import Row, summary
from monai_cxr_vae.inference.run import FolderRun
from monai_cxr_vae.progress import EngineProgress

OUTPUT_FAILED, NO_WORKERS, INTERRUPTED, TERMINATED = 3, 5, 130, 143


class FilmEvaluator(Evaluator):
    """Run a network over a folder of films and write what it makes of them.

    ``engine.state.batch`` and ``engine.state.output`` are the row of the film that has just been finished; handlers for
    iterations see every film that this run works on. No film ends the run: what goes wrong with it is in its row.

    Processes that torchrun started share the films.

    Args:
        device: where the network runs: on the CPU in the worker processes, film by film; else in this process, in
            batches of fixed size (:class:`monai_cxr_vae.inference.batches.FixedBatches`), between reading and writing
            in the worker processes.
        dataset: the films and their preprocessing.
        network: see :class:`monai_cxr_vae.inference.film_chain.FilmChain`, as are ``inferer`` and ``postprocessing``.
            It stays on the CPU; the device gets a copy.
        output_dir: where the results go; belongs to one pair of weights and settings.
        provenance: that pair.
        batch_size: films per batch; given, there are batches on the CPU too.
        val_handlers: event handlers.
        **options: fields of :class:`monai_cxr_vae.inference.run.FolderOptions`.
    """

    def __init__(
        self,
        device: torch.device | str,
        dataset: FilmFolder,
        network: torch.nn.Module,
        inferer: Callable[..., torch.Tensor],
        postprocessing: Callable[[Any], Any],
        output_dir: str | os.PathLike,
        provenance: Provenance,
        batch_size: int | None = None,
        val_handlers: Sequence[Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(torch.device(device), (), epoch_length=1, val_handlers=val_handlers, decollate=False)
        options.setdefault("progress", True)
        self.chain = FilmChain(dataset.transform, network, inferer, postprocessing)
        size = batch_size or default_size(device)
        self.batches = FixedBatches(network, inferer, self.state.device, size) if size else None
        self.ranks = Ranks.from_environment()
        self.dataset = dataset
        self.output_dir = output_dir
        self.provenance = provenance
        self.options = FolderOptions(**options)
        self._folder_run: FolderRun | None = None
        self._error: InputError | None = None
        self.exit_code = 1

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Run the films that are still to be done.

        Afterwards ``exit_code`` describes the folder: 0 all eligible films done, 2 nothing eligible, 3 the output
        cannot be written or is gone, 4 every eligible film failed, 5 no process to read films can be started, 8 some
        done and some failed, 130 and 143 interrupted.

        Raises:
            InputError: the input or output folder cannot be used.
        """
        self.exit_code, self._error = 1, None
        before = _on_termination(_raise_terminated)
        try:
            with self.ranks, self._job() as job:
                self._folder_run = job
                if len(job):
                    self.data_loader = _Rows(job)
                    self.state.epoch_length = len(job)
                    super().run(global_epoch)
                    if self._error:
                        raise self._error
                elif self.ranks.first:
                    print("nothing to do: no film is without its result", file=sys.stderr)
                job.gather()
                self.exit_code = job.exit_code()
                if self.ranks.first:
                    print(f"{summary(job.rows)}; see {Path(self.output_dir) / 'manifest.csv'}", file=sys.stderr)
        except (OutputError, WorkerError) as error:
            self.exit_code = OUTPUT_FAILED if isinstance(error, OutputError) else NO_WORKERS
            print(error, file=sys.stderr)
        except KeyboardInterrupt as error:
            self.exit_code = TERMINATED if isinstance(error, _Terminated) else INTERRUPTED
            print("interrupted; the same command goes on from here", file=sys.stderr)
        finally:
            _on_termination(before)

    def finish(self) -> None:
        """End the program with the exit code of the run.

        Raises:
            SystemExit: unless the code is 0.
        """
        if self.exit_code:
            raise SystemExit(self.exit_code)

    def _job(self) -> FolderRun:
        return FolderRun(
            self.dataset, self.output_dir, self.chain, self.provenance, self.options, self.batches, self.ranks
        )

    def _iteration(self, engine: Any, batchdata: Any) -> Any:
        try:
            if isinstance(batchdata, Exception):
                raise batchdata
            self._folder_run.record(batchdata)  # type: ignore[union-attr]
        except (OutputError, WorkerError) as error:  # the engine would log what passes through it, with a traceback
            self._error = error
            self.terminate()
        return batchdata


class FilmProgress(EngineProgress):
    """How many films are done, told by the first rank of those that share them."""

    def attach(self, engine: Engine) -> None:
        """Follow the iterations of ``engine``."""
        if Ranks.from_environment().first:
            super().attach(engine)


class _Rows:
    """The rows of a run as an engine wants its data: with a length, and an error as the last item."""

    def __init__(self, job: FolderRun) -> None:
        self._job = job

    def __len__(self) -> int:
        return len(self._job)

    def __iter__(self) -> Iterator[Row | InputError]:
        try:
            yield from self._job
        except (OutputError, WorkerError) as error:
            yield error


class _Terminated(KeyboardInterrupt):
    pass


def _raise_terminated(*_: object) -> None:
    raise _Terminated


def _on_termination(handler: Any) -> Any:
    """Set the handler of SIGTERM and return the old one; only the main thread may."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        return signal.signal(signal.SIGTERM, handler)
    return None
