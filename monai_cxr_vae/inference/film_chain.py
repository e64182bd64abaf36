"""One film from file to written result: a chain that never raises for anything a film can be, but returns a row."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from monai_cxr_vae.data.writers import file_sha256
from monai_cxr_vae.errors import FilmError, OutputError, Reason

Row = dict[str, Any]
_COPIED_META = ("format", "bits_stored", "photometric", "transfer_syntax", "decoder", "voi", "view")


class FilmChain:
    """Preprocessing, network, inferer and postprocessing of one film at a time.

    Batch 1 makes a film's bytes independent of its neighbours: in a batch the last bits of a convolution depend on the
    batch's size. The steps can be taken one by one, with :class:`monai_cxr_vae.inference.batches.FixedBatches` in
    place of :meth:`predict`.

    Args:
        preprocessing: transforms of ``{"image": path}`` that end in a MetaTensor ``(1, S, S)`` under ``image``.
        network: in evaluation mode gives a reconstruction ``(N, 1, S, S)``; on the CPU.
        inferer: MONAI inferer.
        postprocessing: transforms of ``{"image", "pred", "input_sha256"}``; ``outputs`` and ``scores`` that they leave
            go into the row.
    """

    def __init__(
        self,
        preprocessing: Callable[[Any], Any],
        network: torch.nn.Module,
        inferer: Callable[..., torch.Tensor],
        postprocessing: Callable[[Any], Any],
    ) -> None:
        self.preprocessing = preprocessing
        self.network = network
        self.inferer = inferer
        self.postprocessing = postprocessing
        self._ready = False

    def __call__(self, path: str | os.PathLike) -> Row:
        """Run one film.

        Returns:
            A row with ``status``, ``reason``, ``input_sha256``, ``warnings``, ``outputs`` and what is known of the
            film.

        Raises:
            OutputError: the result cannot be written, which is no fault of the film.
        """
        row, data = self.prepare(path)
        if data is None:
            return row
        try:
            prediction = self.predict(data["image"].as_tensor())
        except Exception as error:
            return failed(row, error)
        return self.complete(row, data, prediction)

    def prepare(self, path: str | os.PathLike) -> tuple[Row, dict[str, Any] | None]:
        """Read and preprocess one film.

        Returns:
            The film's row and the data for the further steps; no data if the film failed, of which the row then tells.
        """
        row = new_row()
        try:
            row["input_sha256"] = file_sha256(path)
            data = self.preprocessing({"image": os.fspath(path)})
            self._describe(row, data["image"])
        except Exception as error:
            return failed(row, error), None
        return row, data

    def predict(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruction ``(1, S, S)`` of one film ``(1, S, S)``."""
        if not self._ready:  # once per process: walking a network's parameters costs as much as a small film
            self.network.eval()
            self._ready = True
        with torch.inference_mode():
            return self.inferer(image[None], self.network)[0].float()

    def complete(self, row: Row, data: dict[str, Any], prediction: torch.Tensor) -> Row:
        """Postprocess one film and complete its row.

        Raises:
            OutputError: the result cannot be written, which is no fault of the film.
        """
        try:
            image = data["image"]
            # The record of the transforms makes the prediction invertible like the image.
            pred = MetaTensor(prediction, meta=image.meta, applied_operations=image.applied_operations)
            data = self.postprocessing({**data, "pred": pred, "input_sha256": row["input_sha256"]})
        except Exception as error:
            for cause in _chain(error):  # transforms wrap what they raise
                if isinstance(cause, OutputError):
                    raise cause from None
            return failed(row, error)
        row.update(status="done", reason=None, outputs=data.get("outputs", []), **data.get("scores", {}))
        row["warnings"] = [*row["warnings"], *data.get("refused", ())]
        return row

    @staticmethod
    def _describe(row: Row, image: MetaTensor) -> None:
        meta = image.meta
        row.update({key: meta.get(key) or None for key in _COPIED_META})
        geometry = meta.get("geometry") or {}
        row.update(rows=geometry.get("rows"), columns=geometry.get("columns"))
        row["warnings"] = str(meta.get("warnings") or "").split()


def new_row() -> Row:
    """A row that claims nothing yet."""
    return {"status": "failed", "reason": Reason.INTERNAL, "input_sha256": None, "warnings": [], "outputs": []}


def failed(row: Row, error: BaseException) -> Row:
    """Complete the row of a file that could not be used, by the error or what it was raised from."""
    for cause in _chain(error):
        if isinstance(cause, FilmError):
            row.update(status="failed" if cause.eligible else "skipped", reason=cause.reason)
            row["warnings"] = [*row["warnings"], *cause.codes]
            return row
        if _is_out_of_memory(cause):
            row.update(status="failed", reason=Reason.OUT_OF_MEMORY)
            return row
        if isinstance(cause, OSError):
            row.update(status="failed", reason=Reason.READ_ERROR)
            return row
    # The message may quote the film; where it happened does not.
    last = list(_chain(error))[-1]
    where = "".join(f"@{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(last.__traceback__)[-1:])
    row.update(status="failed", reason=Reason.INTERNAL, warnings=[*row["warnings"], f"{type(last).__name__}{where}"])
    return row


def _chain(error: BaseException | None) -> Any:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        type(error).__name__ in ("RuntimeError", "error")  # torch's CPU allocator; OpenCV
        and any(words in str(error) for words in ("can't allocate memory", "Insufficient memory"))
    )
