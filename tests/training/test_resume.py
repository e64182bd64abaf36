"""A killed run continues as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_cxr_vae.settings import input_error

pytestmark = pytest.mark.training

# Runs the workflow and dies in the middle of an epoch, as in a power cut.
KILLED_RUN = """
import json, os, signal, sys
from ignite.engine import Events
from monai.bundle import create_workflow
config, iteration, settings = map(json.loads, sys.argv[1:])
workflow = create_workflow(config_file=config, workflow_type="train", logging_file=False, **settings)
trainer = workflow.parser.get_parsed_content("train#trainer")
trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), lambda: os.kill(os.getpid(), signal.SIGKILL))
workflow.run()
"""


def assert_same(expected: dict[str, torch.Tensor], actual: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)


def run_and_kill(tiny, output: str, iteration: int, **settings: Any) -> None:
    arguments = tiny.config, iteration, tiny.settings(output, **settings)
    command = [sys.executable, "-c", KILLED_RUN, *map(json.dumps, arguments)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    time.sleep(1.1)  # TensorBoard orders event files by the second in their name; no real restart is faster


@pytest.mark.parametrize("iteration", [2, 8])  # 3 iterations an epoch: in the first and in the third
def test_a_killed_run_resumes_bit_for_bit(tiny, iteration: int):
    tiny.workflow("whole").run()
    run_and_kill(tiny, "killed", iteration)
    tiny.workflow("killed", resume=True).run()

    whole, killed = tiny.folder / "whole", tiny.folder / "killed"
    assert (killed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert_same(final_weights(whole), final_weights(killed))
    last = [torch.load(f / "checkpoints" / "last.pt", weights_only=True)["network"] for f in (whole, killed)]
    assert_same(last[0], last[1])
    events = EventAccumulator(str(killed / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_a_finished_run_resumed_changes_nothing(tiny):
    tiny.workflow().run()
    before = (tiny.folder / "run" / "metrics.csv").read_bytes(), final_weights(tiny.folder / "run")
    tiny.workflow(resume=True).run()
    assert (tiny.folder / "run" / "metrics.csv").read_bytes() == before[0]
    assert_same(before[1], final_weights(tiny.folder / "run"))


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"batch_size": 4}, "batch_size"), ({"max_epochs": 9}, "max_epochs"), ({"latent_size": 3}, "network")],
)
def test_changed_settings_are_refused(tiny, changed: dict[str, int], named: str):
    tiny.workflow(max_epochs=1).run()
    with pytest.raises(RuntimeError) as error:
        tiny.workflow(resume=True, **({"max_epochs": 1} | changed)).run()
    assert str(input_error(error.value)).startswith(f"cannot resume with another {named}: ")


@pytest.mark.parametrize(("part", "named"), [("train", "training"), ("val", "validation")])
def test_other_films_are_refused_in_words(tiny, part: str, named: str):
    tiny.workflow(max_epochs=1).run()
    Image.new("L", (16, 16), 99).save(tiny.folder / part / "new.png")
    with pytest.raises(RuntimeError) as error:
        tiny.workflow(resume=True, max_epochs=1).run()
    assert str(input_error(error.value)).startswith(
        f"cannot resume on other {named} films than before: films have been"
    )


def test_an_existing_run_is_not_overwritten(tiny):
    tiny.workflow(max_epochs=1).run()
    with pytest.raises(RuntimeError) as error:
        tiny.workflow(max_epochs=1).run()
    assert "holds a run already" in str(input_error(error.value))


def test_the_best_weights_survive_a_resume(tiny):
    """The second part starts with a best metric from the first that it cannot reach: model.pt must stay."""
    run_and_kill(tiny, "run", 8)
    last = tiny.folder / "run" / "checkpoints" / "last.pt"
    state = torch.load(last, weights_only=True)
    torch.save(state | {"best_metric": 99.0, "best_metric_epoch": 1}, last)
    weights = final_weights(tiny.folder / "run")
    tiny.workflow(resume=True).run()
    after = final_weights(tiny.folder / "run")
    parameters = [name for name in weights if name.endswith((".weight", ".bias"))]
    assert_same({name: weights[name] for name in parameters}, {name: after[name] for name in parameters})


def test_early_stopping_ends_the_run_for_good(tiny):
    settings = {"learning_rate": 1e-12, "max_epochs": 20, "patience": 3}
    tiny.workflow(**settings).run()
    metrics = tiny.folder / "run" / "metrics.csv"
    before, weights = metrics.read_bytes(), final_weights(tiny.folder / "run")
    assert len(before.splitlines()) < 20
    tiny.workflow(**settings, resume=True).run()
    assert metrics.read_bytes() == before
    assert_same(weights, final_weights(tiny.folder / "run"))
