"""One weights file: network, geometry, statistics and calibration together; how it is opened and written."""

from __future__ import annotations

import copy
import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any, cast, get_type_hints

import torch
from torch import Tensor, nn
from tqdm import tqdm

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import bundle_root, write_whole
from monai_cxr_vae.networks import PRESETS, VAE, AnyVAE, HierarchicalVAE, VAENetwork, VectorFlow, check_network
from monai_cxr_vae.radiograph import Radiograph
from monai_cxr_vae.scoring.scorer import Scorer
from monai_cxr_vae.transforms import FITS, fit_to_square

FORMAT_VERSION = 2
# What a network can be asked for. A film has at most 64 million pixels; any other number is the length of an axis.
MAX_IMAGE_SIZE, MAX_NUMBER, MAX_NUMBERS = 8192, 2**20, 64
MAX_SETTINGS_BYTES = 2**20
_LFS_POINTER = b"version https://git-lfs"
_AT_A_TIME = 8  # films that are drawn together


class RadiographVAE(AnyVAE):
    """A VAE that has a network, and carries all that is needed to use it on films.

    Its state dict is flat and holds tensors only; ``_extra_state`` is a JSON text as a uint8 tensor with the settings
    (network, preprocessing, calibration, training summary), so one file opens with ``weights_only=True`` in
    :func:`load_model`, MONAI's ``CheckpointLoader``, ``ckpt_export`` and MONAI Label.

    Args:
        preset: name in :data:`monai_cxr_vae.networks.PRESETS`, the source of the network and of every argument that is
            None or absent; None for ``"vector"``.
        fit: how a film becomes square, ``"stretch"`` or ``"letterbox"``.
        network: a module of one's own in place of a preset's, see :class:`monai_cxr_vae.networks.VAENetwork`.
        **arguments: of the preset's network, :class:`monai_cxr_vae.networks.VAE`,
            :class:`monai_cxr_vae.networks.SpatialVAE` or :class:`monai_cxr_vae.networks.HierarchicalVAE`:
            ``image_size``, ``latent_size``, ``channels``, ...

    Raises:
        InputError: unknown preset or fit, an argument that the network does not have or cannot take, or a network that
            lacks something.
    """

    __jit_unused_properties__ = ("fits_latents", "own_network")

    if TYPE_CHECKING:  # TorchScript would read these annotations, and cannot
        network: VAENetwork
        settings: dict[str, Any]
        sigma: Tensor
        latent_mean: Tensor
        latent_covariance: Tensor
        latent_flow: VectorFlow | None
        scorer: Scorer | None

    def __init__(
        self,
        /,
        preset: str | None = None,
        fit: str = "stretch",
        network: nn.Module | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if fit not in FITS:
            raise InputError(f"unknown fit {shortened(fit)}; there are {', '.join(FITS)}")
        arguments = {name: value for name, value in arguments.items() if value is not None}
        if network is None:
            network, description = _of_preset(preset or "vector", arguments)
        else:
            description = _description(network, {"preset": preset, **arguments})
        self.network = cast(Any, network)
        self.image_size, self.latent_shape = self.network.image_size, tuple(self.network.latent_shape)
        self.latent_size = math.prod(self.latent_shape)
        self.learns_prior = bool(getattr(network, "learns_prior", False))
        self.fit = fit
        self.settings = {
            "version": FORMAT_VERSION,
            "network": json.loads(json.dumps(description)),  # a tuple comes back as a list
            "preprocessing": {"fit": fit},
            "training": {},
        }
        # Fixed by a pass over the training films when a run ends; not a number before.
        self.register_buffer("sigma", torch.tensor(float("nan")))
        if self.fits_latents:
            self.register_buffer("latent_mean", torch.full((self.latent_size,), float("nan")))
            self.register_buffer("latent_covariance", torch.full((self.latent_size, self.latent_size), float("nan")))
        self.latent_flow = None  # there once a run has ended, as the two above
        self.scorer = None  # there once it is fitted, see monai_cxr_vae.scoring
        self.register_load_state_dict_pre_hook(_add_scorer)
        self.register_load_state_dict_pre_hook(_add_latent_flow)

    def __repr__(self) -> str:
        films = self.scorer.films if self.scorer else 0
        size = sum(p.numel() for name, p in self.named_parameters() if not name.startswith("scorer."))
        preset = self.settings["network"].get("preset")
        return (
            f"RadiographVAE({f'preset {preset}' if preset else f'network {type(self.network).__name__}'}, "
            f"{self.image_size} x {self.image_size} pixels ({self.fit}), {self.latent_size} latents, "
            f"{size:,} parameters, {f'scores against {films} films' if films else 'no scores'})"
        )

    @property
    def fits_latents(self) -> bool:
        """Whether a density of the latents can be fitted: a grid has more latents than there are films."""
        return len(self.latent_shape) == 1 and not self.learns_prior

    @property
    def own_network(self) -> nn.Module | None:
        """The network if it is of no preset, so that its weights cannot be opened without it; else None."""
        return None if "preset" in self.settings["network"] else cast(nn.Module, self.network)

    @torch.jit.export
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior of films.

        Args:
            x: ``(N, 1, S, S)`` in [0, 1].

        Returns:
            ``(mu, logvar)``, its means and the logarithms of its variances, each ``(N, *latent_shape)``.
        """
        return self.network.encode(x)

    @torch.jit.export
    def decode(self, z: Tensor) -> Tensor:
        """The films of latents.

        Args:
            z: ``(N, *latent_shape)``.

        Returns:
            ``(N, 1, S, S)``, about [0, 1], not clamped.
        """
        return self.network.decode(z)

    @torch.jit.unused
    def prior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The prior of latents, as the network tells it.

        Args:
            z: ``(N, *latent_shape)``.

        Returns:
            Means and logarithms of the variances, each of the shape of ``z``.
        """
        return cast(AnyVAE, self.network).prior(z) if self.learns_prior else super().prior(z)

    @torch.jit.unused
    def sample_latents(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents from the prior.

        Args:
            n: how many.
            generator: of the CPU.

        Returns:
            ``(n, *latent_shape)``, on the device of the network.
        """
        if self.learns_prior:
            return cast(AnyVAE, self.network).sample_latents(n, generator)
        return super().sample_latents(n, generator)

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
        """A film as the network takes it, bit-equal to the transforms of ``inference.json``.

        Args:
            radiograph: of :func:`monai_cxr_vae.radiograph.read_radiograph`.

        Returns:
            ``(1, 1, S, S)`` float32 in [0, 1].
        """
        square, _ = fit_to_square(
            radiograph.pixels, self.image_size, self.fit, radiograph.pixel_aspect, radiograph.orientation
        )
        return torch.from_numpy(square)[None, None]

    @torch.jit.unused
    @torch.no_grad()
    def sample(
        self,
        n: int,
        seed: int = 0,
        distribution: str = "fitted",
        like: Tensor | None = None,
        keep: int = 1,
        progress: bool = False,
    ) -> Tensor:
        """Draw new films.

        Args:
            n: number of films.
            seed: the same seed gives the same films; the first of them do not depend on ``n``, up to rounding.
            distribution: ``"fitted"``, the density of the training films' latents (Dai and Wipf 2019 explain why the
                prior alone gives worse films): a flow, or the Gaussian with their full covariance where the weights
                hold none; or ``"prior"``, N(0, I). A network that learns its prior draws from that.
            like: a film ``(1, 1, S, S)`` whose upper levels the new ones share; for a hierarchical network.
            keep: levels that they share: 1, the codes, or 2, the small film too.
            progress: show a bar on a terminal while a hierarchical network draws.

        Returns:
            ``(n, 1, S, S)`` float32, clamped to [0, 1].

        Raises:
            InputError: the distribution is not fitted yet (it is when a training run ends), or is unknown; ``like`` for
                a network of one level.
        """
        if distribution not in ("fitted", "prior"):
            raise InputError(f'unknown distribution {distribution!r}; there are "fitted" and "prior"')
        levels = self.network if isinstance(self.network, HierarchicalVAE) else None
        if like is not None and levels is None:
            raise InputError("films can only be drawn like another one from a network of several levels")
        generator = torch.Generator().manual_seed(seed)
        if self.learns_prior:
            latents = None if like is None else self.encode(like)[0]
            draw = partial(levels.sample_latents, like=latents, keep=keep) if levels else self.sample_latents
            films = []
            with tqdm(total=n, desc="drawing", unit="film", disable=None if progress else True, leave=False) as bar:
                for size in [_AT_A_TIME] * (n // _AT_A_TIME) + [n % _AT_A_TIME] * (n % _AT_A_TIME > 0):
                    films.append(self.decode(draw(size, generator)).clamp(0, 1))
                    bar.update(size)
            return torch.cat(films)
        z = self.sample_latents(n, generator)
        if distribution == "fitted":
            z = self._fitted(z)
        return self.decode(z).clamp(0, 1)

    @torch.jit.unused
    def _fitted(self, noise: Tensor) -> Tensor:
        """Latents of the fitted distribution from standard normal noise, ``(N, latent_size)``."""
        if not self.fits_latents:
            raise InputError(
                "a grid of latents has no fitted distribution to draw films from; sample from preset hierarchical or a "
                "vector preset"
            )
        if self.latent_flow is not None:
            return self.latent_flow.draw(noise)
        if not torch.isfinite(self.latent_covariance).all():
            raise InputError("the latent distribution of these weights is not fitted; a finished training run fits it")
        eigenvalues, vectors = torch.linalg.eigh(self.latent_covariance.double())
        return self.latent_mean + noise @ (vectors * eigenvalues.clamp(min=0).sqrt()).to(noise).T


def _of_preset(preset: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A preset's network with arguments in place of the preset's, and how settings describe it."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"unknown preset {shortened(preset)}; there are {', '.join(PRESETS)}")
    network, defaults = PRESETS[preset]
    both = defaults | dict(arguments)
    _check_arguments(preset, both)
    try:
        return network(**both), {"preset": preset, **both}
    except ValueError as error:
        raise InputError(str(error)) from error


def _description(network: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """How settings describe a network of one's own: as much of it as tells when weights are another's."""
    if asked := [name for name, value in arguments.items() if value is not None]:
        raise InputError(f"{', '.join(asked)} cannot be given together with a network of one's own")
    check_network(network)
    shape = {"image_size": network.image_size, "latent_shape": network.latent_shape}
    return {"class": type(network).__qualname__, **shape}


def _check_arguments(preset: str, arguments: Mapping[str, Any]) -> None:
    """Refuse what a network's arguments cannot be: they are whole numbers and short lists of them."""
    types = get_type_hints(PRESETS[preset].network.__init__)
    for name, value in arguments.items():
        if name not in types:
            raise InputError(f"a network of preset {preset} has no {shortened(name)}")
        is_list = isinstance(value, list | tuple)
        numbers = value if is_list else [value]
        limit = MAX_IMAGE_SIZE if name == "image_size" else MAX_NUMBER
        if (
            is_list == (types[name] is int)
            or len(numbers) > MAX_NUMBERS
            or not all(type(number) is int and 1 <= number <= limit for number in numbers)
        ):
            kind = "a whole number" if types[name] is int else f"at most {MAX_NUMBERS} whole numbers"
            raise InputError(f"{name} must be {kind} from 1 to {limit}, not {shortened(value)}")


def _add_scorer(model: RadiographVAE, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for a state dict's scorer, whose size is that of the films that it was fitted on."""
    start = f"{prefix}scorer."
    own = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
    try:
        scorer = Scorer.shaped_like(own).to(model.sigma.device).train(model.training) if own else None
    except (KeyError, TypeError) as error:  # a name is missing, or what stands there has no length
        raise InputError("the scorer of these weights is damaged") from error
    if scorer is None or model.scorer is None or _shapes(scorer) != _shapes(model.scorer):
        model.scorer = scorer  # one that fits stays: an optimiser may hold its parameters


def _add_latent_flow(model: RadiographVAE, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for the flow that a state dict has or lacks."""
    there = any(name.startswith(f"{prefix}latent_flow.") for name in state)
    model.latent_flow = VectorFlow(model.latent_size).to(model.sigma.device).requires_grad_(False) if there else None


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def load_model(path: str | os.PathLike | None = None, network: nn.Module | None = None) -> RadiographVAE:
    """Open a weights file as a network for use: in evaluation mode, its parameters without gradients.

    What it makes is then ready for NumPy. To train on, use :func:`create_model`.

    Args:
        path: a file, the name of a shipped weights file, or None for the shipped default.
        network: the module that takes up the weights, where they are of no preset but of a network of one's own.

    Returns:
        The model, on the CPU.

    Raises:
        InputError: no such file, or not a weights file of this package.
    """
    file = weights_file(path)
    state = _read_state(file)
    try:
        settings = _decode_settings(state["_extra_state"])
        fit = settings["preprocessing"]
        if "preset" in settings["network"]:
            if network is not None:
                raise InputError(f"these are weights of preset {shortened(settings['network']['preset'])}")
            # First on a device without memory, where any size fits: settings may ask for more than the file holds.
            with torch.device("meta"):
                rehearsal = RadiographVAE(**settings["network"] | fit)
            model = None
        elif network is None:
            raise InputError("these are weights of a network of one's own, which must be given too")
        else:
            model = RadiographVAE(**fit | {"network": network})
            rehearsal = copy.deepcopy(model).to("meta")
        rehearsal.load_state_dict({n: v if n == "_extra_state" else v.to("meta") for n, v in state.items()})
        model = model or RadiographVAE(**settings["network"] | fit)
        model.load_state_dict(state)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except RuntimeError as error:
        raise InputError(f"{file} does not hold the weights of the network that it describes") from error
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise InputError(f"{file} holds weights that are not finite")
    return model.eval().requires_grad_(False)


def create_model(
    weights: str | os.PathLike | None = None,
    preset: str | None = None,
    fit: str | None = None,
    network: nn.Module | None = None,
    **arguments: Any,
) -> RadiographVAE:
    """A new network, or the one of a weights file to go on from (fine-tuning).

    What it makes can be asked for gradients in evaluation mode too, by films or latents as by parameters; a model for
    use alone is that of :func:`load_model`.

    Args:
        weights: file or shipped file's name; its network and geometry then hold. None for a new network. Where a
            hierarchical network is asked for, that of its codes is taken from weights of a vector preset, and stays.
        preset: see :class:`RadiographVAE`; None for its default, or for what the weights file has.
        fit: likewise.
        network: likewise, and see :func:`load_model`.
        **arguments: likewise.

    Returns:
        The model in training mode if it is new, else in evaluation mode; its parameters need gradients, but for
        those of a scorer and of codes that were taken over.

    Raises:
        InputError: an argument that contradicts the weights file.
    """
    if weights is None:
        return RadiographVAE(preset, fit or "stretch", network, **arguments)
    model = load_model(weights, network).requires_grad_(True)
    if preset in PRESETS and PRESETS[preset].network is HierarchicalVAE and isinstance(model.network, VAE):
        whole = RadiographVAE(preset, fit or model.fit, **arguments)
        codes = cast(HierarchicalVAE, whole.network).codes
        try:
            codes.load_state_dict(model.network.state_dict())
        except RuntimeError as error:
            raise InputError(f"the codes of preset {preset} have another size than those of {weights}") from error
        codes.requires_grad_(False)
        return whole
    own = model.settings["network"] | model.settings["preprocessing"]
    for name, value in {"preset": preset, "fit": fit, **arguments}.items():
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

    Raises:
        OutputError: it cannot be written.
    """
    parameters = {name for name, _ in model.named_parameters()} if half else set()
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    save_state({name: value.half() if name in parameters else value for name, value in state.items()}, path)


def save_state(state: dict[str, Any], path: str | os.PathLike) -> None:
    """Write tensors and plain values so that a kill at any moment leaves the old file or the new one.

    Args:
        state: what to write, as ``torch.save`` takes it.
        path: the file.

    Raises:
        OutputError: it cannot be written.
    """
    write_whole(Path(path), lambda file: torch.save(state, file))


def weights_file(path: str | os.PathLike | None = None) -> Path:
    """The weights file that a name stands for.

    Args:
        path: a file, the name of a shipped weights file, or None for the shipped default.

    Returns:
        A file that exists.

    Raises:
        InputError: there is none.
    """
    models = Path(bundle_root()) / "models"
    if path is None:
        path = models / "model.pt"
    elif not Path(path).is_file() and (models / f"{path}.pt").is_file():
        path = models / f"{path}.pt"
    if not Path(path).is_file():
        raise InputError(f"no weights file {path}")
    return Path(path)


def _read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, together no larger than the file."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            is_pointer = stream.read(len(_LFS_POINTER)) == _LFS_POINTER
        if not is_pointer:
            _check_archive(file, size)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{file} is not a weights file: {type(error).__name__}") from error
    if is_pointer:
        raise InputError(f"{file} is a Git LFS pointer and not the weights themselves, which `git lfs pull` fetches")
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise InputError(f"{file} is not a weights file of monai_cxr_vae")
    if {"optimizer", "averaged"} <= state.keys():
        raise InputError(f"{file} is a checkpoint to resume training; the weights are in model.pt, one folder up")
    if state and all(name.startswith("module.") for name in state):
        raise InputError(
            f'{file} holds the weights of a wrapped network ("module." before each name); a training writes those of '
            "the network itself to model.pt"
        )
    if "_extra_state" not in state:
        raise InputError(f"{file} is not a weights file of monai_cxr_vae: it carries no settings")
    if not all(_is_plain(value) for value in state.values()) or _bytes_of(state.values()) > size:
        raise InputError(f"{file} holds other things than the tensors of a network")
    return state


def _check_archive(file: Path, size: int) -> None:
    """Refuse an archive that takes more memory than its file has bytes; PyTorch compresses nothing when it writes."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise InputError(f"{file} is not a weights file: it is a compressed archive")


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _decode_settings(state: Any) -> dict[str, Any]:
    try:
        if state.dtype != torch.uint8 or state.numel() > MAX_SETTINGS_BYTES:
            raise ValueError("not the bytes of a short text")
        settings = json.loads(bytes(state.cpu().numpy().tobytes()))
        version, _ = settings["version"], (settings["network"].items(), settings["preprocessing"]["fit"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError("the weights file's settings are damaged") from error
    if version != FORMAT_VERSION:
        raise InputError(f"weights file of version {shortened(version)}; this program reads {FORMAT_VERSION}")
    return settings
