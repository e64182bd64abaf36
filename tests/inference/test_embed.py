"""Latents with what a list says of its films; the projector's files are read by TensorBoard itself."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from werkzeug.test import Client

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.inference import embed as module
from monai_cxr_vae.inference.embed import embed
from monai_cxr_vae.model import RadiographVAE


@pytest.fixture
def model() -> RadiographVAE:
    torch.manual_seed(0)
    return RadiographVAE(image_size=16, latent_size=4, channels=(8,), width=16).eval()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Five films, each of one grey, the first two with what a list may say."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data: list[dict[str, Any]] = []
    for i in range(5):
        Image.fromarray(np.full((20, 20), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
        data.append({"image": str(tmp_path / f"{i}.png")})
    data[0] |= {"patient": "p\t1", "label": 1}
    data[1] |= {"label": None, "view": "PA", "path": "of the list", "mu": "of the list"}
    return data


def test_columns_of_the_list_are_joined_when_asked_for(tmp_path: Path, model: RadiographVAE, data: list):
    assert embed(model, data, tmp_path / "plain") == 5
    with (tmp_path / "plain" / "latents.csv").open(newline="") as lines:
        plain = list(csv.DictReader(lines))
    assert list(plain[0]) == ["input_sha256", "mu_0", "mu_1", "mu_2", "mu_3"]
    embed(model, data, tmp_path / "joined", columns=True)
    with (tmp_path / "joined" / "latents.csv").open(newline="") as lines:
        joined = list(csv.DictReader(lines))
    assert [row["label"] for row in joined] == ["1", "", "", "", ""]
    assert [row["view"] for row in joined] == ["", "PA", "", "", ""]
    assert joined[0]["patient"] == "p\t1"
    assert [{name: row[name] for name in plain[0]} for row in joined] == plain
    arrays = np.load(tmp_path / "joined" / "latents.npz")
    assert arrays["label"].tolist() == ["1", "", "", "", ""]
    assert arrays["mu"].shape == (5, 4)  # and not what a list calls by that name
    embed(model, data, tmp_path / "paths", paths=True, columns=True)
    assert np.load(tmp_path / "paths" / "latents.npz")["path"].tolist() == [film["image"] for film in data]


def served(folder: Path) -> Any:
    """What TensorBoard answers about a folder."""
    apps = ProjectorPlugin(TBContext(logdir=str(folder), data_provider=None)).get_plugin_apps()

    def get(what: str, **query: str) -> Any:
        answer = Client(apps[f"/{what}"]).get("/", query_string=query)
        assert answer.status_code == 200, answer.text
        return answer

    return get


@pytest.mark.parametrize("columns", [True, False])
def test_tensorboard_shows_the_latents_with_thumbnails(tmp_path: Path, model: RadiographVAE, data: list, columns: bool):
    for _ in range(2):  # a second time over the first
        embed(model, data, tmp_path / "out", columns=columns, projector=True)
    get = served(tmp_path / "out" / "projector")
    assert get("runs").json == ["."]
    (info,) = get("info", run=".").json["embeddings"]
    assert info["tensorShape"] == [5, 4]
    tensor = np.frombuffer(get("tensor", run=".", name=info["tensorName"]).data, "<f4").reshape(5, 4)
    arrays = np.load(tmp_path / "out" / "latents.npz")
    np.testing.assert_allclose(tensor, arrays["mu"], rtol=1e-6)
    lines = get("metadata", run=".", name=info["tensorName"]).text.splitlines()
    digests = arrays["input_sha256"].tolist()
    if columns:
        assert lines[0].split("\t") == ["input_sha256", "patient", "label", "view", "path", "mu"]
        assert lines[1].split("\t")[:3] == [digests[0], "p 1", "1"]
        assert [line.split("\t")[0] for line in lines[1:]] == digests
    else:
        assert lines == digests
    side = info["sprite"]["singleImageDim"]
    sheet = np.asarray(Image.open(io.BytesIO(get("sprite_image", run=".", name=info["tensorName"]).data)).convert("L"))
    assert side == [16, 16]
    assert [int(sheet[16 * (i // 3) + 8, 16 * (i % 3) + 8]) for i in range(5)] == [0, 40, 80, 120, 160]


def test_of_many_films_some_are_shown(
    tmp_path: Path, model: RadiographVAE, data: list, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MOST_POINTS", 3)
    embed(model, data, tmp_path / "out", projector=True)
    get = served(tmp_path / "out" / "projector")
    (info,) = get("info", run=".").json["embeddings"]
    digests = np.load(tmp_path / "out" / "latents.npz")["input_sha256"].tolist()
    assert get("metadata", run=".", name=info["tensorName"]).text.splitlines() == digests[::2]


def test_a_grid_is_no_point(tmp_path: Path, data: list):
    grid = RadiographVAE("spatial", image_size=16, latent_size=16, stride=8, channels=(8,)).eval()
    with pytest.raises(InputError, match="grid of latents"):
        embed(grid, data, tmp_path / "out", projector=True)
    assert not (tmp_path / "out").exists()
