"""A MONAI Label app around the bundle: its anomaly score chooses the film to label next, and training needs no labels.

serve.sh copies it into the folder of the server. Settings, as ``--conf NAME VALUE``: ``findings``, the names that
annotators give to what they outline, separated by commas; ``random_share``, see :class:`MostUnusualAndRandom`.
"""

from __future__ import annotations

import logging
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask

from monai_cxr_vae.data.writers import file_sha256
from monai_cxr_vae.inference.film_chain import failed, new_row
from monai_cxr_vae.startup import input_error

MODEL = "cxr_vae"
FINDINGS = "opacity,nodule,effusion,pneumothorax,device,other"
RANDOM_SHARE = "0.2"
HOUR = 3600
NO_SEGMENTATION = (
    "radiographs have no frame of reference, which DICOM SEG needs: "
    "over DICOMweb labels cannot be stored; label films in a local folder instead"
)
logger = logging.getLogger(__name__)


class App(MONAILabelApp):
    """The app that the server looks for; see the module."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.bundle = str(Path(app_dir) / "model" / MODEL)
        findings = [name.strip() for name in conf.get("findings", FINDINGS).split(",")]
        super().__init__(
            app_dir,
            studies,
            conf,
            name="Chest radiograph VAE",
            description="Serves the most unusual film first. Research use, not for diagnosis.",
            labels=["unusual", *findings],
        )

    def init_infers(self) -> dict[str, BundleInferTask]:
        return {MODEL: BundleInferTask(self.bundle, self.conf, type=InferType.SEGMENTATION)}

    def init_trainers(self) -> dict[str, BundleTrainTask]:
        return {MODEL: LabelFreeTraining(self.bundle, self.conf)}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {"anomaly": AnomalyScoring(self._infers[MODEL])}

    def init_strategies(self) -> dict[str, Strategy]:
        share = float(self.conf.get("random_share", RANDOM_SHARE))
        return {"most_unusual": MostUnusual(), "most_unusual_and_random": MostUnusualAndRandom(share)}

    def _init_dicomweb_datastore(self) -> Datastore:
        store = super()._init_dicomweb_datastore()
        # The server makes its store from a dozen of its own settings; only what it does with a film is another here.
        store.__class__ = FilmArchive
        return store

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> Any:
        """As the server does it, but what the client got wrong is answered as such, with the reason."""
        model, image = request.get("model"), request.get("image")
        if model not in self._infers:
            raise HTTPException(404, f"there is no model {model!r}, but {', '.join(self._infers)}")
        if "label_info" in request:  # sent for nothing but DICOM SEG
            raise HTTPException(501, NO_SEGMENTATION)
        if isinstance(image, str) and image not in self.datastore().list_images() and not self._was_sent(image):
            raise HTTPException(404, f"there is no image {image!r}")
        try:
            return super().infer(request, datastore)
        except Exception as error:
            cause = input_error(error)
            if cause is None:
                raise
            raise HTTPException(422, str(cause)) from error

    def _was_sent(self, image: str) -> bool:
        """Whether a client has sent this file, rather than that it names any file of this computer."""
        path, sessions = Path(image).resolve(), self.sessions()
        in_session = sessions is not None and path.is_relative_to(Path(sessions.store_path).resolve())
        return path.is_file() and (in_session or path.parent == Path(tempfile.gettempdir()).resolve())

    def async_scoring(self, method: str | None, params: dict | None = None) -> Any:
        """The server asks for this after every film that it hands out; each time costs a process of its own."""
        if method is None and not self._scoring_methods["anomaly"].stale(self.datastore()):
            return {}
        return super().async_scoring(method, params)


class FilmArchive(DICOMWebDatastore):
    """Films of a DICOMweb server, read as the DICOM files that they are: a series is a film.

    The server's own store hands out NIfTI, in which window, polarity and orientation are guesses.
    """

    def get_image_uri(self, image_id: str) -> str:
        nifti = super().get_image_uri(image_id)
        films = [path for path in Path(self._datastore.image_path(), image_id).iterdir() if path.is_file()]
        return str(films[0]) if len(films) == 1 else nifti

    def save_label(self, image_id: str, label_filename: str, label_tag: str, *args: Any, **kwargs: Any) -> str:
        if label_tag == DefaultLabelTag.FINAL:
            raise HTTPException(501, NO_SEGMENTATION)
        return super().save_label(image_id, label_filename, label_tag, *args, **kwargs)


class AnomalyScoring(ScoringMethod):
    """Puts the scores of each film into its image info, with the digest of the weights that gave them."""

    def __init__(self, task: BundleInferTask) -> None:
        super().__init__("How unusual each film is, and how fit for use")
        self.task = task

    def stale(self, datastore: Datastore) -> list[str]:
        """The films that the present weights have not scored."""
        weights = file_sha256(self.task.get_path())
        return [film for film in datastore.list_images() if datastore.get_image_info(film).get("weights") != weights]

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, int]:
        weights, films = file_sha256(self.task.get_path()), self.stale(datastore)
        unreadable = 0
        for film in films:
            info = {"unreadable": None, "weights": weights} | self._score(datastore.get_image_uri(film))
            unreadable += info["unreadable"] is not None
            datastore.refresh()  # the server may have stored a label meanwhile, and an update writes the whole list
            datastore.update_image_info(film, info)
        return {"scored": len(films) - unreadable, "unreadable": unreadable}

    def _score(self, path: str) -> dict[str, Any]:
        request = {"image": path, "show": "mask", "skip_writer": "true", "description": ""}
        try:
            return self.task(request)[1]["scores"]
        except Exception as error:
            reason = failed(new_row(), error)["reason"]
            if reason == "internal":
                raise
            logger.warning("a film is left out: %s", reason)
            return {"unreadable": reason}


class MostUnusual(Strategy):
    """The film with the highest anomaly score that has no final label.

    A film that was handed out within the last hour waits, so that two annotators do not draw in the same one and a
    film can be passed over. Films without a score come last, unreadable ones never.
    """

    def __init__(self, description: str = "The most unusual film without a label") -> None:
        super().__init__(description)

    def candidates(self, request: dict[str, Any], datastore: Datastore) -> dict[str, dict[str, Any]]:
        """Image info of the films that may be handed out."""
        films = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        infos = {film: datastore.get_image_info(film) for film in sorted(films)}
        return {film: info for film, info in infos.items() if not info.get("unreadable")}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        def rank(item: tuple[str, dict[str, Any]]) -> tuple[float, float]:
            _, info = item
            handed_out = max((use["ts"] for use in info.get("strategy", {}).values()), default=0)
            recently = handed_out if time.time() - handed_out < HOUR else 0
            return recently, -info.get("anomaly", float("-inf"))

        films = self.candidates(request, datastore)
        return {"id": min(films.items(), key=rank)[0]} if films else None


class MostUnusualAndRandom(MostUnusual):
    """As :class:`MostUnusual`, but a share of the films is drawn by chance.

    The drawn ones show what the score overlooks, and how often a finding is in all films.
    """

    def __init__(self, share: float) -> None:
        super().__init__(f"The most unusual film without a label; {share:.0%} drawn by chance")
        self.share = share

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        if random.random() >= self.share:
            return super().__call__(request, datastore)
        films = self.candidates(request, datastore)
        return {"id": random.choice(list(films))} if films else None


class LabelFreeTraining(BundleTrainTask):
    """Trains on all readable films, labelled or not; run id ``update`` of the bundle puts better weights in place."""

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        return super().__call__({**request, "run_id": "update", "pretrained": True}, datastore)

    def _fetch_datalist(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        films = [film for film in datastore.list_images() if not datastore.get_image_info(film).get("unreadable")]
        return [{"image": datastore.get_image_uri(film)} for film in sorted(films)]
