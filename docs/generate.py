"""Writes the pages of the reference that stand in tables of the code: `python docs/generate.py`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from monai_cxr_vae import scores
from monai_cxr_vae.cli import parser
from monai_cxr_vae.errors import Reason, WarningCode
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.inference.rows import COLUMNS, OPTIONAL
from monai_cxr_vae.settings import SETTINGS, Setting

HERE = Path(__file__).parent
NOTE = "Written by `python docs/generate.py` from the tables in the code; do not edit.\n"

# Per config: who reads it, and what precedes its table.
CONFIGS = {
    "train.json": "`cxr-vae train`, `python -m monai.bundle run training`.",
    "critic.json": "After `train.json`, to train a critic (`cxr-vae train --config critic`); these differ or are new.",
    "prior.json": "After `train.json`, to train a prior (`cxr-vae train --config prior`); these differ or are new.",
    "federated.json": "After `train.json`, for MONAI's federated client "
    "([how to](../howto/federated.md)); these differ or are new. The learning rate stays as it is.",
    "evaluate.json": "After `train.json`, for `cxr-vae evaluate` and `run evaluating`; these differ or are new.",
    "inference.json": "`python -m monai.bundle run inference`. Two sets of these have a command of their own: "
    "`cxr-vae reconstruct` is `--scores False`, and `cxr-vae score` is `--scores True --report True "
    "--objects [overlay,sr]`; both take every other setting too.",
}

COLUMN_MEANING = {
    "index": "Number of the file, the same in every run over this folder.",
    "status": "`done`, `skipped` (no film for this program) or `failed` (a film that gave no result).",
    "reason": "Why it is skipped or failed, a word.",
    "format": "`dicom`, `png`, `jpeg` or `nifti`.",
    "study_uid": "Study Instance UID of the film.",
    "series_uid": "Series Instance UID of the film.",
    "sop_uid": "SOP Instance UID of the film.",
    "input_sha256": "SHA-256 of the file.",
    "rows": "Height in pixels.",
    "columns": "Width in pixels.",
    "bits_stored": "Depth of the samples.",
    "photometric": "`MONOCHROME1` or `MONOCHROME2`, as stored.",
    "transfer_syntax": "UID of the encoding of the pixels.",
    "decoder": "The library that decoded them.",
    "voi": "How contrast was chosen: `linear`, `lut`, `full_range`, `percentile`, ...",
    "view": "`PA`, `AP`, `frontal`, `lateral` or `unknown`.",
    "model_sha256": "SHA-256 of the weights file.",
    "config_sha256": "Digest of the settings that change results.",
    "outputs": "JSON list of what was written: kind, UID, path below OUT, SHA-256, size.",
    "warnings": "JSON list of words: what had to be assumed or worked around.",
    "duplicate_of": "`index` of the file that stands for this one.",
    "replaces": "JSON list of earlier results that still lie in OUT but no longer stand for this file.",
    "path": "Path of the file; only with `manifest_paths`, since it may name a patient.",
    **scores.COLUMNS,
    "technique": "JSON list of how the film was made, in the calibration's measures; what `cxr-vae drift` compares.",
}


def pages() -> dict[Path, str]:
    """The text of each page by its file."""
    reference = HERE / "reference"
    return {
        reference / "settings.md": settings_page(),
        reference / "columns.md": columns_page(),
        reference / "commands.md": commands_page(),
        reference / "reasons.md": reasons_page(),
    }


def settings_page() -> str:
    lines = [
        "# Settings",
        "",
        NOTE,
        "Each is an option of the commands of its config, `--max_epochs 50`, and in Python an argument of MONAI's "
        "`ConfigWorkflow` and `monai.bundle.run`; `cxr-vae train --help` lists them too. A mistyped name or a value "
        "that cannot be gets one line. `null` is `None` on the command line. *Computed* defaults are explained. A value"
        " that begins with `$` is a Python expression that MONAI evaluates, except in paths given to `cxr-vae`. "
        "`--config_file` takes several files, the later ones on top.",
    ]
    for file, use in CONFIGS.items():
        config = json.loads((Path(bundle_root()) / "configs" / file).read_text())
        rows = [
            (
                f"`{name}`",
                _must_be(setting),
                _default(config[name]),
                setting.help,
            )
            for name, setting in SETTINGS.items()
            if name in config
        ]
        lines += ["", f"## {file}", "", use, "", *_table(("setting", "must be", "default", "meaning"), rows)]
    return "\n".join(lines) + "\n"


def columns_page() -> str:
    rows = [(f"`{name}`", "if used" if name in OPTIONAL else "always", COLUMN_MEANING[name]) for name in COLUMNS]
    return "\n".join(
        [
            "# Columns of the manifest",
            "",
            NOTE,
            "`OUT/manifest.csv` has one row for every file of IN. `OUT/manifest.jsonl` is its journal: of several "
            "lines with one `index` the last counts.",
            "",
            *_table(("column", "there", "meaning"), rows),
            "",
        ]
    )


def commands_page() -> str:
    lines = [
        "# Commands",
        "",
        NOTE,
        "What each command of `cxr-vae` takes beside [settings](settings.md); `cxr-vae COMMAND --help` prints both. "
        "Names may be written with dashes.",
    ]
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        taken = command.get_default("takes")
        own = [action for action in command._actions if action.dest not in ("help", *taken)]
        rows = [(f"`{' '.join(filter(None, (_word(action), _value(action))))}`", _help(action)) for action in own]
        text = str(command.description)
        lines += ["", f"## {name}", "", f"{text[0].upper()}{text[1:]}.", "", *_table(("argument", "meaning"), rows)]
        if command.get_default("defaults"):
            lines += ["", f"Settings: {', '.join(f'`{setting}`' for setting in taken)}."]
        elif taken:
            lines += ["", "Settings: those of its config."]
    return "\n".join(lines) + "\n"


def reasons_page() -> str:
    lines = ["# Reasons and warnings", "", NOTE.rstrip()]
    for title, codes in (("Reasons", Reason), ("Warnings", WarningCode)):
        rows = [(f"`{code}{'*' * code.endswith('_')}`", code.sentence) for code in codes]
        about = (codes.__doc__ or "").replace("``", "`")
        lines += ["", f"## {title}", "", about, "", *_table(("code", "meaning"), rows)]
    return "\n".join(lines) + "\n"


def _word(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else str(action.metavar)


def _value(action: argparse.Action) -> str:
    if not action.option_strings or action.nargs == 0:
        return ""
    return "\\|".join(action.choices) if action.choices else str(action.metavar or action.dest.upper())


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("|", "\\|")
    if action.default not in (None, argparse.SUPPRESS, False, []) and "default" not in text:
        text += f" (default: {action.default})"
    return text.strip() or ("Required." if action.required else "")


def _must_be(setting: Setting) -> str:
    words = setting.kind.words.split(" (")[0]
    return f"{words}, or null" if setting.optional else words


def _default(value: Any) -> str:
    return "*computed*" if isinstance(value, str) and value.startswith("$") else f"`{json.dumps(value)}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
