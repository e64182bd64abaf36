"""One weights file: network, geometry, statistics and calibration together; how it is opened and written."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.networks import PRESETS, VAE, AnyVAE, Scorer, SpatialVAE, network_of
from monai_cxr_vae.paths import bundle_root
from monai_cxr_vae.radiograph import Radiograph
from monai_cxr_vae.transforms import FITS, fit_to_square

FORMAT_VERSION = 1


class RadiographVAE(AnyVAE):
    """A VAE that carries all that is needed to use it on films; which network it is, the preset tells.

    Its state dict is flat and holds tensors only; ``_extra_state`` is a JSON text as a uint8 tensor with the settings
    (network, preprocessing, calibration, training summary), so one file opens with ``weights_only=True`` in
    :func:`load_model`, MONAI's ``CheckpointLoader``, ``ckpt_export`` and MONAI Label.

    Args:
        preset: name in :data:`monai_cxr_vae.networks.PRESETS`, the source of every argument that is None or absent.
        fit: how a film becomes square, ``"stretch"`` or ``"letterbox"``.
        **network: arguments of the preset's network, :class:`monai_cxr_vae.networks.VAE` or
            :class:`monai_cxr_vae.networks.SpatialVAE`: ``image_size``, ``latent_size``, ``channels``, ...

    Raises:
        InputError: unknown preset or fit, or an argument that the network does not have or cannot take.
    """

    if TYPE_CHECKING:  # TorchScript would read these annotations, and cannot
        sigma: Tensor
        latent_mean: Tensor
        latent_covariance: Tensor
        scorer: Scorer | None

    def __new__(cls, preset: str = "vector", fit: str = "stretch", **network: Any) -> RadiographVAE:
        if preset not in PRESETS:
            raise InputError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
        if cls is RadiographVAE:
            cls = SpatialRadiographVAE if network_of(preset) is SpatialVAE else VectorRadiographVAE
        return super().__new__(cls)

    def __init__(self, preset: str = "vector", fit: str = "stretch", **network: Any) -> None:
        if fit not in FITS:
            raise InputError(f"unknown fit {fit!r}; there are {', '.join(FITS)}")
        arguments = PRESETS[preset] | {name: value for name, value in network.items() if value is not None}
        unknown = [name for name in arguments if name not in inspect.signature(network_of(preset)).parameters]
        if unknown:
            raise InputError(f"a network of preset {preset} has no {', '.join(unknown)}")
        try:
            super().__init__(**arguments)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.fit = fit
        self.settings: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "network": {"preset": preset, **json.loads(json.dumps(arguments))},  # a tuple comes back as a list
            "preprocessing": {"fit": fit},
            "training": {},
        }
        # Fixed by a pass over the training films when a run ends; not a number before.
        self.register_buffer("sigma", torch.tensor(float("nan")))
        if self.fits_latents:
            self.register_buffer("latent_mean", torch.full((self.latent_size,), float("nan")))
            self.register_buffer("latent_covariance", torch.full((self.latent_size, self.latent_size), float("nan")))
        self.scorer = None  # there once it is fitted, see monai_cxr_vae.scoring
        self.register_load_state_dict_pre_hook(_add_scorer)

    @property
    def fits_latents(self) -> bool:
        """Whether a Gaussian of the latents can be fitted: a grid has more latents than there are films."""
        return len(self.latent_shape) == 1

    def get_extra_state(self) -> Tensor:
        """The settings as UTF-8 JSON in a uint8 tensor (PyTorch's hook for state that is not a parameter)."""
        text = json.dumps(self.settings, sort_keys=True).encode()
        return torch.frombuffer(bytearray(text), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the settings of a state dict.

        Raises:
            InputError: the weights belong to another network or geometry.
        """
        settings = _decode_settings(state)
        for part in ("network", "preprocessing"):
            if settings[part] != self.settings[part]:
                raise InputError(f"these weights were made with {part} {settings[part]}, not {self.settings[part]}")
        self.settings = settings

    @torch.jit.unused
    def preprocess(self, radiograph: Radiograph) -> Tensor:
        """``(1, 1, S, S)`` float32 in [0, 1], bit-equal to the transforms of ``inference.json``."""
        square, _ = fit_to_square(
            radiograph.pixels, self.image_size, self.fit, radiograph.pixel_aspect, radiograph.orientation
        )
        return torch.from_numpy(square)[None, None]

    @torch.jit.unused
    def sample(self, n: int, seed: int = 0, distribution: str = "fitted") -> Tensor:
        """Draw new films.

        Args:
            n: number of films.
            seed: the same seed gives the same films.
            distribution: ``"fitted"``, the Gaussian with the full covariance of the training films' latents (Dai and
                Wipf 2019 explain why the prior alone gives worse films), or ``"prior"``, N(0, I).

        Returns:
            ``(n, 1, S, S)`` float32, clamped to [0, 1].

        Raises:
            InputError: the distribution is not fitted yet (it is when a training run ends), or is unknown.
        """
        if distribution not in ("fitted", "prior"):
            raise InputError(f'unknown distribution {distribution!r}; there are "fitted" and "prior"')
        z = torch.randn(n, *self.latent_shape, generator=torch.Generator().manual_seed(seed))
        if distribution == "fitted":
            if not self.fits_latents:
                raise InputError(
                    "a grid of latents has no fitted distribution to draw films from; sample from a vector preset, or "
                    "train a latent diffusion model on the means that encode gives"
                )
            if not torch.isfinite(self.latent_covariance).all():
                raise InputError(
                    "the latent distribution of these weights is not fitted; a finished training run fits it"
                )
            eigenvalues, vectors = torch.linalg.eigh(self.latent_covariance.cpu().double())
            root = (vectors * eigenvalues.clamp(min=0).sqrt()).float()
            z = self.latent_mean.cpu() + z @ root.T
        with torch.no_grad():
            return self.decode(z.to(self.sigma.device)).clamp(0, 1)


def _add_scorer(model: RadiographVAE, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for a state dict's scorer, whose size is that of the films that it was fitted on."""
    start = f"{prefix}scorer."
    own = {name.removeprefix(start): state.pop(name) for name in list(state) if name.startswith(start)}
    own = Scorer.of_today(own)
    state.update({start + name: value for name, value in own.items()})
    scorer = Scorer.shaped_like(own).to(model.sigma.device).train(model.training) if own else None
    if scorer is None or model.scorer is None or _shapes(scorer) != _shapes(model.scorer):
        model.scorer = scorer  # one that fits stays: an optimiser may hold its parameters


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


class VectorRadiographVAE(RadiographVAE, VAE):
    """:class:`RadiographVAE` with a vector of latents."""


class SpatialRadiographVAE(RadiographVAE, SpatialVAE):
    """:class:`RadiographVAE` with a grid of latents."""


def load_model(path: str | os.PathLike | None = None) -> RadiographVAE:
    """Open a weights file as a network in evaluation mode.

    Args:
        path: a file, the name of a shipped weights file, or None for the shipped default.

    Raises:
        InputError: no such file, or not a weights file of this package.
    """
    file = weights_file(path)
    state = _read_state(file)
    if "_extra_state" not in state:
        raise InputError(f"{file} is not a weights file of monai_cxr_vae: it carries no settings")
    settings = _decode_settings(state["_extra_state"])
    model = RadiographVAE(**settings["network"], **settings["preprocessing"])
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{file} does not hold the weights of the network that it describes") from error
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise InputError(f"{file} holds weights that are not finite")
    return model.eval()


def create_model(
    weights: str | os.PathLike | None = None, preset: str | None = None, fit: str | None = None, **network: Any
) -> RadiographVAE:
    """A new network, or the one of a weights file to go on from (fine-tuning).

    Args:
        weights: file or shipped file's name; its network and geometry then hold. None for a new network.
        preset, fit, **network: see :class:`RadiographVAE`; None for its default, or for what the weights file has.

    Raises:
        InputError: an argument that contradicts the weights file.
    """
    if weights is None:
        return RadiographVAE(preset or "vector", fit or "stretch", **network)
    model = load_model(weights)
    own = model.settings["network"] | model.settings["preprocessing"]
    for name, value in {"preset": preset, "fit": fit, **network}.items():
        if value is not None and json.loads(json.dumps(value)) != own.get(name):
            raise InputError(f"{name} {value} contradicts the weights file, which has {own.get(name)}")
    if model.scorer is not None:
        model.scorer.requires_grad_(False)  # its critic takes no part in the training of the network
    return model


def save_model(model: RadiographVAE, path: str | os.PathLike, *, half: bool = False) -> None:
    """Write a weights file, whole or not at all.

    Args:
        model: the model.
        path: the file.
        half: store the parameters (not the statistics) in half precision, for a file of half the size; loading makes
            them float32 again.
    """
    parameters = {name for name, _ in model.named_parameters()} if half else set()
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    save_state({name: value.half() if name in parameters else value for name, value in state.items()}, path)


def save_state(state: dict[str, Any], path: str | os.PathLike) -> None:
    """Write tensors and plain values so that a kill at any moment leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def weights_file(path: str | os.PathLike | None = None) -> Path:
    """The weights file that a path, a shipped file's name or None (the shipped default) stands for."""
    models = Path(bundle_root()) / "models"
    if path is None:
        path = models / "model.pt"
    elif not Path(path).is_file() and (models / f"{path}.pt").is_file():
        path = models / f"{path}.pt"
    if not Path(path).is_file():
        raise InputError(f"no weights file {path}")
    return Path(path)


def _read_state(file: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{file} is not a weights file: {type(error).__name__}") from error
    if not isinstance(state, dict):
        raise InputError(f"{file} is not a weights file of monai_cxr_vae")
    return state


def _decode_settings(state: Any) -> dict[str, Any]:
    try:
        settings = json.loads(bytes(state.cpu().numpy().tobytes()))
        version, _ = settings["version"], (settings["network"]["preset"], settings["preprocessing"]["fit"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError("the weights file's settings are damaged") from error
    if version != FORMAT_VERSION:
        raise InputError(f"weights file of version {version}; this program reads {FORMAT_VERSION}")
    return settings
