"""The folder of a training run: checkpoints, exact resume, metrics.csv, TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
import os
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Events
from monai.engines import Evaluator, Workflow
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter

from monai_cxr_vae.data.cache import FilmDataset
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import write_whole
from monai_cxr_vae.losses import VAELoss
from monai_cxr_vae.model import RadiographVAE, save_model, save_state

logger = logging.getLogger(__name__)

# Settings that are digests.
_FILMS = {"films": "training films", "val_films": "validation films"}


class Checkpoints:
    """Last state after every epoch, best weights by the validation metric, early stopping, and exact resume.

    ``checkpoints/last.pt`` is written atomically after each epoch and holds all that the next one depends on;
    ``model.pt`` holds the averaged weights of the best validation so far (the last epoch's when none was validated).
    Attach it after the handlers that change that state.

    Args:
        output_dir: folder of the run.
        network: the trained network.
        averaged: running average of its weights, the one that is validated and kept.
        optimizer: its optimizer.
        lr_scheduler: its learning-rate schedule.
        validator: evaluator whose key metric (greater is better) chooses.
        settings: what must not change between the parts of a run, plain values.
        resume: continue the run in ``output_dir``; without it a folder that holds one is refused.
        patience: end after so many epochs without a better validation; None never does.

    Raises:
        InputError: at the start, when the folder holds another run, or one with other settings.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        network: RadiographVAE,
        averaged: AveragedModel,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        validator: Evaluator,
        settings: dict[str, Any],
        resume: bool = False,
        patience: int | None = None,
    ) -> None:
        self.weights = Path(output_dir) / "model.pt"
        self.last = Path(output_dir) / "checkpoints" / "last.pt"
        self.model = cast(RadiographVAE, averaged.module)
        self.validator, self.settings = validator, settings
        self.parts = {"network": network, "averaged": averaged, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
        self.resume, self.patience = resume, patience

    def attach(self, engine: Workflow) -> None:
        """Act when ``engine`` starts, after each of its epochs and when its run is complete."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self.completed)

    def start(self, engine: Workflow) -> None:
        if not self.last.exists():
            if self.resume:
                logger.info("no checkpoint in %s yet: starting from the beginning", self.last.parent)
            return
        if not self.resume:
            raise InputError(f"{self.last.parents[1]} holds a run already; give --resume True or another output_dir")
        state = torch.load(self.last, map_location="cpu", weights_only=True)
        for name in state["settings"] | self.settings:
            before, now = state["settings"].get(name), self.settings.get(name)
            if before != now and name in _FILMS:
                raise InputError(
                    f"cannot resume on other {_FILMS[name]} than before: films have been added, taken away or changed; "
                    "give another output_dir, and these weights as weights to go on from them"
                )
            if before != now:
                raise InputError(f"cannot resume with another {name}: {before!r} before, {now!r} now")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.validator.state.best_metric = state["best_metric"]
        self.validator.state.best_metric_epoch = state["best_metric_epoch"]
        logger.info("resuming after epoch %d", state["epoch"])
        self._stop_early(engine)

    def epoch_completed(self, engine: Workflow) -> None:
        epoch, best = engine.state.epoch, self.validator.state
        if engine.state.rank == 0:
            if best.best_metric_epoch == epoch:
                save_model(self.model, self.weights)
            save_state(
                {name: part.state_dict() for name, part in self.parts.items()}
                | {
                    "epoch": epoch,
                    "iteration": engine.state.iteration,
                    "best_metric": float(best.best_metric),
                    "best_metric_epoch": best.best_metric_epoch,
                    "settings": self.settings,
                },
                self.last,
            )
        self._stop_early(engine)

    def _stop_early(self, engine: Workflow) -> None:
        epoch, best = engine.state.epoch, self.validator.state.best_metric_epoch
        if self.patience and best > 0 and epoch - best >= self.patience:
            logger.info("no better validation for %d epochs: stopping after epoch %d", self.patience, epoch)
            engine.terminate()

    def completed(self, engine: Workflow) -> None:
        if self.validator.state.best_metric_epoch < 1 and engine.state.rank == 0:
            save_model(self.model, self.weights)


class RunLog:
    """One row per epoch in ``metrics.csv``, the same numbers in TensorBoard, a line of the log, and pictures of films.

    A resumed run keeps the rows up to its checkpoint and writes each later epoch once, in both places.
    Attach it after the validation and before :class:`Checkpoints`.

    Args:
        output_dir: folder of the run.
        loss_function: whose terms are averaged over the epoch.
        optimizer: whose learning rate is logged.
        validator: whose metrics are logged.
        averaged: the network whose reconstructions and samples are drawn; None draws nothing.
        films: validation films; the first eight are drawn.
        picture_interval: epochs between pictures.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        loss_function: VAELoss,
        optimizer: torch.optim.Optimizer,
        validator: Evaluator,
        averaged: AveragedModel | None = None,
        films: FilmDataset | None = None,
        picture_interval: int = 10,
    ) -> None:
        self.folder, self.loss_function, self.optimizer = Path(output_dir), loss_function, optimizer
        self.validator, self.averaged, self.films = validator, averaged, films
        self.picture_interval = picture_interval
        self.rows: list[dict[str, str]] = []
        self.sums: dict[str, Tensor] = {}
        self.batches = 0
        self.writer: SummaryWriter | None = None

    def attach(self, engine: Workflow) -> None:
        """Follow the steps and epochs of ``engine``, a trainer; only in the first process."""
        if engine.state.rank == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)
            engine.add_event_handler(Events.COMPLETED, self.close)

    def epoch_started(self, engine: Workflow) -> None:
        self.sums.clear()
        self.batches = 0
        if self.writer is not None:
            return
        # Not earlier: a resumed run knows its epoch only after its checkpoint is loaded.
        done = engine.state.epoch - 1
        self.folder.mkdir(parents=True, exist_ok=True)
        if done and (file := self.folder / "metrics.csv").exists():
            with file.open(newline="") as lines:
                self.rows = [row for row in csv.DictReader(lines) if int(row["epoch"]) <= done]
        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=done + 1)

    def add(self, engine: Workflow) -> None:
        self.batches += 1
        for name, value in self.loss_function.terms.items():
            self.sums[name] = self.sums.get(name, 0) + value

    def write(self, engine: Workflow) -> None:
        epoch = engine.state.epoch
        row = {f"train/{name}": float(value) / self.batches for name, value in self.sums.items()}
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        if self.validator.state.epoch == epoch:  # this epoch was validated
            row |= {f"val/{name}": float(value) for name, value in self.validator.state.metrics.items()}
        writer = cast(SummaryWriter, self.writer)
        for name, value in row.items():
            writer.add_scalar(name, value, epoch)
        due = epoch % self.picture_interval == 0 or epoch in (1, engine.state.max_epochs)
        if due and self.averaged is not None and self.films is not None:
            self._draw(writer, epoch, cast(RadiographVAE, self.averaged.module), self.films.images(8))
        writer.flush()
        values = [f"{name} {value:.4g}" for name, value in row.items() if name.startswith(("train/loss", "val/"))]
        logger.info("epoch %d of %d: %s", epoch, engine.state.max_epochs, ", ".join(values))
        self.rows.append({"epoch": str(epoch)} | {name: repr(value) for name, value in row.items()})
        self._write_csv()

    def close(self, engine: Workflow) -> None:
        if self.writer is not None:  # none was opened when a finished run is resumed
            self.writer.close()

    @torch.no_grad()
    def _draw(self, writer: SummaryWriter, epoch: int, model: RadiographVAE, films: Tensor) -> None:
        model.eval()
        device = model.sigma.device
        films = films.to(device)
        made = model.reconstruct(films).clamp(0, 1)
        rows = torch.cat([films, made, (made - films) / 2 + 0.5])  # grey where nothing differs
        writer.add_image("film, reconstruction, difference", _grid(rows, len(films)), epoch)
        z = model.sample_latents(8, torch.Generator().manual_seed(0))
        writer.add_image("samples from the prior", _grid(model.decode(z).clamp(0, 1), 8), epoch)

    def _write_csv(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, names, restval="")
        table.writeheader()
        table.writerows(self.rows)
        write_whole(self.folder / "metrics.csv", text.getvalue().encode())


def _grid(images: Tensor, columns: int) -> Tensor:
    """Images ``(N, 1, S, S)`` side by side, ``(1, rows * S, columns * S)``."""
    n, _, height, width = images.shape
    rows = images.view(n // columns, columns, height, width)
    return rows.permute(0, 2, 1, 3).reshape(1, -1, columns * width).cpu()
