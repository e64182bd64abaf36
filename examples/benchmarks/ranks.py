"""Training on two processes of one thread each (gloo), beside one process with two threads.

The same two processes do both: a block of steps in two ranks, then a block in the first rank alone while the second
waits, at the same global batch.
"""

from __future__ import annotations

import socket
import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
import torch.multiprocessing
from overhead import Bare
from side_by_side import Row, in_turns, row
from torch.nn.parallel import DistributedDataParallel

from monai_cxr_vae.model import RadiographVAE

RANKS = 2
# What is sent grows with the weights, what is computed with the films of a step.
CASES: tuple[tuple[int, dict], ...] = (
    (64, {"image_size": 64}),
    (128, {"image_size": 64}),
    (256, {"image_size": 64}),
    (512, {"image_size": 64}),
    (128, {"image_size": 128}),
    (16, {"image_size": 256, "preset": "spatial"}),
)


def block(loop: Bare, steps: int, threads: int) -> None:
    """Some steps with so many threads."""
    torch.set_num_threads(threads)
    for _ in range(steps):
        loop.step()


def process(rank: int, port: int, result: str, rounds: int, steps: int, batch_size: int, network: dict) -> None:
    """One rank; the first writes the times of both sides to ``result``."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=RANKS, rank=rank)
    torch.manual_seed(0)
    films = torch.rand(512, 1, *[network["image_size"]] * 2)
    shared = DistributedDataParallel(RadiographVAE(**network), gradient_as_bucket_view=True, broadcast_buffers=False)
    together = Bare(shared, films, batch_size // RANKS)
    alone = Bare(RadiographVAE(**network), films, batch_size)
    # The loss averages its MSE over all ranks whenever there are some; the one process must not wait for the other.
    alone.loss_function.kl_weight = 1e-6

    def two_ranks() -> None:
        block(together, steps, 1)
        dist.barrier()

    def one_process() -> None:
        if rank == 0:
            block(alone, steps, RANKS)

    in_turns(two_ranks, one_process, dist.barrier, rounds=1)
    taken = in_turns(two_ranks, one_process, dist.barrier, rounds=rounds)
    if rank == 0:
        torch.save(taken[:2], result)
    dist.destroy_process_group()


def times(rounds: int, steps: int, batch_size: int, **network: object) -> list[list[float]]:
    """Milliseconds of each round of so many steps: of the two ranks, and of the one process."""
    with socket.socket() as probe, TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        result = str(Path(folder) / "times")
        arguments = (port, result, rounds, steps, batch_size, network)
        torch.multiprocessing.spawn(process, arguments, nprocs=RANKS)
        return torch.load(result)


def measure(rounds: int = 12, steps: int = 3, cases: Sequence[tuple[int, dict]] = CASES) -> list[Row]:
    """Milliseconds per step, a row for each case: global batch and network."""
    rows = []
    for batch_size, network in cases:
        ours, theirs = times(rounds, steps, batch_size, **network)
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        medians = statistics.median(ours) / steps, statistics.median(theirs) / steps
        title = f"{network.get('preset', 'vector')}, {network['image_size']} px, {batch_size} films a step"
        rows.append(row(title, ratio, 0.9, rounds, *medians, "ms per step"))
    return rows
