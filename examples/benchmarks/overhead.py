"""Training through the bundle's own trainer, beside a bare loop over tensors in memory.

The trainer has all of the bundle's handlers, the film cache and a progress bar. After each of its steps come a step of
a bare loop with the same network, batch size, loss and AdamW as PyTorch gives it, one with the recipe's fused AdamW,
and one that also does the recipe's own arithmetic: augmentation, gradient clipping and the running average of the
weights. A network that computes nothing leaves the trainer's own milliseconds.
"""

from __future__ import annotations

import contextlib
import copy
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow
from side_by_side import Row, in_turns, row
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.losses import VAELoss
from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.training import Augmentation, parameter_groups

WARM_UP = 5
STEPS = 2000  # of the whole training that the measured steps are the first of: 50 epochs of 2,560 films
CONFIG = Path(bundle_root()) / "configs" / "train.json"


class Nothing(nn.Module):
    """Has a network's outputs and settings, and computes next to nothing."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        whole = RadiographVAE(image_size=image_size)
        self.image_size, self.fit, self.settings = image_size, whole.fit, whole.settings
        self.learns_prior = False
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latents = self.value.expand(len(x), 1)
        return self.value.expand_as(x), latents, latents


class Bare:
    """A training loop of a few lines, on films in memory."""

    def __init__(
        self, network: nn.Module, films: Tensor, batch_size: int, fused: bool = True, recipe: bool = False
    ) -> None:
        self.network, self.films, self.batch_size, self.recipe = network.train(), films, batch_size, recipe
        self.loss_function = VAELoss()
        self.plain = network.module if isinstance(network, DistributedDataParallel) else network
        self.optimizer = torch.optim.AdamW(parameter_groups(self.plain, 1e-3), betas=(0.9, 0.99), fused=fused)
        self.augmentation = Augmentation()
        self.averaged = AveragedModel(self.plain, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.steps = 0

    def step(self) -> None:
        """One step."""
        batch = self.films[torch.randint(len(self.films), (self.batch_size,))]
        if self.recipe:
            batch = self.augmentation(batch)
        loss = self.loss_function(self.network(batch), batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe:
            nn.utils.clip_grad_norm_(self.network.parameters(), 20000.0)
        self.optimizer.step()
        self.steps += 1
        if self.recipe and self.steps % (STEPS // 200) == 0:
            self.averaged.update_parameters(self.plain)


class Alternate:
    """After each step of the engine takes a step of each loop, and notes what all of them took."""

    def __init__(self, loops: list[Bare], pairs: int) -> None:
        self.loops, self.pairs = loops, pairs
        self.times: list[list[float]] = [[] for _ in range(len(loops) + 1)]

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``; attached after its own handlers, so that their time is the engine's."""
        engine.add_event_handler(Events.STARTED, self.mark)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)

    def mark(self, _: Engine) -> None:
        """Remember where the engine's step begins."""
        self.start = time.perf_counter()

    def step(self, engine: Engine) -> None:
        """Note the engine's step, then take and note the others'."""
        taken = [1000 * (time.perf_counter() - self.start)]
        taken += [times[0] for times in in_turns(*(loop.step for loop in self.loops), rounds=1)]
        if engine.state.iteration > WARM_UP:
            for times, value in zip(self.times, taken, strict=True):
                times.append(value)
        if len(self.times[0]) == self.pairs:
            engine.terminate()
        self.mark(engine)


def training(output_dir: str, pairs: int, image_size: int, batch_size: int, **settings: Any) -> ConfigWorkflow:
    """The bundle's training on the built-in films: one epoch that is long enough."""
    handlers = ConfigParser.load_config_file(str(CONFIG))["train"]["handlers"]
    place = {handler["_target_"].rpartition(".")[2]: f"train#handlers#{i}" for i, handler in enumerate(handlers)}
    settings |= {
        "output_dir": output_dir,
        "image_size": image_size,
        "batch_size": batch_size,
        "max_epochs": 1,
        "device": "cpu",
        "train#trainer#epoch_length": pairs + WARM_UP,
        "steps": STEPS,
        f"{place['FitStatistics']}#_disabled_": True,  # not a part of the steps, and impossible without a network
    }
    if "network_def" in settings:
        settings |= {f"{place[name]}#_disabled_": True for name in ("LinearStart", "ForgetStatistics")}
    workflow = create_workflow(config_file=str(CONFIG), workflow_type="train", logging_file=False, **settings)
    workflow.initialize()
    return workflow


def times(pairs: int, image_size: int, batch_size: int, **settings: Any) -> list[list[float]]:
    """Milliseconds of each step of the trainer and of the three loops."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        workflow = training(folder, pairs, image_size, batch_size, **settings)
        trainer = workflow.parser.get_parsed_content("train#trainer")
        films = workflow.parser.get_parsed_content("train#dataset").images()
        kinds: list[dict[str, bool]] = [{"fused": False}, {}, {"recipe": True}]
        loops = [Bare(copy.deepcopy(trainer.network), films, batch_size, **kind) for kind in kinds]
        alternate = Alternate(loops, pairs)
        alternate.attach(trainer)
        trainer.run()
    return alternate.times


def measure(
    pairs: int = 60, sizes: tuple[int, ...] = (64, 128), batch_size: int = 64, threads: int = 1, **settings: Any
) -> list[Row]:
    """Four rows for each image size. ``settings`` are those of ``train.json``."""
    settings.setdefault("num_threads", threads)
    rows = []
    for size in sizes:
        ours, *theirs = times(pairs, size, batch_size, **settings)
        titles = {"a bare loop": 0.95, "one with the fused optimizer": None, "one with the recipe": 0.95}
        for (title, limit), bare in zip(titles.items(), theirs, strict=True):
            ratio = statistics.median(b / a for a, b in zip(ours, bare, strict=True))
            medians = statistics.median(ours), statistics.median(bare)
            rows.append(row(f"training at {size} px, beside {title}", ratio, limit, pairs, *medians, "ms per step"))
        nothing = {"_target_": f"{__name__}.Nothing", "image_size": size}
        ours, _, bare, recipe = times(pairs, size, batch_size, **settings | {"network_def": nothing})
        medians = statistics.median(ours), statistics.median(recipe)
        rows.append(
            row(
                f"no network at {size} px, beside one with the recipe",
                medians[1] / medians[0],
                None,
                pairs,
                *medians,
                "ms per step",
                overhead_ms=statistics.median(a - b for a, b in zip(ours, recipe, strict=True)),
                overhead_and_recipe_ms=statistics.median(a - b for a, b in zip(ours, bare, strict=True)),
            )
        )
    return rows
