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
from guard import is_name
from isolated import IsolatedInfer
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.train.bundle import BundleTrainTask

from monai_cxr_vae.errors import InputError, MultiFrame, Reason, explain
from monai_cxr_vae.files import file_sha256
from monai_cxr_vae.settings import input_error

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

    def init_datastore(self) -> Datastore:
        store = super().init_datastore()
        # The server makes its store from a dozen of its own settings; only what it does with a film is another here.
        store.__class__ = FilmArchive if isinstance(store, DICOMWebDatastore) else FilmFolder
        return store

    def init_infers(self) -> dict[str, IsolatedInfer]:
        return {MODEL: IsolatedInfer(self.bundle, self.conf)}

    def init_trainers(self) -> dict[str, BundleTrainTask]:
        return {MODEL: LabelFreeTraining(self.bundle, self.conf)}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {"anomaly": AnomalyScoring(self._infers[MODEL])}

    def init_strategies(self) -> dict[str, Strategy]:
        share = float(self.conf.get("random_share", RANDOM_SHARE))
        return {"most_unusual": MostUnusual(), "most_unusual_and_random": MostUnusualAndRandom(share)}

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> Any:
        """As the server does it, but what the client got wrong is answered as such, with the reason."""
        model, image = request.get("model"), request.get("image")
        if model not in self._infers:
            raise HTTPException(404, f"there is no model {model!r}, but {', '.join(self._infers)}")
        if "label_info" in request:  # sent for nothing but DICOM SEG
            raise HTTPException(501, NO_SEGMENTATION)
        if not isinstance(image, str):
            raise HTTPException(422, "image must be the name of one film")
        if image not in self.datastore().list_images() and not self._was_sent(image):
            raise HTTPException(404, f"there is no image {image!r}")
        for name in ("model_filename", "result_extension"):
            if isinstance(request.get(name), str) and not is_name(request[name]):
                raise HTTPException(422, f"{name} must not be a path")
        try:
            return super().infer(request, datastore)
        except Exception as error:
            cause = input_error(error)
            if cause is None:
                raise
            raise HTTPException(422, str(cause)) from error

    def infer_wsi(self, request: dict[str, Any], datastore: Datastore | None = None) -> Any:
        raise HTTPException(501, "films are no whole slide images")

    def _was_sent(self, image: str) -> bool:
        """Whether a client has sent this file, rather than that it names any file of this computer."""
        path, sessions = Path(image).resolve(), self.sessions()
        in_session = sessions is not None and path.is_relative_to(Path(sessions.store_path).resolve())
        # In the server this is a folder of its own, see local_only.py.
        return path.is_file() and (in_session or path.parent == Path(tempfile.gettempdir()).resolve())

    def async_scoring(self, method: str | None, params: dict | None = None) -> Any:
        """The server asks for this after every film that it hands out; each time costs a process of its own."""
        if method is None and not self._scoring_methods["anomaly"].stale(self.datastore()):
            return {}
        return super().async_scoring(method, params)


class FilmFolder(LocalDatastore):
    """Films and labels in a folder, and never anything beside it."""

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        ending = self._to_id(Path(image_filename).name)[1]
        if not is_name(image_id):
            raise HTTPException(422, "a film's name must not be a path")
        if f"*{ending}" not in self._extensions:
            raise HTTPException(422, f"films end in {', '.join(self._extensions)}")
        return super().add_image(image_id, image_filename, image_info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        if not is_name(image_id) or not is_name(label_tag):
            raise HTTPException(422, "a label's name and tag must not be paths")
        return super().save_label(image_id, label_filename, label_tag, label_info)


class FilmArchive(DICOMWebDatastore):
    """Films of a DICOMweb server, read as the DICOM files that they are: a series is a film.

    The server's own store decodes films in its own process and hands out NIfTI, in which window, polarity and
    orientation are guesses.
    """

    def get_image_uri(self, image_id: str) -> str:
        folder = Path(self._datastore.image_path(), image_id)
        if not folder.is_dir() or not any(folder.iterdir()):
            dicom_web_download_series(None, image_id, str(folder), self._client, self._fetch_by_frame)
        films = sorted(folder.iterdir())
        if image_id not in self._datastore.objects:  # the list of films, where scores are kept
            LocalDatastore.add_image(self, image_id, str(films[0]), self._dicom_info(image_id))
        if len(films) != 1:
            raise MultiFrame(f"this series holds {len(films)} images, and a film is one")
        return str(films[0])

    def add_image(self, *_: Any) -> str:
        raise HTTPException(501, "the films of an archive are read only")

    def save_label(self, image_id: str, label_filename: str, label_tag: str, *args: Any, **kwargs: Any) -> str:
        if label_tag == DefaultLabelTag.FINAL:
            raise HTTPException(501, NO_SEGMENTATION)
        if not is_name(image_id) or not is_name(label_tag) or label_filename.endswith(".bin"):
            raise HTTPException(422, "a label is a picture, and its name and tag are no paths")
        return super().save_label(image_id, label_filename, label_tag, *args, **kwargs)


class AnomalyScoring(ScoringMethod):
    """Puts the scores of each film into its image info, with the digest of the weights that gave them."""

    def __init__(self, task: IsolatedInfer) -> None:
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
            info = {"unreadable": None, "weights": weights} | self._score(datastore, film)
            unreadable += info["unreadable"] is not None
            datastore.refresh()  # the server may have stored a label meanwhile, and an update writes the whole list
            datastore.update_image_info(film, info)
        return {"scored": len(films) - unreadable, "unreadable": unreadable}

    def _score(self, datastore: Datastore, film: str) -> dict[str, Any]:
        try:
            request = {"image": datastore.get_image_uri(film), "show": "mask", "skip_writer": "true", "description": ""}
            return self.task(request)[1]["scores"]
        except Exception as error:
            _, reason, _ = explain(error)
            if reason == Reason.INTERNAL:
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
        # The values go into the bundle's config, where a text that begins like this would be run as a program.
        if any(isinstance(value, str) and value[:1] in ("$", "@", "%") for value in request.values()):
            raise InputError("a setting of a training must not be an expression")
        return super().__call__({**request, "run_id": "update", "pretrained": True}, datastore)

    def _fetch_datalist(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        films = [film for film in datastore.list_images() if not datastore.get_image_info(film).get("unreadable")]
        return [{"image": datastore.get_image_uri(film)} for film in sorted(films)]
