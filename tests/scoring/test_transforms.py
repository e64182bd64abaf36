"""Scores in the inference chain of the bundle: as counted by hand, whatever the film's shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer

from monai_cxr_vae.data import FilmDataset
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.inference import FilmChain
from monai_cxr_vae.model import RadiographVAE, save_model
from monai_cxr_vae.scoring import ScoreRadiographd, score, transforms
from monai_cxr_vae.scoring.features import texture
from monai_cxr_vae.transforms import restore
from tests.scoring.conftest import CALIBRATION, FITTED, as_scored


@pytest.fixture(scope="module")
def chain(plain: RadiographVAE, tmp_path_factory: pytest.TempPathFactory) -> FilmChain:
    """The bundle's own chain around the small model, up to the scores; ``kept`` has the data of the last film."""
    folder = tmp_path_factory.mktemp("weights")
    save_model(plain, folder / "model.pt")
    parser = ConfigParser()
    parser.read_config(str(Path(bundle_root()) / "configs" / "inference.json"))
    parser["weights"], parser["output_dir"], parser["device"] = str(folder / "model.pt"), str(folder / "out"), "cpu"
    preprocessing, scoring = (parser.get_parsed_content(i) for i in ("preprocessing", "postprocessing#transforms#0"))
    kept: dict = {}

    def postprocessing(data: dict) -> dict:
        kept.update(scoring(data))
        return {"scores": kept["scores"]}

    made = FilmChain(preprocessing, parser.get_parsed_content("network_def"), SimpleInferer(), postprocessing)
    made.kept = kept  # type: ignore[attr-defined]
    return made


def test_the_chain_tells_what_was_counted_by_hand(
    chain: FilmChain, phantoms: list[Path], plain: RadiographVAE, datasets: Callable[..., list[FilmDataset]]
):
    films = datasets(plain)[2]
    told, heat = score(plain, *as_scored(films))
    for i in range(0, len(told), 5):
        row = chain(phantoms[FITTED + CALIBRATION + i])
        assert row["status"] == "done"
        for name, value in told[i].as_row().items():
            # The store keeps 16 bits of a film.
            assert row[name] == (value if isinstance(value, str) else pytest.approx(value, abs=0.01)), name
        np.testing.assert_allclose(chain.kept["heatmap"].numpy(), heat[i].numpy(), atol=0.01)


def test_the_map_lies_on_the_film(chain: FilmChain, phantoms: list[Path]):
    for path in phantoms[-2:]:  # portrait and landscape
        chain(path)
        heat, pred = chain.kept["heatmap"], chain.kept["pred"]
        assert heat.shape == pred.shape
        assert heat.applied_operations == pred.applied_operations
        assert torch.equal(heat.affine, pred.affine)
        shown = restore(heat, heat.meta["geometry"], "source")
        assert shown.shape[1:] == cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).shape
        assert shown.max() > 0


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(40, 200), columns=st.integers(40, 200))
def test_no_band_beside_a_film_is_taken_for_the_film(chain: FilmChain, tmp_path: Path, rows: int, columns: int):
    """A film of one grey has no texture: the edge of the bands beside it would be one."""
    path = tmp_path / "film.png"
    cv2.imwrite(str(path), np.full((rows, columns), 200, np.uint8))
    seen: list[tuple[torch.Tensor, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "score", lambda model, *films: seen.append(films) or score(model, *films))
        assert chain(path)["status"] == "done"
    [(image, detail, mask)] = seen
    wide = mask.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert abs(detail[wide] - 200 / 255).max() < 1e-6
    assert abs(image[mask] - 200 / 255).max() < 1e-6
    assert mask.sum() >= 0.9 * 32 * 32 * min(rows, columns) / max(rows, columns) - 32
    assert (texture(detail, wide)[0, :7].exp() < 2e-7).all()


def test_weights_that_are_not_calibrated_are_refused_before_any_film():
    with pytest.raises(InputError, match="not calibrated"):
        ScoreRadiographd("pred", RadiographVAE(image_size=16, latent_size=4, channels=(8,), width=16))
