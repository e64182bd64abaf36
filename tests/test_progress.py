"""Long work shows life: lines in a pipe, a bar on a terminal, and what is counted is right."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest
import torch
from ignite.engine import Engine

from monai_cxr_vae import progress as module
from monai_cxr_vae.progress import EngineProgress, progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def work(clock: Clock, total: int, seconds: float):
    for i in range(total):
        clock.now += seconds
        yield i


def test_short_work_is_silent(clock: Clock, capsys: pytest.CaptureFixture):
    assert list(progress(work(clock, 100, 0.04), "films", 100)) == list(range(100))
    assert capsys.readouterr() == ("", "")


def test_slow_work_tells_every_half_minute(clock: Clock, capsys: pytest.CaptureFixture):
    list(progress(work(clock, 1000, 1.0), "films", 1000))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["films: 30 of 1000 (3%)", "films: 60 of 1000 (6%)"]
    assert len(lines) == 33


def test_faster_work_tells_every_twentieth_part(clock: Clock, capsys: pytest.CaptureFixture):
    list(progress(work(clock, 200, 1.0), "films", 200))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "films: 10 of 200 (5%)"
    assert lines[-1] == "films: 200 of 200 (100%)"
    assert len(lines) == 20


def test_nothing_is_shown_that_shall_not_be(clock: Clock, capsys: pytest.CaptureFixture):
    list(progress(work(clock, 10, 60.0), "films", 10, shown=False))
    assert capsys.readouterr() == ("", "")


def test_epochs_of_an_engine_are_told_with_their_number(clock: Clock, capsys: pytest.CaptureFixture):
    def step(engine: Engine, batch: torch.Tensor) -> None:
        clock.now += 40

    engine = Engine(step)
    EngineProgress(films=8).attach(engine)
    engine.run(range(2), max_epochs=2)
    assert capsys.readouterr().err.splitlines() == [
        f"epoch {epoch} of 2, films: {films} of 16 ({share}%)"
        for epoch in (1, 2)
        for films, share in ((8, 50), (16, 100))
    ]


def test_a_terminal_gets_a_bar():
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    script = "from monai_cxr_vae.progress import progress; list(progress(range(3), 'drawing films', 3))"
    with subprocess.Popen([sys.executable, "-c", script], stderr=child) as process:
        os.close(child)
        said = b""
        try:
            while part := os.read(parent, 1000):
                said += part
        except OSError:  # the other end is closed
            pass
        process.wait()
    assert "drawing films: 100%" in said.decode()
