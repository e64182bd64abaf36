"""One weights file, opened in every way that MONAI's tools open it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import textwrap
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from monai.handlers import CheckpointLoader
from scipy import stats

from monai_cxr_vae import load_model
from monai_cxr_vae.errors import InputError, OutputError
from monai_cxr_vae.model import RadiographVAE, create_model, save_model, save_state, weights_file
from monai_cxr_vae.networks import VectorFlow
from monai_cxr_vae.scoring import Scorer

TINY = {"image_size": 16, "latent_size": 4, "channels": (8,), "width": 16}


@pytest.fixture
def model() -> RadiographVAE:
    torch.manual_seed(0)
    model = RadiographVAE(**TINY, fit="letterbox")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.sigma.fill_(0.05)
    model.latent_mean.copy_(torch.arange(4.0))
    root = torch.randn(4, 4)
    model.latent_covariance.copy_(root @ root.T)
    model.settings["training"] = {"films": 7}
    return model.eval()


@pytest.fixture
def weights(model: RadiographVAE, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def assert_same_network(one: torch.nn.Module, other: torch.nn.Module) -> None:
    x = torch.rand(3, 1, 16, 16)
    assert torch.equal(one.eval()(x), other.eval()(x))


def test_the_file_is_a_flat_dictionary_of_tensors(weights: Path):
    state = torch.load(weights, weights_only=True)
    assert isinstance(state, dict)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert not list(weights.parent.glob(".*tmp*"))


def test_load_model_restores_network_geometry_statistics_and_settings(model: RadiographVAE, weights: Path):
    loaded = load_model(weights)
    assert not loaded.training
    assert loaded.fit == "letterbox"
    assert loaded.settings == model.settings
    assert torch.equal(loaded.latent_covariance, model.latent_covariance)
    assert_same_network(model, loaded)


def test_what_a_loaded_model_makes_needs_no_gradient_and_training_on_does(weights: Path):
    x = torch.rand(2, 1, 16, 16)
    loaded = load_model(weights)
    mu, logvar = loaded.encode(x)
    made = mu, logvar, loaded.decode(mu), loaded.reconstruct(x), loaded(x)
    assert not any(tensor.requires_grad for tensor in made)
    latents = mu.requires_grad_()  # what somebody asks the gradient of has one
    loaded.decode(latents).sum().backward()
    assert latents.grad.abs().sum() > 0
    assert all(parameter.requires_grad for parameter in create_model(weights).parameters())


def test_a_model_tells_in_one_line_what_it_is(model: RadiographVAE):
    size = sum(parameter.numel() for parameter in model.parameters())
    line = f"preset vector, 16 x 16 pixels (letterbox), 4 latents, {size:,} parameters, no scores"
    assert repr(model) == f"RadiographVAE({line})"
    assert "scores against 250 films" in repr(load_model())


@pytest.mark.parametrize("nested", [False, True])
def test_monai_checkpoint_loader_opens_it(model: RadiographVAE, weights: Path, tmp_path: Path, nested: bool):
    path = weights
    if nested:
        path = tmp_path / "nested.pt"
        torch.save({"model": torch.load(weights, weights_only=True)}, path)
    other = RadiographVAE(**TINY, fit="letterbox")
    engine = Engine(lambda engine, batch: None)
    CheckpointLoader(str(path), {"model": other}).attach(engine)
    engine.run([0])
    assert other.settings["training"] == {"films": 7}
    assert_same_network(model, other)


def test_weights_of_another_geometry_are_refused(weights: Path):
    with pytest.raises(InputError, match="these weights were made with preprocessing"):
        RadiographVAE(**TINY, fit="stretch").load_state_dict(torch.load(weights, weights_only=True))


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_what_is_no_weights_file_is_one_clear_error(tmp_path: Path, content: bytes | None):
    path = tmp_path / "x.pt"
    if content is None:
        torch.save(OrderedDict(weight=torch.zeros(1)), path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"is not a weights file"):
        load_model(path)
    with pytest.raises(InputError, match=r"no weights file"):
        load_model(tmp_path / "absent.pt")


def change_settings(weights: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a weights file with the settings that ``change`` makes of its own: a JSON value, or a text as it is."""
    state = torch.load(weights, weights_only=True)
    made = change(json.loads(bytes(state["_extra_state"].numpy())))
    text = made if isinstance(made, str) else json.dumps(made)
    torch.save(state | {"_extra_state": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}, weights)


def opened_or_refused(weights: Path) -> RadiographVAE | None:
    """The model, or None if one line says why there is none; any other error is passed on."""
    try:
        return load_model(weights)
    except InputError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    return None


def refusal(weights: Path) -> str:
    """The one line that says why weights are refused."""
    with pytest.raises(InputError) as refused:
        load_model(weights)
    (line,) = str(refused.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ([], "settings are damaged"),
        ({"version": 2}, "settings are damaged"),
        ({"version": 2, "network": {"preset": "vector"}, "preprocessing": None}, "settings are damaged"),
        ("[" * 200_000 + "]" * 200_000, "settings are damaged"),
        ('{"version": ' + "9" * 5000 + "}", "settings are damaged"),
        (" " * 2**21, "settings are damaged"),
        ({"version": 1, "network": {"preset": "vector"}, "preprocessing": {"fit": "stretch"}}, "of version 1; this"),
    ],
    ids=["list", "nothing else", "null", "nested", "number of 5000 digits", "two megabytes", "version"],
)
def test_settings_that_are_none_are_refused(weights: Path, settings: object, reason: str):
    change_settings(weights, lambda _: settings)
    assert reason in refusal(weights)


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("network", {"preset": ["vector"]}, "unknown preset"),
        ("network", {"preset": "huge"}, "unknown preset 'huge'"),
        ("network", {"fit": "stretch"}, "these weights were made with network"),
        ("network", {"cls": 1}, "a network of preset vector has no 'cls'"),
        ("network", {"self": 1}, "a network of preset vector has no 'self'"),
        ("network", {"line\nbreak": 1}, r"has no 'line\nbreak'"),
        ("network", {"image_size": 16.0}, "image_size must be a whole number from 1 to 8192, not 16.0"),
        ("network", {"image_size": True}, "image_size must be a whole number"),
        ("network", {"image_size": [16]}, "image_size must be a whole number"),
        ("network", {"image_size": 65536}, "image_size must be a whole number from 1 to 8192, not 65536"),
        ("network", {"image_size": 0}, "image_size must be a whole number from 1"),
        ("network", {"latent_size": 10**7}, "latent_size must be a whole number from 1 to 1048576"),
        ("network", {"channels": 8}, "channels must be at most 64 whole numbers"),
        ("network", {"channels": ["8"]}, "channels must be at most 64 whole numbers"),
        ("network", {"channels": [8] * 65}, "channels must be at most 64 whole numbers"),
        ("network", {"channels": []}, "must be positive"),
        ("network", {"width": 2**20}, "does not hold the weights of the network that it describes"),
        ("network", {"preset": "spatial"}, "has no 'width'"),
        ("preprocessing", {"fit": ["letterbox"]}, "unknown fit"),
        ("preprocessing", {"fit": "crop"}, "unknown fit 'crop'"),
        ("preprocessing", {"image_size": 32}, "these weights were made with network"),
        ("preprocessing", {"margin": 3}, "has no 'margin'"),
    ],
)
def test_settings_that_no_network_has_are_refused(weights: Path, part: str, change: dict, reason: str):
    change_settings(weights, lambda settings: settings | {part: settings[part] | change})
    assert reason in refusal(weights)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["vector", "spatial", 8, 16]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["preset", "fit", "image_size", "latent_size", "channels", "width", "stride"]) | st.text()


@given(part=st.sampled_from(["network", "preprocessing", "version"]), value=JSON | st.dictionaries(NAMES, JSON))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_settings_are_those_of_the_file_or_refused_in_one_line(weights: Path, part: str, value: object):
    copy = weights.with_name("copy.pt")
    copy.write_bytes(weights.read_bytes())
    own: dict[str, Any] = {}

    def change(settings: dict[str, Any]) -> dict[str, Any]:
        own.update(settings)
        both = isinstance(value, dict) and part != "version"
        return settings | {part: settings[part] | value if both else value}  # type: ignore[operator]

    change_settings(copy, change)
    model = opened_or_refused(copy)
    assert model is None or model.settings == own


@given(place=st.floats(0, 1, exclude_max=True), byte=st.none() | st.integers(0, 255))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_opens_or_is_refused_in_one_line(weights: Path, place: float, byte: int | None):
    data = weights.read_bytes()
    at = int(place * len(data))
    copy = weights.with_name("copy.pt")
    copy.write_bytes(data[:at] if byte is None else data[:at] + bytes([byte]) + data[at + 1 :])
    opened_or_refused(copy)


def _deflated(weights: Path) -> None:
    with zipfile.ZipFile(weights) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def _a_bomb(weights: Path) -> None:
    with zipfile.ZipFile(weights, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data/x", "w") as entry:
        for _ in range(2**9):
            entry.write(bytes(2**20))


def _rewritten(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda weights: torch.save(change(torch.load(weights, weights_only=True)), weights)


def _without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {n: value for n, value in state.items() if n != name}


HUGE = torch.zeros(1).expand(2**40)
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "git lfs pointer": (
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12714483\n"),
        "is a Git LFS pointer and not the weights themselves, which `git lfs pull` fetches",
    ),
    "compressed": (_deflated, "is a compressed archive"),
    "old format": (
        lambda file: torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=False),
        "is not a weights file: BadZipFile",
    ),
    "of a wrapped network": (
        _rewritten(lambda state: {f"module.{name}": value for name, value in state.items()}),
        'the weights of a wrapped network ("module." before each name); a training writes those of the network itself '
        "to model.pt",
    ),
    "list": (_rewritten(lambda state: list(state.values())), "is not a weights file of monai_cxr_vae"),
    "number as name": (_rewritten(lambda state: state | {3: torch.zeros(1)}), "is not a weights file of monai_cxr_vae"),
    "no settings": (_rewritten(lambda state: _without(state, "_extra_state")), "carries no settings"),
    "text as settings": (_rewritten(lambda state: state | {"_extra_state": "text"}), "holds other things than the"),
    "numbers as settings": (
        _rewritten(lambda state: state | {"_extra_state": torch.zeros(3)}),
        "settings are damaged",
    ),
    "expanded": (_rewritten(lambda state: state | {"sigma": HUGE}), "holds other things than the tensors"),
    "sparse": (_rewritten(lambda state: state | {"sigma": torch.ones(3).to_sparse()}), "holds other things than the"),
    "without memory": (
        _rewritten(lambda state: state | {"sigma": torch.zeros((), device="meta")}),
        "holds other things than the tensors",
    ),
    "one missing": (_rewritten(lambda state: _without(state, "network.mu_head.bias")), "does not hold the weights"),
    "one too many": (_rewritten(lambda state: state | {"more": torch.zeros(1)}), "does not hold the weights of the"),
    "other shape": (_rewritten(lambda state: state | {"network.mu_head.bias": torch.zeros(5)}), "does not hold the"),
    "scorer in part": (_rewritten(lambda state: state | {"scorer.centre": torch.zeros(5)}), "the scorer of these"),
    "scorer without axes": (
        _rewritten(lambda state: state | {"scorer.variance": torch.zeros(())}),
        "the scorer of these weights is damaged",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_weights_files_suffer_is_told(weights: Path, damage: str):
    damage_it, reason = DAMAGES[damage]
    damage_it(weights)
    assert reason in refusal(weights)


def test_a_scorer_that_is_larger_than_the_network_is_refused(model: RadiographVAE, weights: Path):
    model.scorer = Scorer(image_size=16, latent_size=4, critic=False, films=5)
    save_model(model, weights)
    assert load_model(weights).scorer is not None
    large = {f"scorer.{name}": torch.zeros(10**6) for name in ("variance", "latent_mean")}  # asks for 4 TB
    _rewritten(lambda state: state | large)(weights)
    assert "does not hold the weights of the network that it describes" in refusal(weights)


def test_a_checkpoint_is_told_from_weights(tmp_path: Path):
    network = RadiographVAE(**TINY)
    parts = {name: network.state_dict() for name in ("network", "averaged", "optimizer", "lr_scheduler")}
    save_state(parts | {"epoch": 3}, tmp_path / "checkpoints" / "last.pt")
    said = refusal(tmp_path / "checkpoints" / "last.pt")
    assert said.endswith("last.pt is a checkpoint to resume training; the weights are in model.pt, one folder up")


GIGANTIC = [
    {"image_size": 65536},
    {"image_size": 8192, "latent_size": 2**20},
    {"latent_size": 10**7},
    {"channels": [2048, 2048], "image_size": 64},
    {"width": 2**20},
    {"preset": "spatial", "image_size": 8192, "latent_size": 2**20, "stride": 8192, "groups": 2**20, "channels": [1]},
]


def test_gigantic_settings_and_archives_take_no_memory(weights: Path, tmp_path: Path):
    files = [tmp_path / f"{i}.pt" for i in range(len(GIGANTIC))]
    for file, asked in zip(files, GIGANTIC, strict=True):
        file.write_bytes(weights.read_bytes())
        own = {} if "preset" in asked else {"preset": "vector", **TINY}
        change_settings(file, lambda settings, own=own, asked=asked: settings | {"network": own | asked})
    _a_bomb(weights)
    program = """
        import resource, sys
        from monai_cxr_vae.errors import InputError, OutputError
        from monai_cxr_vae.model import load_model
        largest = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        load_model()
        before = largest()
        for file in sys.argv[1:]:
            try:
                load_model(file)
            except InputError as error:
                print(largest() - before, error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(weights), *map(str, files)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 1 + len(files)
    for line in said:
        assert int(line.split()[0]) < 64 * 2**10  # kB
        assert re.search("must be|does not hold the weights|compressed archive", line)


def test_weights_that_are_not_finite_are_refused_and_missing_statistics_are_not(model: RadiographVAE, weights: Path):
    model.sigma.fill_(float("nan"))
    save_model(model, weights)
    load_model(weights)
    torch.nn.init.constant_(next(model.parameters()), float("nan"))
    save_model(model, weights)
    with pytest.raises(InputError, match="holds weights that are not finite"):
        load_model(weights)


def test_a_folder_does_not_hide_the_name_of_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spatial").mkdir()
    assert weights_file("spatial").parts[-2:] == ("models", "spatial.pt")


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(state: object, file: io.BufferedWriter) -> None:
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        save_state({}, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_scripted_network_is_the_network(model: RadiographVAE):
    x = torch.rand(2, 1, 16, 16)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), model(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scripted.encode(x)[0], model.encode(x)[0], rtol=1e-6, atol=1e-6)


def test_samples_follow_the_stored_gaussian(model: RadiographVAE, monkeypatch: pytest.MonkeyPatch):
    latents: list[torch.Tensor] = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda z: latents.append(z) or decode(z))
    films = model.sample(4000, seed=3)
    assert films.shape == (4000, 1, 16, 16)
    assert films.min() >= 0
    assert films.max() <= 1
    # whitened by the stored statistics, every coordinate must be standard normal
    root = np.linalg.cholesky(model.latent_covariance.double().numpy())
    white = np.linalg.solve(root, (latents[0].double() - model.latent_mean).numpy().T)
    assert min(stats.kstest(row, "norm").pvalue for row in white) > 0.001
    assert torch.equal(model.sample(2, seed=5), model.sample(2, seed=5))
    assert not torch.equal(model.sample(2, seed=5), model.sample(2, seed=6))


def test_samples_follow_the_flow_where_the_weights_hold_one(model: RadiographVAE, tmp_path: Path):
    torch.manual_seed(0)
    gaussian = model.sample(4, seed=3)
    model.latent_flow = VectorFlow(model.latent_size).eval()
    model.latent_flow.whiten(2 + torch.randn(50, model.latent_size))
    save_model(model, tmp_path / "model.pt", half=True)
    again = load_model(tmp_path / "model.pt")
    assert again.latent_flow is not None
    assert not any(parameter.requires_grad for parameter in again.latent_flow.parameters())
    films = again.sample(4, seed=3)
    noise = torch.randn(4, model.latent_size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = again.decode(again.latent_flow.mean + noise @ again.latent_flow.root.T).clamp(0, 1)
    torch.testing.assert_close(films, expected, atol=2e-3, rtol=0)
    assert not torch.allclose(films, gaussian, atol=0.01)
    # a network that has a flow takes weights that have none
    again.load_state_dict(RadiographVAE(**TINY, fit="letterbox").state_dict())
    assert again.latent_flow is None


def test_films_like_another_need_levels(model: RadiographVAE):
    with pytest.raises(InputError, match="several levels"):
        model.sample(1, like=torch.rand(1, 1, 16, 16))


def test_sampling_before_the_statistics_are_fitted_says_so():
    fresh = RadiographVAE(**TINY)
    with pytest.raises(InputError, match="not fitted"):
        fresh.sample(1)
    assert fresh.sample(1, distribution="prior").shape == (1, 1, 16, 16)


def test_fine_tuning_keeps_the_network_of_the_weights(model: RadiographVAE, weights: Path):
    assert_same_network(create_model(weights, latent_size=4, preset="vector", fit="letterbox"), model)
    for name, value, own in (("latent_size", 8, 4), ("preset", "compact", "vector"), ("fit", "stretch", "letterbox")):
        with pytest.raises(InputError, match=f"^{name} {value} contradicts the weights file, which has {own}$"):
            create_model(weights, **{name: value})


def test_a_new_network_has_the_default_preset_and_fit():
    model = create_model(**TINY)
    assert (model.settings["network"]["preset"], model.fit) == ("vector", "stretch")


@pytest.mark.parametrize("arguments", [{"preset": "huge"}, {"fit": "crop"}, {"image_size": 63}, {"stride": 8}])
def test_impossible_networks_are_refused(arguments: dict[str, object]):
    with pytest.raises(InputError):
        RadiographVAE(**arguments)  # type: ignore[arg-type]
