"""The command line ``cxr-vae``: a thin face over the bundle's configs."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from monai_cxr_vae.paths import bundle_root
from monai_cxr_vae.version import __version__


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
    arguments, rest = _parser().parse_known_args(words)
    if rest and arguments.command is not _train:
        print(f"error: unknown argument {rest[0]}", file=sys.stderr)
        return 1
    try:
        return arguments.command(arguments, rest) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        from monai_cxr_vae.startup import input_error

        cause: object = input_error(error)
        if cause is None and isinstance(error, OSError) and error.filename is not None:
            cause = f"{error.filename}: {error.strerror}"
        if cause is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        return 1


def _train(arguments: argparse.Namespace, rest: list[str]) -> None:
    from monai_cxr_vae.startup import KNOBS, PATH, flags

    folder = Path(rest.pop(0)) if rest and not rest[0].startswith("-") else None
    paths = [name for name, check in KNOBS.items() if check is PATH]
    settings = flags(rest, paths) | _given(dataset_dir=folder, output_dir=arguments.output, weights=arguments.weights)
    _run_config(["train.json"], "train", settings)


def _reconstruct(arguments: argparse.Namespace, rest: list[str]) -> None:
    # The spatial preset makes the better picture; what is written beside it needs scores, which it does not give.
    if arguments.objects == ["sc"] and (Path(bundle_root()) / "models" / "spatial.pt").is_file():
        arguments.weights = arguments.weights or Path("spatial")
    _run_folder(arguments)


def _score(arguments: argparse.Namespace, rest: list[str]) -> None:
    _run_folder(arguments, scores=True, report=True)


def _run_folder(arguments: argparse.Namespace, **switches: bool) -> None:
    settings = switches | _given(
        dataset_dir=arguments.folder,
        output_dir=arguments.output,
        weights=arguments.weights,
        objects=arguments.objects,
        bits_stored=arguments.bits_stored,
        num_workers=arguments.workers,
        timeout=arguments.timeout,
    )
    for switch in ("force", "retry_failed", "strict_view", "manifest_paths"):
        if getattr(arguments, switch):
            settings[switch] = True
    _run_config(["inference.json"], "infer", settings)


def _scan(arguments: argparse.Namespace, rest: list[str]) -> None:
    from monai_cxr_vae.inference import FolderOptions, scan

    counts: Counter[str] = Counter()
    for row in scan(arguments.folder, FolderOptions(strict_view=arguments.strict_view, progress=sys.stderr.isatty())):
        what = f"{row['status']} {row['reason'] or ''}".strip()
        counts[what] += 1
        # A line per file, whatever stands in its name.
        path = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in row["path"])
        print(what, row.get("view") or "-", path, sep="\t")
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "no files", file=sys.stderr)


def _evaluate(arguments: argparse.Namespace, rest: list[str]) -> None:
    settings = _given(
        dataset_dir=arguments.folder,
        train_dataset_dir=arguments.train_dir,
        output_dir=arguments.output,
        weights=arguments.weights,
        metrics_csv=arguments.metrics_csv,
        skip_unreadable=arguments.skip_unreadable,
    )
    _run_config(["train.json", "evaluate.json"], "train", settings)
    print((arguments.output / "evaluation.json").read_text())


def _sample(arguments: argparse.Namespace, rest: list[str]) -> None:
    import cv2
    import numpy as np

    from monai_cxr_vae.files import write_whole
    from monai_cxr_vae.model import load_model

    films = load_model(arguments.weights).sample(arguments.count, arguments.seed, arguments.distribution)
    for i, film in enumerate(films[:, 0].numpy()):
        png = cv2.imencode(".png", (film * 65535 + 0.5).astype(np.uint16))[1].tobytes()
        write_whole(arguments.output / f"sample_{i:04d}.png", png)
    print(f"{len(films)} films in {arguments.output}")


def _calibrate(arguments: argparse.Namespace, rest: list[str]) -> None:
    from monai_cxr_vae.data import datalist
    from monai_cxr_vae.errors import InputError
    from monai_cxr_vae.model import load_model, save_model
    from monai_cxr_vae.scoring import calibrate, detail_films

    if arguments.output.is_dir():
        raise InputError(f"{arguments.output} is a folder; name a file")
    model = load_model(arguments.weights)
    unreadable = arguments.output.with_name("unreadable.csv"), arguments.skip_unreadable
    films = detail_films(model, datalist(arguments.folder), None, *unreadable, bits=arguments.bits)
    calibrate(model, films)
    save_model(model, arguments.output)
    print(f"{arguments.output}: {len(films)} films, so the smallest p-value is 1/{len(films) + 1}")


def _embed(arguments: argparse.Namespace, rest: list[str]) -> None:
    from monai_cxr_vae.inference.embed import embed
    from monai_cxr_vae.model import load_model

    model = load_model(arguments.weights)
    reading = {"skip_unreadable": arguments.skip_unreadable, "bits": arguments.bits}
    count = embed(model, arguments.folder, arguments.output, arguments.paths, **reading)
    print(f"latents of {count} films in {arguments.output}")


def _phantom(arguments: argparse.Namespace, rest: list[str]) -> None:
    from monai_cxr_vae.data.phantom import write_phantoms

    files = write_phantoms(arguments.output, arguments.count, seed=arguments.seed, format=arguments.format)
    print(f"{len(files)} files in {arguments.output}")


def _serve(arguments: argparse.Namespace, rest: list[str]) -> int:
    from monai_cxr_vae.errors import InputError, OutputError

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


def _outbox(arguments: argparse.Namespace, rest: list[str]) -> None:
    from monai_cxr_vae.service.spool import Spool

    spool = Spool.existing(arguments.spool)
    if arguments.requeue is not None:
        print(f"{spool.requeue(arguments.requeue)} are tried again")
        return
    for entry in spool.outbox():
        print(*(f"{name}={value}" for name, value in entry.items() if value is not None), sep="\t")


def _run_config(names: list[str], workflow_type: str, settings: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of decoders that are not used and of configs not one's own
        from monai.bundle import ConfigParser, ConfigWorkflow

        from monai_cxr_vae.startup import check_settings

        configs = Path(bundle_root()) / "configs"
        files = [str(configs / name) for name in names]
        check_settings(settings, ConfigParser.load_config_files(files))
        logging.disable(logging.INFO)  # MONAI tells which logging configuration it reads
        try:
            workflow = ConfigWorkflow(
                files, workflow_type=workflow_type, logging_file=str(configs / "logging.conf"), **settings
            )
        finally:
            logging.disable(logging.NOTSET)
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _parser() -> Parser:
    parser = Parser(prog="cxr-vae", description="Variational autoencoder for chest radiographs. Not for diagnosis.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Any, text: str, *, weights: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__[1:], help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=function)
        if weights:
            sub.add_argument(
                "--weights", type=Path, metavar="FILE", help="weights file or preset (default: the shipped weights)"
            )
        return sub

    train = command(_train, "train on a folder of films (default: built-in phantom films)")
    train.usage = "cxr-vae train [FILMS] [--output OUT] [--weights FILE] [--SETTING VALUE ...]"
    train.epilog = "Every setting of train.json is an option: --max_epochs 50. FILMS comes first."
    train.add_argument(
        "--output", type=Path, metavar="OUT", help="folder of the run (default: a new one below ./output)"
    )

    def folder_command(function: Any, text: str, objects: list[str]) -> None:
        sub = command(function, text)
        sub.add_argument("folder", type=Path, metavar="IN")
        sub.add_argument("--output", type=Path, metavar="OUT", required=True)
        sub.add_argument(
            "--objects",
            nargs="+",
            choices=("sc", "overlay", "sr"),
            default=objects,
            metavar="KIND",
            help="what to write. sc: the reconstruction; overlay: the film under a heat map of what is unusual, or of "
            "what the reconstruction lacks where the weights give no scores; sr: a DICOM Structured Report of the "
            f"scores (default: {' '.join(objects)})",
        )
        sub.add_argument("--bits-stored", type=int, choices=(12, 16), help="of the reconstruction (default: 12)")
        sub.add_argument("--workers", type=_count, help="processes (default: one per core, at most 4)")
        sub.add_argument("--timeout", type=_count, help="seconds per film (default: 120)")
        sub.add_argument("--force", action="store_true", help="do everything again")
        sub.add_argument("--retry-failed", action="store_true", help="try failed films again")
        sub.add_argument("--strict-view", action="store_true", help="skip films that nothing says are frontal")
        sub.add_argument(
            "--manifest-paths",
            action="store_true",
            help="put input paths, which may name patients, into the manifest and the report",
        )

    folder_command(
        _reconstruct,
        "reconstruct every film of a folder; DICOM in, derived DICOM out (weights: spatial, with other objects than sc "
        "model, unless --weights says otherwise)",
        ["sc"],
    )
    text = "tell of every film of a folder whether it is fit for use and how unusual it is; report.html shows them"
    folder_command(_score, text, ["overlay", "sr"])

    text = "tell from the headers what a run over a folder would do with each file, and why"
    scan = command(_scan, text, weights=False)
    scan.add_argument("folder", type=Path, metavar="IN")
    scan.add_argument("--strict-view", action="store_true", help="skip films that nothing says are frontal")

    evaluate = command(_evaluate, "measure reconstruction on a folder of films, beside simple baselines")
    evaluate.add_argument("folder", type=Path, metavar="DIR")
    evaluate.add_argument("--output", type=Path, metavar="OUT", required=True)
    evaluate.add_argument("--train-dir", type=Path, metavar="DIR", help="training films, to fit the baselines on")
    evaluate.add_argument("--metrics-csv", type=Path, metavar="FILE", help="log of the training, for curves.png")

    calibrate = command(_calibrate, "write weights whose p-values are told against a site's own normal films")
    calibrate.add_argument("folder", type=Path, metavar="FILMS")
    calibrate.add_argument("--output", type=Path, metavar="FILE", required=True, help="the new weights file")

    embed = command(_embed, "write the latents of a folder of films (npz and csv)")
    embed.add_argument("folder", type=Path, metavar="IN")
    embed.add_argument("--output", type=Path, metavar="OUT", required=True)
    embed.add_argument("--paths", action="store_true", help="add the films' paths, which may tell who the patient is")

    for sub in (evaluate, calibrate, embed):
        sub.add_argument(
            "--skip_unreadable",
            "--skip-unreadable",
            type=_switch,
            nargs="?",
            const=True,
            default=False,
            metavar="True",
            help="go on without films that cannot be read; unreadable.csv lists them either way",
        )
    for reading in (calibrate, embed):
        reading.add_argument("--bits", type=int, choices=(8, 10, 12, 14, 16), help="depth of 16-bit PNG films")

    sample = command(_sample, "draw new films from the latent space as 16-bit PNG")
    sample.add_argument("--output", type=Path, metavar="OUT", required=True)
    sample.add_argument("--count", type=_count, default=16)
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--distribution", choices=("fitted", "prior"), default="fitted")

    phantom = command(_phantom, "write procedural chest films, for trying things out", weights=False)
    phantom.add_argument("output", type=Path, metavar="OUT")
    phantom.add_argument("--count", type=_count, default=20)
    phantom.add_argument("--seed", type=_natural, default=0)
    phantom.add_argument("--format", choices=("dicom", "png", "both"), default="dicom")

    _add_node_commands(command)
    return parser


def _add_node_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """``serve`` and ``outbox``."""
    serve = command(_serve, "receive films by C-STORE, run them, send results by C-STORE and STOW-RS, until SIGTERM")
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
    serve.add_argument("--send-tls", type=_destination, metavar="AET@HOST:PORT", help="the same, over TLS", **several)
    serve.add_argument(
        "--stow", metavar="URL", help="where results go by STOW-RS, as https://HOST/dicom-web", **several
    )
    serve.add_argument(
        "--credentials",
        type=Path,
        metavar="FILE",
        help="for --stow, of the form of netrc: machine HOST login USER password WORD; without login a bearer token",
    )
    serve.add_argument("--tls-cert", type=Path, metavar="FILE", help="own certificate (PEM): receive over TLS only")
    serve.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    serve.add_argument(
        "--tls-ca", type=Path, metavar="FILE", help="whose certificates are trusted; callers then need one of them"
    )
    serve.add_argument(
        "--objects",
        nargs="+",
        choices=("sc", "overlay", "sr"),
        default=["sc", "sr"],
        metavar="KIND",
        help="what to make of a film: sc overlay sr (default: sc sr)",
    )
    serve.add_argument(
        "--keep", type=_days, default=7.0, metavar="DAYS", help="keep what is delivered so long (default: 7)"
    )
    serve.add_argument("--health-port", type=_count, metavar="PORT", help="of GET /health (default: that above --port)")
    serve.add_argument("--workers", type=_count, help="processes (default: one per core, at most 4)")
    serve.add_argument("--timeout", type=_count, default=120, help="seconds per film (default: 120)")

    text = "list results that wait, were refused or withdrawn, and films that failed; the node may be at work"
    outbox = command(_outbox, text, weights=False)
    outbox.add_argument("spool", type=Path, metavar="SPOOL")
    outbox.add_argument(
        "--requeue",
        nargs="*",
        type=_count,
        metavar="NUMBER",
        help="send these refused results again; without numbers all, and run failed films again",
    )


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


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of days, not {text!r}")
    return days


def _count(text: str) -> int:
    return _whole_number(text, 1)


def _natural(text: str) -> int:
    return _whole_number(text, 0)


def _switch(text: str) -> bool:
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")
    return text == "True"


def _whole_number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least}, not {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
