"""The bundle's inference in a process of its own, since a film may end the process that decodes it."""

from __future__ import annotations

import threading
from collections import deque
from functools import cache, partial
from typing import Any

import torch
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleInferTask

from monai_cxr_vae.errors import FilmError, Reason, explain
from monai_cxr_vae.pool import IsolatedPool, LostTask
from monai_cxr_vae.settings import input_error

Answer = tuple[str | None, dict[str, Any]]
MEMORY_LIMIT = 3  # GiB for one film
WORDS = {
    "crashed": "this film has ended the process that read it",
    "timeout": "this film takes too long",
    "out_of_memory": "there is not enough memory for this film",
    "read_error": "the file cannot be read",
}


class IsolatedInfer(BundleInferTask):
    """MONAI Label's task for a bundle, whose work another process does: a bad film costs one answer, not the server."""

    def __init__(self, bundle: str, conf: dict[str, str]) -> None:
        super().__init__(bundle, conf, type=InferType.SEGMENTATION)
        # An accelerator's driver reserves more address space than any limit for films leaves.
        limit = None if torch.cuda.is_available() else MEMORY_LIMIT
        self._pool = IsolatedPool(partial(answer, bundle), workers=1, memory_limit=limit, in_flight=1)
        self._turn = threading.Lock()

    def __call__(self, request: dict[str, Any], callbacks: dict[Any, Any] | None = None) -> Answer:
        """Path of the file written and what goes with it; of a request without a file, the scores alone.

        Raises:
            InputError: the film or the request cannot be used.
        """
        with self._turn:
            ((_, result),) = self._pool.map(deque([request]))
        if isinstance(result, LostTask):
            result = refusal(result)
        if isinstance(result, Exception):
            raise result
        return result


def refusal(reason: str) -> FilmError:
    """The error of a film that was given up for a reason of the manifest which no other error has."""
    error = FilmError(WORDS[reason])
    error.reason = str(reason)
    return error


def answer(bundle: str, request: dict[str, Any]) -> Answer | Exception:
    """In the other process: what MONAI Label's own task answers, or the error, which must not end the process."""
    try:
        file, result = _task(bundle)(request)
    except Exception as error:
        known = input_error(error)
        if known is not None:
            return known
        _, reason, codes = explain(error)
        return RuntimeError(*codes) if reason == Reason.INTERNAL else refusal(reason)
    if "skip_writer" in request:  # then the result is all that was computed, tensors too
        result = {name: value for name, value in result.items() if name == "scores"}
    return file, result


@cache
def _task(bundle: str) -> BundleInferTask:
    return BundleInferTask(bundle, {}, type=InferType.SEGMENTATION)
