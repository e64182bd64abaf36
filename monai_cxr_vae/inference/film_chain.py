"""One film from file to written result: a chain that never raises for anything a film can be, but returns a row."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor

from monai_cxr_vae.errors import OutputError, causes
from monai_cxr_vae.film import Film, read_film
from monai_cxr_vae.inference.rows import Row, new_row, refused

_COPIED_META = ("format", "bits_stored", "photometric", "transfer_syntax", "decoder", "voi", "view")


class FilmChain:
    """Preprocessing, network, inferer and postprocessing of one film at a time.

    Batch 1 makes a film's bytes independent of its neighbours: in a batch the last bits of a convolution depend on the
    batch's size. The steps can be taken one by one, with :class:`monai_cxr_vae.inference.batches.FixedBatches` in
    place of :meth:`predict`.

    Args:
        preprocessing: transforms of ``{"image": path, "film": Film}`` that end in a MetaTensor ``(1, S, S)`` under
            ``image``; ``film`` spares them to open the path (:class:`monai_cxr_vae.data.LoadRadiographd`).
        network: in evaluation mode gives a reconstruction ``(N, 1, S, S)``; on the CPU.
        inferer: MONAI inferer.
        postprocessing: transforms of what preprocessing has left and ``pred``, ``input_sha256``; ``outputs`` and
            ``scores`` that they leave go into the row.
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

    def __call__(self, source: str | os.PathLike | Film) -> Row:
        """Run one film, a file that is opened once or that has been read.

        Returns:
            A row with ``status``, ``reason``, ``input_sha256``, ``warnings``, ``outputs`` and what is known of the
            film.

        Raises:
            OutputError: the result cannot be written, which is no fault of the film.
        """
        row, data = self.prepare(source)
        if data is None:
            return row
        try:
            prediction = self.predict(data["image"].as_tensor())
        except Exception as error:
            return refused(error, **row)
        return self.complete(row, data, prediction)

    def prepare(self, source: str | os.PathLike | Film) -> tuple[Row, dict[str, Any] | None]:
        """Read and preprocess one film.

        Returns:
            The film's row and the data for the further steps; no data if the film failed, of which the row then tells.
        """
        row = new_row()
        try:
            film = source if isinstance(source, Film) else read_film(source)
            row["input_sha256"] = film.sha256
            data = self.preprocessing({"image": film.path, "film": film})
            self._describe(row, data["image"])
        except Exception as error:
            return refused(error, **row), None
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
            for cause in causes(error):  # transforms wrap what they raise
                if isinstance(cause, OutputError):
                    raise cause from None
            return refused(error, **row)
        scores: Row = data.get("scores", {})
        warnings = [*row["warnings"], *data.get("refused", ())]
        outputs = data.get("outputs", [])
        return {**row, **scores, "status": "done", "reason": None, "outputs": outputs, "warnings": warnings}

    @staticmethod
    def _describe(row: Row, image: MetaTensor) -> None:
        meta = image.meta
        row.update({key: meta.get(key) or None for key in _COPIED_META})  # type: ignore[typeddict-item]
        geometry = meta.get("geometry") or {}
        row["rows"], row["columns"] = geometry.get("rows"), geometry.get("columns")
        row["warnings"] = str(meta.get("warnings") or "").split()
