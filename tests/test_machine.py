"""What a process finds of its machine: containers, ranks, bfloat16."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from monai_cxr_vae import machine


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """16 cores that this process may run on, and no quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "nonsense"}, 16),
    ],
)
def test_a_containers_quota_counts(cgroups: Path, files: dict[str, str], cores: int):
    for name, text in files.items():
        (cgroups / name).parent.mkdir(exist_ok=True)
        (cgroups / name).write_text(text)
    assert machine.cpu_count() == cores


def test_local_ranks_share_the_cores(cgroups: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert machine.cpu_count() == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "40")
    assert machine.cpu_count() == 1


def test_threads_never_outnumber_cores(cgroups: Path, monkeypatch: pytest.MonkeyPatch):
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    machine.use_threads()
    machine.use_threads(3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    machine.use_threads()
    assert taken == [16, 3, 1]


def test_each_local_rank_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert machine.device() == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert machine.device() == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.device() == torch.device("cpu")


@pytest.mark.parametrize(("flags", "has"), [("sse avx512_bf16 avx", True), ("amx_bf16", True), ("avx512f", False)])
def test_bfloat16_is_a_flag_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, has: bool):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr(machine, "_CPU", tmp_path / "cpuinfo")
    assert machine.has_bfloat16(torch.device("cpu")) is has
