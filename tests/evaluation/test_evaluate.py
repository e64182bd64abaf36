"""The whole evaluation on a model whose numbers are known: PCA written as a VAE."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
import torch

from monai_cxr_vae.data.phantom import render
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.evaluation import evaluate
from monai_cxr_vae.metrics import peak_signal_to_noise_ratio


class LinearModel(torch.nn.Module):
    """Eight principal components; four more latents are left unused."""

    latent_size = 12

    def __init__(self, films: torch.Tensor) -> None:
        super().__init__()
        rows = films.flatten(1)
        self.mean = rows.mean(0)
        self.directions = torch.linalg.svd(rows - self.mean, full_matrices=False)[2][:8]
        self.register_buffer("sigma", torch.tensor(0.05))

    def encode(self, x):
        mu = torch.nn.functional.pad((x.flatten(1) - self.mean) @ self.directions.T, (0, 4))
        return mu, torch.tensor([-6.0] * 8 + [0.0] * 4).expand_as(mu)

    def decode(self, z):
        return (z[:, :8] @ self.directions + self.mean).view(-1, 1, 48, 48)


@pytest.fixture(scope="module")
def films():
    films = torch.stack([torch.from_numpy(render((11, i), 48).image)[None] for i in range(40)])
    return films[:28], films[28:]


@pytest.fixture(scope="module")
def evaluated(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    log = folder / "metrics.csv"
    log.write_text(
        "epoch,train/mse,train/kl,val/psnr,val/kl\n1,0.02,5,,\n2,0.01,7,20.5,6\n3,0.008,8,,\n4,0.007,9,22,8\n"
    )
    return evaluate(LinearModel(films[0]), films[1], films[0], folder, metrics_csv=log, batch_size=5), folder


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "cannot read .*: No such file or directory"),
        ("a,b\n1,2\n", "is not the metrics.csv of a training"),
        ("epoch,train/fault\n1,2\n", "is not the metrics.csv of a training"),
        ("epoch,train/mse\n1,much\n", "is not the metrics.csv of a training"),
    ],
)
def test_a_log_of_no_training_is_refused_before_the_work(films, tmp_path, text, line):
    log = tmp_path / "metrics.csv"
    if text is not None:
        log.write_text(text)
    with pytest.raises(InputError, match=line):
        evaluate(LinearModel(films[0]), films[1], None, tmp_path / "out", metrics_csv=log)
    assert not (tmp_path / "out").exists()


def test_the_file_holds_what_is_returned(evaluated):
    result, folder = evaluated
    text = (folder / "evaluation.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == result  # no NaN, which is not JSON
    assert (result["n"], result["image_size"], result["latent_size"]) == (12, 48, 12)
    for name in ("psnr", "ssim", "kl", "bits_per_dimension"):
        low, high = result[name]["ci95"]
        assert low < result[name]["mean"] < high
        assert result[name]["n"] == 12
    assert "ms_ssim" not in result


def test_numbers_are_the_models(evaluated, films):
    result, _ = evaluated
    train, test = films
    model = LinearModel(train)
    mu, logvar = model.encode(test)
    error = (model.decode(mu).clamp(0, 1) - test).square().flatten(1).mean(1)
    assert result["psnr"]["mean"] == pytest.approx(float((-10 * error.log10()).mean()), abs=1e-4)
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp())
    assert result["kl"]["mean"] == pytest.approx(float(kl.sum(1).mean()), rel=1e-5)
    assert result["kl_per_unit"]["mean"] == pytest.approx(kl.mean(0).tolist(), rel=1e-4, abs=1e-6)
    assert [len(bound) for bound in result["kl_per_unit"]["ci95"]] == [12, 12]
    assert result["active_units"]["value"] == int((mu.var(0) > 0.01).sum()) == 8
    assert result["active_units"]["of"] == 12
    assert result["active_units"]["ci95"] == [8, 8]  # each of the eight has a variance far above the limit
    # Expectation over the posterior: the error of the mean and the variance that the sampled latents bring.
    unclamped = float((model.decode(mu) - test).square().mean()) + 8 * math.exp(-6) / 48**2
    nats = 0.5 * math.log(2 * math.pi * 0.05**2) + unclamped / (2 * 0.05**2) + float(kl.sum(1).mean()) / 48**2
    assert result["bits_per_dimension"]["mean"] == pytest.approx(nats / math.log(2) + 8, abs=2e-3)


def test_baselines_stand_beside(evaluated, films):
    result, _ = evaluated
    train, test = films
    found = result["baselines"]
    mean = peak_signal_to_noise_ratio(train.mean(0, keepdim=True).expand_as(test), test).mean()
    assert found["mean_image"]["psnr"] == pytest.approx(float(mean), abs=1e-4)
    assert found["pca"]["components"] == 12
    assert found["pca"]["psnr"] > found["mean_image"]["psnr"]
    assert found["bicubic"]["values"] == 9
    assert found["block_pca"]["values"] <= 12


def test_the_same_again_and_batch_size_does_not_matter(evaluated, films, tmp_path):
    again = evaluate(LinearModel(films[0]), films[1], films[0], tmp_path, batch_size=12)
    for name in ("psnr", "ssim", "kl", "bits_per_dimension"):
        assert again[name]["mean"] == pytest.approx(evaluated[0][name]["mean"], abs=1e-5)
        assert again[name]["ci95"] == pytest.approx(evaluated[0][name]["ci95"], abs=1e-5)
    for name, baseline in evaluated[0]["baselines"].items():
        for metric, value in baseline.items():
            assert again["baselines"][name][metric] == pytest.approx(value, abs=1e-5), (name, metric)


def test_masked_padding_changes_nothing(films, tmp_path):
    class Padded(LinearModel):
        """Answers the film's content and nonsense on the padding."""

        def decode(self, z):
            made = super().decode(z)
            made[..., :5, :] = 3.0
            return made

    train, test = films
    mask = torch.ones_like(test, dtype=torch.bool)
    mask[..., :5, :] = False
    results = [
        evaluate(model(train), test, train, tmp_path / str(i), mask) for i, model in enumerate((LinearModel, Padded))
    ]
    for name in ("psnr", "ssim", "bits_per_dimension"):
        assert results[0][name] == results[1][name]


def test_without_sigma_there_is_no_bound(films, tmp_path, caplog):
    model = LinearModel(films[0])
    model.sigma.fill_(math.nan)
    assert "bits_per_dimension" not in evaluate(model, films[1], films[0], tmp_path)
    assert "sigma" in caplog.text
    json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)


def test_without_training_films_the_baselines_are_said_to_be_flattered(evaluated, films, tmp_path, caplog):
    result = evaluate(LinearModel(films[0]), films[1], None, tmp_path)
    assert result["baselines_fitted_on"] == "evaluated films"
    assert evaluated[0]["baselines_fitted_on"] == "training films"
    assert result["baselines"]["mean_image"]["psnr"] > evaluated[0]["baselines"]["mean_image"]["psnr"]
    assert "pca" not in result["baselines"]  # 12 components of 12 films would be the films
    assert "no training films" in caplog.text


def test_one_film_is_refused(films, tmp_path):
    with pytest.raises(InputError, match="at least two films"):
        evaluate(LinearModel(films[0]), films[1][:1], films[0], tmp_path)


def test_pictures_show_the_films_upright(evaluated, films, tmp_path):
    _, folder = evaluated
    picture = cv2.imread(str(folder / "reconstructions.png"), 0)
    curves = cv2.imread(str(folder / "curves.png"), 0)
    assert min(*picture.shape, *curves.shape) > 500
    evaluate(LinearModel(films[0]), films[1], films[0], tmp_path)
    assert cv2.imread(str(tmp_path / "curves.png"), 0).shape[0] < curves.shape[0]  # no training curves without a log
    # The best film is found in the picture as it is and not mirrored.
    train, test = films
    model = LinearModel(train)
    psnr = peak_signal_to_noise_ratio(model.decode(model.encode(test)[0]), test)
    best = test[int(psnr.argmax()), 0].numpy()
    picture = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    found = []
    for film in (best, best[:, ::-1].copy()):
        scores = []
        for side in range(140, 180, 2):
            wanted = cv2.resize(film, (side, side), interpolation=cv2.INTER_NEAREST)
            wanted = np.rint(255 * wanted).astype(np.uint8)
            scores.append(cv2.matchTemplate(picture, wanted, cv2.TM_CCOEFF_NORMED).max())
        found.append(max(scores))
    assert found[0] > 0.97
    assert found[0] > found[1] + 0.02
