"""What this process may use of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import torch

_CGROUPS = Path("/sys/fs/cgroup")
_CPU = Path("/proc/cpuinfo")


def cpu_count() -> int:
    """CPU cores for this process: those it may run on, within its container's quota, shared with its local ranks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def device() -> torch.device:
    """This local rank's GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def use_threads(number: int | None = None) -> None:
    """Let PyTorch compute with so many threads; None takes what it takes by itself, as far as there are cores for it.

    PyTorch counts the machine's cores, also in a container that may use two of them, and every rank counts them all:
    more threads than cores make a step several times slower.
    """
    torch.set_num_threads(number or min(torch.get_num_threads(), cpu_count()))


def one_thread() -> None:
    """One thread for this process, which is one of many: more would only be in each other's way.

    The number of threads changes the last bits of a network's output too.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; PyTorch computes with it everywhere, but slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and _CPU.exists():
        flags = set(_CPU.read_text().split())
        return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})  # x86, and Arm
    return False


def _quota() -> int:
    """Cores' worth of time that the container may take, cgroups of version 2 or 1; a large number if any."""
    try:
        quota, period = (_CGROUPS / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((_CGROUPS / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return 1 << 16
    try:
        return max(1, int(quota) // int(period)) if int(quota) > 0 else 1 << 16
    except ValueError:  # "max"
        return 1 << 16
