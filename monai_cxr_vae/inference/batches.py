"""One network on one device, run on batches of one fixed size."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from monai_cxr_vae.errors import InputError

DEFAULT_SIZE = 32


def default_size(device: torch.device | str) -> int | None:
    """Films per batch unless told otherwise; None on a CPU, where each process runs its films one by one."""
    return None if torch.device(device).type == "cpu" else DEFAULT_SIZE


class FixedBatches:
    """Reconstructions of films, always ``size`` of them at a time; what is missing is filled up with black.

    A film's result then depends neither on the films beside it nor on its place or the number of films: the device
    always computes the same shape, with the same kernels, which treat all places of a batch alike. Another batch size
    or device changes the last bits. On the CPU the network gets one thread, since with three threads the places of a
    batch are not alike.

    Args:
        network: in evaluation mode gives ``(N, 1, S, S)`` of ``(N, 1, S, S)``; the device gets a copy of it.
        inferer: MONAI inferer.
        device: where to run.
        size: films per batch.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        inferer: Callable[..., torch.Tensor],
        device: torch.device | str,
        size: int = DEFAULT_SIZE,
    ) -> None:
        self.network = network
        self.inferer = inferer
        self.device = torch.device(device)
        self.size = size
        self._copy: torch.nn.Module | None = None

    def __call__(self, films: Sequence[np.ndarray]) -> list[np.ndarray | Exception]:
        """Run up to ``size`` films.

        Args:
            films: ``(1, S, S)`` each.

        Returns:
            For each film its reconstruction ``(1, S, S)`` float32, or why there is none: if a batch fails, each of its
            films runs alone, so that a film costs no other.

        Raises:
            InputError: there is no such device.
            torch.AcceleratorError: the device itself fails.
        """
        network = self._on_device()
        try:
            return list(self._run(network, np.stack(films)))
        except getattr(torch, "AcceleratorError", ()):  # since PyTorch 2.8
            raise
        except Exception as error:
            return [error] if len(films) == 1 else [result for film in films for result in self([film])]

    def _on_device(self) -> torch.nn.Module:
        if self._copy is None:
            try:
                torch.zeros(1, device=self.device)
                self._copy = copy.deepcopy(self.network).to(self.device).eval()
            except (
                AssertionError,
                NotImplementedError,
                RuntimeError,
            ) as error:  # whatever that build of PyTorch raises
                raise InputError(f"cannot run on {self.device}: {error}".splitlines()[0]) from error
        return self._copy

    def _run(self, network: torch.nn.Module, films: np.ndarray) -> np.ndarray:
        batch = np.zeros((self.size, *films.shape[1:]), films.dtype)
        batch[: len(films)] = films
        with torch.inference_mode(), _same_kernels():
            output = self.inferer(torch.from_numpy(batch).to(self.device), network)
        predictions: np.ndarray = output[: len(films)].float().cpu().numpy()
        return predictions


@contextlib.contextmanager
def _same_kernels() -> Iterator[None]:
    """Nothing chosen by timing, no TF32 (which keeps 10 bits of a film's 12), one thread on the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
