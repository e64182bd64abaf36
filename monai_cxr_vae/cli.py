"""The command line ``cxr-vae``: a thin face over the bundle's configs."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from monai_cxr_vae.errors import InputError, OutputError
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.kinds import OBJECTS
from monai_cxr_vae.settings import (
    COUNT,
    NATURAL,
    PATH,
    SETTINGS,
    SWITCH,
    check_value,
    input_error,
    is_plain,
    read_setting,
    read_word,
    settings_of,
    unknown_setting,
)
from monai_cxr_vae.version import __version__

# Further names of settings, beside their own.
SHORT = {"output_dir": "output", "num_workers": "workers", "train_dataset_dir": "train_dir"}


class Parser(argparse.ArgumentParser):
    """Usage errors exit with 1: argparse's own 2 means "nothing eligible" here."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"error: {message} (see {self.prog} --help)\n")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 1 for what the user can mend, with one line that says what."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("monai_cxr_vae").setLevel(logging.INFO)
    for chatty in ("monai", "ignite"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    arguments, rest = parser().parse_known_args(_in_our_spelling(sys.argv[1:] if words is None else words))
    try:
        return arguments.command(arguments, _given(arguments, rest)) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        cause: object = input_error(error)
        if cause is None and isinstance(error, OSError) and error.filename is not None:
            cause = f"{error.filename}: {error.strerror}"
        if cause is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        return 1


def parser() -> Parser:
    """All commands with what they take."""
    made = Parser(prog="cxr-vae", description="Variational autoencoder for chest radiographs. Not for diagnosis.")
    made.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_reconstruct(commands)
    _add_score(commands)
    _add_scan(commands)
    _add_evaluate(commands)
    _add_calibrate(commands)
    _add_drift(commands)
    _add_embed(commands)
    _add_traverse(commands)
    _add_sample(commands)
    _add_phantom(commands)
    _add_serve(commands)
    _add_outbox(commands)
    return made


def _add_train(commands: Any) -> None:
    text = "train on a folder of films (default: built-in phantom films)"
    sub = _command(commands, "train", _train, text, "[FILMS] [--output OUT]")
    sub.add_argument("folder", type=Path, nargs="?", metavar="FILMS")
    sub.add_argument(
        "--config",
        choices=("critic", "prior"),
        help="a config on top of train.json: train a critic, or a level's prior",
    )
    _take_config(sub, settings_of(_files("critic", "prior", "train")))


def _train(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    films = {} if arguments.folder is None else {"dataset_dir": arguments.folder}
    _run_config(_files(*filter(None, ("train", arguments.config))), "train", settings | films)


def _add_reconstruct(commands: Any) -> None:
    text = "reconstruct every film of a folder; DICOM in, derived DICOM out"
    _add_folder_command(commands, "reconstruct", text, scores=False)


def _add_score(commands: Any) -> None:
    text = "tell of every film of a folder whether it is fit for use and how unusual it is; report.html shows them"
    _add_folder_command(commands, "score", text, scores=True, report=True, objects=["overlay", "sr"])


def _add_folder_command(commands: Any, name: str, text: str, **settings: Any) -> None:
    """A name for ``monai.bundle run inference`` with these settings."""
    sub = _command(commands, name, _run_folder, text, "IN --output OUT")
    sub.set_defaults(preset_settings=settings)
    sub.add_argument("folder", type=Path, metavar="IN")
    _take_config(sub, settings_of(_files("inference")) | settings, folder_given=True)


def _run_folder(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    settings = arguments.preset_settings | settings | {"dataset_dir": arguments.folder}
    _run_config(_files("inference"), "infer", settings)


def _add_scan(commands: Any) -> None:
    text = "tell from the headers what a run over a folder would do with each file, and why"
    sub = _command(commands, "scan", _scan, text)
    sub.add_argument("folder", type=Path, metavar="IN")
    defaults = settings_of(_files("inference"))
    _take_settings(sub, {name: defaults[name] for name in ("strict_view", "num_workers", "timeout", "memory_limit")})


def _scan(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.inference import FolderOptions, scan

    counts: Counter[str] = Counter()
    for row in scan(arguments.folder, FolderOptions(**settings, progress=True)):
        what = f"{row['status']} {row['reason'] or ''}".strip()
        counts[what] += 1
        # A line per file, whatever stands in its name.
        path = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in row["path"])
        print(what, row.get("view") or "-", path, sep="\t")
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "no files", file=sys.stderr)


def _add_evaluate(commands: Any) -> None:
    text = "measure reconstruction on a folder of films, beside simple baselines"
    sub = _command(commands, "evaluate", _evaluate, text, "DIR --output OUT")
    sub.add_argument("folder", type=Path, metavar="DIR")
    _take_config(sub, settings_of(_files("train", "evaluate")), folder_given=True)


def _evaluate(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    if settings.get("samples") and settings.get("train_dataset_dir") is None:
        raise InputError("samples are measured beside the films of the training too: --train-dir says where they are")
    _run_config(_files("train", "evaluate"), "train", settings | {"dataset_dir": arguments.folder})
    for name in ("evaluation.json", "samples.json") if settings.get("samples") else ("evaluation.json",):
        print((settings["output_dir"] / name).read_text())


def _add_calibrate(commands: Any) -> None:
    text = "write weights whose p-values are told against a site's own normal films"
    sub = _command(commands, "calibrate", _calibrate, text)
    sub.add_argument("folder", type=Path, metavar="FILMS")
    sub.add_argument("--output", type=Path, metavar="FILE", required=True, help="the new weights file")
    _take_settings(sub, {"weights": None, "skip_unreadable": False, "bits": None})


def _calibrate(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.data import datalist
    from monai_cxr_vae.model import load_model, save_model
    from monai_cxr_vae.scoring import FEW_FILMS, calibrate, detail_films, expected_alarms

    if arguments.output.is_dir():
        raise InputError(f"{arguments.output} is a folder; name a file")
    model = load_model(arguments.weights)
    unreadable = arguments.output.with_name("unreadable.csv"), arguments.skip_unreadable
    films = detail_films(model, datalist(arguments.folder), None, *unreadable, bits=arguments.bits)
    calibrate(model, films)
    save_model(model, arguments.output)
    n = len(films)
    low, high = expected_alarms(n)
    print(f"{arguments.output}: {n} films, so the smallest p-value that is a rate is 1/{n + 1}")
    print(f"of the next 100 normal films like these, {low} to {high} will have p < 0.05 (in 19 of 20 calibrations)")
    if n < FEW_FILMS:
        print(
            f"warning: {n} films are few; with {FEW_FILMS} or more the rate of alarms is better known", file=sys.stderr
        )


def _add_drift(commands: Any) -> None:
    text = "compare the films of a scored folder, block by block in their order, with those of the calibration"
    sub = _command(commands, "drift", _drift, text)
    sub.add_argument(
        "output", type=Path, metavar="OUT", help="output of `cxr-vae score`; drift.json and drift.png go there"
    )
    sub.add_argument("--block", type=_count, default=100, help="films of a block (default: 100)")
    sub.add_argument(
        "--alarm_rate",
        type=_share,
        default=0.01,
        help="share of blocks that alarm where nothing has changed (default: 0.01)",
    )
    _take_settings(sub, {"weights": None})


def _drift(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.evaluation import drift
    from monai_cxr_vae.model import weights_file

    found = drift(arguments.output, weights_file(arguments.weights), arguments.block, arguments.alarm_rate)
    for block in found["blocks"]:
        line = f"films {block['first']} to {block['last']}: p {block['p']:.2g}"
        if block["alarm"]:
            line += f", ALARM: {', '.join(block['differs'])}"
        if block["new"]:
            line += f"; first seen: {', '.join(block['new'])}"
        print(line)
    alarms, count = sum(block["alarm"] for block in found["blocks"]), len(found["blocks"])
    print(
        f"{alarms} of {count} blocks alarm; of blocks of films like those of the calibration ({found['calibration']}), "
        f"{100 * arguments.alarm_rate:g}% do. Picture: {arguments.output / 'drift.png'}"
    )


def _add_embed(commands: Any) -> None:
    sub = _command(commands, "embed", _embed, "write the latents of a folder of films (npz and csv)")
    sub.add_argument("folder", type=Path, metavar="IN")
    sub.add_argument("--output", type=Path, metavar="OUT", required=True)
    sub.add_argument("--paths", action="store_true", help="add the films' paths, which may tell who the patient is")
    sub.add_argument(
        "--columns",
        action="store_true",
        help="add patient, view, label and split of a list, which tell who the patient is",
    )
    sub.add_argument(
        "--projector",
        action="store_true",
        help="write OUT/projector too, latents with thumbnails of the films: tensorboard --logdir OUT/projector",
    )
    _take_settings(sub, {"weights": None, "skip_unreadable": False, "bits": None})


def _embed(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.data import datalist
    from monai_cxr_vae.inference.embed import embed
    from monai_cxr_vae.model import load_model

    model = load_model(arguments.weights)
    taken = {name: getattr(arguments, name) for name in ("paths", "columns", "projector", "skip_unreadable", "bits")}
    count = embed(model, datalist(arguments.folder, columns=arguments.columns), arguments.output, **taken)
    print(f"latents of {count} films in {arguments.output}")


def _add_traverse(commands: Any) -> None:
    text = "show what latents mean: a film along the leading directions, and on the way to another film (a PNG)"
    sub = _command(commands, "traverse", _traverse, text)
    sub.add_argument("film", type=Path, metavar="FILM")
    sub.add_argument("--to", type=Path, metavar="OTHER", help="a film that the last row leads to")
    sub.add_argument("--output", type=Path, metavar="FILE", required=True, help="the picture, a PNG")
    sub.add_argument(
        "--directions",
        type=_count,
        metavar="N",
        help="rows of leading directions (default: 6, or none for weights with a grid of latents)",
    )
    sub.add_argument("--steps", type=_count, default=7, help="films in a row (default: 7)")
    sub.add_argument("--reach", type=_positive, default=3.0, help="of a direction, standard deviations (default: 3)")
    _take_settings(sub, {"weights": None, "bits": None})


def _traverse(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.data import FilmDataset, film_transforms
    from monai_cxr_vae.evaluation.traverse import draw_traversal, leading_directions
    from monai_cxr_vae.model import load_model

    model = load_model(arguments.weights)
    count = arguments.directions or (6 if model.fits_latents else 0)
    directions = leading_directions(model, count) if count else None
    transform = film_transforms(model.image_size, model.fit, arguments.bits)
    paths = filter(None, (arguments.film, arguments.to))
    film, *others = FilmDataset([{"image": str(path)} for path in paths], transform).images().split(1)
    other = others[0] if others else None
    draw_traversal(arguments.output, model, film, directions, other, arguments.steps, arguments.reach)
    print(f"{arguments.output}: each direction is a row, and its share of what latents change in films")


def _add_sample(commands: Any) -> None:
    text = "draw new films from the latent space (256 pixels: --weights hierarchical)"
    sub = _command(commands, "sample", _sample, text)
    sub.add_argument("--output", type=Path, metavar="OUT", required=True)
    sub.add_argument("--count", type=_count, default=16)
    sub.add_argument("--distribution", choices=("fitted", "prior"), default="fitted")
    sub.add_argument("--format", choices=("png", "dicom"), default="png", help="16-bit PNG, or DICOM of no patient")
    sub.add_argument("--like", type=Path, metavar="FILM", help="draw films that share the upper levels of this one")
    sub.add_argument(
        "--keep",
        choices=("codes", "film"),
        default="codes",
        help="what they share with it: its codes, or the film at a quarter of its size too (default: codes)",
    )
    _take_settings(sub, {"weights": None, "seed": 0})


def _sample(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.data import FilmDataset, film_transforms
    from monai_cxr_vae.data.drawn import write_drawn
    from monai_cxr_vae.model import load_model, weights_file

    model = load_model(arguments.weights)
    like = None
    if arguments.like is not None:
        transform = film_transforms(model.image_size, model.fit)
        like = FilmDataset([{"image": str(arguments.like)}], transform).images()
    keep = 2 if arguments.keep == "film" else 1
    films = model.sample(arguments.count, arguments.seed, arguments.distribution, like, keep, progress=True)
    write_drawn(films, arguments.output, arguments.format, weights_file(arguments.weights))
    print(f"{len(films)} films in {arguments.output}")


def _add_phantom(commands: Any) -> None:
    sub = _command(commands, "phantom", _phantom, "write procedural chest films, for trying things out")
    sub.add_argument("output", type=Path, metavar="OUT")
    sub.add_argument("--count", type=_count, default=20)
    sub.add_argument("--format", choices=("dicom", "png", "both"), default="dicom")
    _take_settings(sub, {"seed": 0})


def _phantom(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.data.phantom import write_phantoms

    files = write_phantoms(arguments.output, arguments.count, seed=arguments.seed, format=arguments.format)
    print(f"{len(files)} files in {arguments.output}")
    print("They are no films of people: the shipped scores, told for real films of adults, do not hold for them.")


def _add_serve(commands: Any) -> None:
    text = "receive films by C-STORE, run them, send results by C-STORE and STOW-RS, until SIGTERM"
    serve = _command(commands, "serve", _serve, text)
    serve.add_argument(
        "spool", type=Path, metavar="SPOOL", help="folder of films, results and journal; on a local disk"
    )
    serve.add_argument("--aet", type=_ae_title, default="CXRVAE", metavar="AET", help="AE title (default: CXRVAE)")
    serve.add_argument("--port", type=_count, default=11112, help="to listen to (default: 11112)")
    serve.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="to listen to (default: 127.0.0.1)")
    several: dict[str, Any] = {"action": "append", "default": []}
    serve.add_argument(
        "--peer",
        type=_peer,
        required=True,
        action="append",
        metavar="AET@HOST",
        help="who may send; any number of times",
    )
    serve.add_argument(
        "--send", type=_destination, metavar="AET@HOST:PORT", help="where results go by C-STORE", **several
    )
    serve.add_argument("--send_tls", type=_destination, metavar="AET@HOST:PORT", help="the same, over TLS", **several)
    serve.add_argument(
        "--stow", metavar="URL", help="where results go by STOW-RS, as https://HOST/dicom-web", **several
    )
    serve.add_argument(
        "--credentials",
        type=Path,
        metavar="FILE",
        help="for --stow, of the form of netrc: machine HOST login USER password WORD; without login a bearer token",
    )
    serve.add_argument("--tls_cert", type=Path, metavar="FILE", help="own certificate (PEM): receive over TLS only")
    serve.add_argument("--tls_key", type=Path, metavar="FILE", help="its key")
    serve.add_argument(
        "--tls_ca", type=Path, metavar="FILE", help="whose certificates are trusted; callers then need one of them"
    )
    serve.add_argument(
        "--objects",
        nargs="+",
        choices=tuple(OBJECTS),
        default=["sc", "sr"],
        metavar="KIND",
        help=f"what to make of a film: {' '.join(OBJECTS)} (default: sc sr)",
    )
    serve.add_argument(
        "--keep", type=_days, default=7.0, metavar="DAYS", help="keep what is delivered so long (default: 7)"
    )
    serve.add_argument("--health_port", type=_count, metavar="PORT", help="of GET /health (default: that above --port)")
    serve.add_argument("--workers", type=_count, help="processes (default: one per core, at most 4)")
    serve.add_argument("--timeout", type=_count, default=120, help="seconds per film (default: 120)")
    _take_settings(serve, {"weights": None})


def _serve(arguments: argparse.Namespace, settings: dict[str, Any]) -> int:
    try:
        from monai_cxr_vae.service import outbox, receiver, server, tls
    except ModuleNotFoundError as error:
        raise InputError(f"there is no {error.name}: pip install 'monai-cxr-vae[pacs]'") from error

    # A line per event, with its time, for a service's log.
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    if not (arguments.send or arguments.send_tls or arguments.stow):
        raise InputError("name at least one destination, with --send, --send-tls or --stow")
    certificates = tls.Certificates(arguments.tls_cert, arguments.tls_key, arguments.tls_ca)
    clear = [(*to, None) for to in arguments.send]
    secure = [(*to, certificates.client()) for to in arguments.send_tls]
    destinations: list[outbox.Destination] = [outbox.StorageSCP(arguments.aet, *to) for to in clear + secure]
    destinations += [outbox.StowService(url, arguments.credentials, certificates) for url in arguments.stow]
    options = server.NodeOptions(
        arguments.aet,
        tuple(receiver.Peer(*peer) for peer in arguments.peer),
        bind=arguments.bind,
        port=arguments.port,
        health_port=arguments.health_port or arguments.port + 1,
        certificates=certificates,
        keep=arguments.keep,
        num_workers=arguments.workers,
        timeout=arguments.timeout,
    )
    try:
        server.serve(arguments.spool, options, destinations, arguments.objects, arguments.weights)
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    return 0


def _add_outbox(commands: Any) -> None:
    text = "list results that wait, were refused or withdrawn, and films that failed; the node may be at work"
    outbox = _command(commands, "outbox", _outbox, text)
    outbox.add_argument("spool", type=Path, metavar="SPOOL")
    outbox.add_argument(
        "--requeue",
        nargs="*",
        type=_count,
        metavar="NUMBER",
        help="send these refused results again; without numbers all, and run failed films again",
    )


def _outbox(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from monai_cxr_vae.service.spool import Spool

    spool = Spool.existing(arguments.spool)
    if arguments.requeue is not None:
        print(f"{spool.requeue(arguments.requeue)} are tried again")
        return
    for entry in spool.outbox():
        print(*(f"{name}={value}" for name, value in entry.items() if value is not None), sep="\t")


def _command(
    commands: Any, name: str, function: Callable[..., int | None], text: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """A command without settings. ``usage``: its own arguments, where the settings are too many for the line."""
    usage = usage and f"cxr-vae {name} {usage} [--SETTING VALUE ...]"
    sub = commands.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
    sub.set_defaults(command=function, takes=(), defaults=None)
    return sub


def _take_config(sub: argparse.ArgumentParser, defaults: dict[str, Any], folder_given: bool = False) -> None:
    """Make the settings of a config options of a command; its first step checks them.

    ``folder_given``: the films are an argument of the command, and where results go must be said.
    """
    names = [name for name in defaults if not (folder_given and name == "dataset_dir")]
    _add_settings(sub, {name: defaults[name] for name in names}, ["output_dir"] if folder_given else [])


def _take_settings(sub: argparse.ArgumentParser, defaults: dict[str, Any]) -> None:
    """Make settings options of a command that runs no config: it finds them, checked, among its arguments."""
    _add_settings(sub, defaults)
    sub.set_defaults(defaults=defaults)


def _add_settings(sub: argparse.ArgumentParser, defaults: dict[str, Any], required: Collection[str] = ()) -> None:
    group = sub.add_argument_group("settings")
    for name, default in defaults.items():
        kind = SETTINGS[name].kind
        form: dict[str, Any] = {"metavar": "PATH" if kind is PATH else "N" if kind in (COUNT, NATURAL) else "VALUE"}
        if kind is SWITCH:
            form = {"metavar": "True", "nargs": "?", "const": "True"}
        elif kind.several is not None:
            form["nargs"] = "+"
        text = SETTINGS[name].help.replace("`", "")
        if kind not in (PATH, SWITCH):
            text += f" Must be {kind.words}."
        if is_plain(default) and default is not None and name not in required:
            text += f" Default: {default}."
        short = [f"--{SHORT[name]}"] if name in SHORT else []
        form |= {"dest": name, "default": argparse.SUPPRESS, "required": name in required, "help": text}
        group.add_argument(*short, f"--{name}", **form)
    sub.set_defaults(takes=tuple(defaults))


def _in_our_spelling(words: Sequence[str]) -> list[str]:
    """Dashes in names as underscores, and a switch alone as True: what follows it is not its value."""
    spelt: list[str] = []
    for i, word in enumerate(words):
        if word == "--":
            return [*spelt, *words[i:]]
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if not equals and name in SETTINGS and SETTINGS[name].kind is SWITCH:
                following = words[i + 1].lower() if i + 1 < len(words) else ""
                equals, value = ("", "") if following in ("true", "false") else ("=", "True")
            word = f"--{name}{equals}{value}"
        spelt.append(word)
    return spelt


def _given(arguments: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    """The settings of a command line, and values nested in a config, ``--train#trainer#max_epochs 3``, by their ids.

    Raises:
        InputError: a word that is none of the command's.
    """
    given = {name: read_setting(name, getattr(arguments, name)) for name in arguments.takes if name in arguments}
    words = iter(rest)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if name == word.partition("=")[0]:
            raise InputError(f"unknown argument {word}")
        if arguments.defaults is not None or not ("#" in name or "::" in name):
            raise unknown_setting(name, arguments.takes)
        given[name] = read_word(value if equals else next(words, "True"))
    if arguments.defaults is not None:
        for name, value in given.items():
            check_value(name, value)
        given = arguments.defaults | given
        vars(arguments).update(given)
    return given


def _files(*names: str) -> list[str]:
    return [str(Path(bundle_root()) / "configs" / f"{name}.json") for name in names]


def _run_config(files: list[str], workflow_type: str, settings: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of decoders that are not used and of configs not one's own
        from monai.bundle import ConfigWorkflow

        logging.disable(logging.INFO)  # MONAI tells which logging configuration it reads
        try:
            logging_file = str(Path(files[0]).with_name("logging.conf"))
            workflow = ConfigWorkflow(files, workflow_type=workflow_type, logging_file=logging_file)
        finally:
            logging.disable(logging.NOTSET)
        for name, value in settings.items():
            if name not in workflow.parser:
                raise InputError(f"nothing in this config is called {name}")
            workflow.parser[name] = value
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def _ae_title(text: str) -> str:
    if not (0 < len(text.strip()) <= 16 and text.isascii() and text.isprintable() and "\\" not in text):
        raise argparse.ArgumentTypeError(f"an AE title has 1 to 16 letters, not {text!r}")
    return text.strip()


def _peer(text: str) -> tuple[str, str]:
    aet, _, host = text.partition("@")
    if not host:
        raise argparse.ArgumentTypeError(f"must be AET@HOST, not {text!r}")
    return _ae_title(aet), host


def _destination(text: str) -> tuple[str, str, int]:
    aet, host = _peer(text)
    host, _, port = host.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"must be AET@HOST:PORT, not {text!r}")
    return aet, host.strip("[]"), int(port)


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return value


def _number(fits: Callable[[float], bool], words: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not fits(value):
            raise argparse.ArgumentTypeError(f"must be {words}, not {text!r}")
        return value

    return parse


_days = _number(lambda value: 0 <= value < math.inf, "a number of days")
_positive = _number(lambda value: 0 < value < math.inf, "a number above 0")
_share = _number(lambda value: 0 < value < 1, "a number between 0 and 1")


if __name__ == "__main__":
    sys.exit(main())
