"""The table of settings is complete, and every face of the bundle checks mistyped names and bad values by it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.__main__ import __file__ as bundle_main

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.kinds import OBJECTS
from monai_cxr_vae.networks import PRESETS
from monai_cxr_vae.settings import (
    SETTINGS,
    check_settings,
    check_value,
    input_error,
    is_plain,
    read_setting,
    settings_of,
)
from monai_cxr_vae.transforms import FITS

CONFIGS = Path(bundle_root()) / "configs"
OVERLAYS = [
    ["train"],
    ["train", "critic"],
    ["train", "prior"],
    ["train", "evaluate"],
    ["train", "federated"],
    ["inference"],
]


def files(*names: str) -> list[str]:
    return [str(CONFIGS / f"{name}.json") for name in names]


def test_every_plain_value_of_the_configs_is_in_the_table():
    configs = [file for file in CONFIGS.glob("*.json") if file.name != "metadata.json"]
    assert len(configs) == 7
    for file in configs:
        for name, value in json.loads(file.read_text()).items():
            if "#" not in name and is_plain(value):
                assert name in SETTINGS, f"{name} of {file.name}"


def test_every_setting_is_one_of_a_config_and_may_have_its_default():
    defaults = [settings_of(files(*names)) for names in OVERLAYS]
    assert set().union(*defaults) == set(SETTINGS)
    for name, value in (item for part in defaults for item in part.items()):
        if is_plain(value):
            check_value(name, value)


@pytest.mark.parametrize("names", OVERLAYS, ids="+".join)
def test_shipped_configs_pass_their_own_check(names: list[str]):
    check_settings(ConfigParser.load_config_files(files(*names)))


def test_what_code_allows_the_table_allows():
    assert all(SETTINGS["fit"].kind.check(fit) for fit in FITS)
    assert SETTINGS["objects"].kind.allows(list(OBJECTS))
    arguments = {name for preset in PRESETS.values() for name in preset.arguments}
    assert arguments <= set(settings_of(files("train")))


@pytest.fixture(params=["ConfigWorkflow", "monai.bundle.run", "python -m monai.bundle"])
def refusal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What a face of the bundle answers to settings: the one line, or None where it has begun to work."""
    monkeypatch.chdir(tmp_path)

    def ask(config: str, **settings: Any) -> str | None:
        # The run begins with this; nothing of it is to be done.
        settings["run"] = ["$None"]
        with contextlib.suppress(SystemExit):
            try:
                if request.param == "ConfigWorkflow":
                    ConfigWorkflow(files(config), logging_file=False, **settings).initialize()
                elif request.param == "monai.bundle.run":
                    monai.bundle.run(config_file=files(config), logging_file=False, finalize=[], **settings)
                else:
                    return on_command_line(config, settings, monkeypatch)
            except RuntimeError as error:
                return str(input_error(error))
        return None

    return ask


def on_command_line(config: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str | None:
    from fire import Fire

    settings = {"config_file": files(config)[0], "logging_file": False, "finalize": []} | settings
    words = [f"--{name}={value}" for name, value in settings.items() if name != "config_file" or value]
    monkeypatch.setattr(sys, "argv", [bundle_main, "run", *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    try:
        Fire({"run": monai.bundle.run})
    except RuntimeError as error:
        with contextlib.redirect_stderr(io.StringIO()) as told:
            sys.excepthook(type(error), error, error.__traceback__)
        (line,) = told.getvalue().splitlines()
        return line.removeprefix("error: ")
    return None


@pytest.mark.parametrize(
    ("config", "settings", "line"),
    [
        ("train", {"max_epoch": 3}, "unknown setting --max_epoch; nearest is --max_epochs"),
        ("train", {"image_sizee": 32}, "unknown setting --image_sizee; nearest is --image_size"),
        ("train", {"agument": False}, "unknown setting --agument; nearest is --augment"),
        ("inference", {"zzzz": 3}, "unknown setting --zzzz"),
        ("train", {"max_epochs": 0}, "--max_epochs must be a whole number above 0, not 0"),
        ("train", {"groups": 1.5}, "--groups must be a whole number above 0, not 1.5"),
        ("train", {"preset": 5}, "--preset must be a name, not 5"),
        ("train", {"preset": "vectr"}, "unknown preset 'vectr'; there are "),
        ("inference", {"memory_limit": -1}, "--memory_limit must be a number above 0, not -1"),
        ("inference", {"memory_limit": "abc"}, "--memory_limit must be a number above 0, not 'abc'"),
        ("inference", {"bits": 11}, "--bits must be 8, 10, 12, 14 or 16, not 11"),
        ("inference", {"bits_stored": 8}, "--bits_stored must be 12 or 16, not 8"),
        ("inference", {"objects": "sc"}, "--objects must be a list of sc, overlay or sr, not 'sc'"),
        ("inference", {"objects": ["png"]}, "--objects must be a list of sc, overlay or sr, not ['png']"),
        ("inference", {"scores": "maybe"}, "--scores must be True or False, not 'maybe'"),
        ("inference", {"batch_size": 0}, "--batch_size must be a whole number above 0, not 0"),
        ("inference", {"dataset_dir": 2024}, "--dataset_dir must be a path (write ./2024 for a folder called 2024)"),
    ],
)
def test_every_face_answers_with_one_line(
    refusal: Any, config: str, settings: dict[str, Any], line: str, tmp_path: Path
):
    if settings == {"preset": "vectr"}:  # the network says which there are
        settings = settings | {"initialize": ["$monai_cxr_vae.settings.start()", "$@network_def"]}
    answer = refusal(config, **settings)
    assert answer is not None
    assert answer.startswith(line)
    assert not list(tmp_path.iterdir())


def test_a_setting_of_another_config_is_refused_on_the_command_line(monkeypatch: pytest.MonkeyPatch):
    answer = on_command_line("inference", {"max_epochs": 3, "run": ["$None"]}, monkeypatch)
    assert answer is not None
    assert answer.startswith("unknown setting --max_epochs")


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"max_epochs": 3, "train#trainer#max_epochs": 1, "optimizer#betas": [0.8, 0.9]}, None),
        ({"max_epoch": 3}, "unknown setting --max_epoch; nearest is --max_epochs"),
        ({"optimizer#betas": [0.8, 0.9], "batch_size": 0}, "--batch_size must be a whole number above 0, not 0"),
    ],
)
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_an_args_file_may_name_the_config_and_nested_ids(
    settings: dict[str, Any], answer: str | None, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    arguments = settings | {"config_file": files("train")[0], "run": ["$None"]}
    ConfigParser.export_config_file(arguments, f"args.{form}", fmt=form)
    words = {"config_file": None, "args_file": f"args.{form}"}
    assert on_command_line("train", words, monkeypatch) == answer


@pytest.mark.parametrize(
    "settings",
    [
        {"memory_limit": None, "num_workers": 1, "objects": ["sc", "overlay"], "scores": False},
        {"output_dir": "$'output/' + 'a'", "evaluator#timeout": "anything", "_note": "free"},
    ],
)
def test_every_face_takes_what_is_right(refusal: Any, settings: dict[str, Any]):
    assert refusal("inference", **settings) is None


def test_python_may_set_components_and_objects():
    settings = {"network_def": torch.nn.Identity(), "device": torch.device("cpu"), "train#trainer#max_epochs": 1}
    workflow = ConfigWorkflow(
        files("train"), logging_file=False, initialize=["$monai_cxr_vae.settings.start()"], **settings
    )
    workflow.initialize()
    assert workflow.parser.get_parsed_content("network_def") is settings["network_def"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", "abc"),
        ("max_epochs", 1.5),
        ("max_epochs", True),
        ("max_epochs", None),
        ("image_size", -64),
        ("kl_weight", "much"),
        ("kl_weight", 0),
        ("fit", "crop"),
        ("bits", 11),
        ("resume", "false"),
        ("channels", 8),
        ("channels", []),
        ("channels", [8, 0]),
        ("objects", []),
        ("left_out", "lung"),
        ("val_fraction", 0),
        ("val_fraction", 1),
        ("seed", -1),
        ("weights", 5),
        ("device", "gpu"),
        ("device", "cuda:99"),
        ("device", 0),
    ],
)
def test_a_bad_value_names_its_setting(name: str, value: Any):
    with pytest.raises(InputError, match=f"^--{name} must be "):
        check_value(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", None),
        ("kl_weight", "auto"),
        ("kl_weight", 1e-5),
        ("channels", (8, 16)),
        ("left_out", []),
        ("val_fraction", 0.2),
        ("dataset_dir", Path("2024")),
        ("weights", "spatial"),
        ("device", "cpu"),
        ("bits", 12),
        ("memory_limit", 0.5),
    ],
)
def test_a_good_value_passes(name: str, value: Any):
    check_value(name, value)


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("max_epochs", "3", 3),
        ("learning_rate", ".001", 0.001),
        ("learning_rate", "1e-4", 1e-4),
        ("kl_weight", "auto", "auto"),
        ("resume", "True", True),
        ("image_size", "None", None),
        ("channels", ["[8,16]"], [8, 16]),
        ("channels", ["8", "16"], [8, 16]),
        ("channels", ["8"], [8]),
        ("channels", ["None"], None),
        ("objects", ["sc", "sr"], ["sc", "sr"]),
        ("objects", ["sr"], ["sr"]),
        ("objects", ["sc,overlay"], ("sc", "overlay")),
        ("dataset_dir", "2024", Path("2024")),
        ("dataset_dir", "$x", Path("$x")),
    ],
)
def test_words_are_read_as_monai_reads_them(name: str, words: str | list[str], value: Any):
    assert read_setting(name, words) == value


def test_several_processes_must_be_started_as_such(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RANK", raising=False)
    names = files("train", "multi_gpu_train")
    with pytest.raises(RuntimeError) as caught:
        ConfigWorkflow(names, workflow_type="train", logging_file=False, device="cpu").initialize()
    assert str(input_error(caught.value)).endswith("start this with torchrun")


def test_the_users_error_is_found_behind_what_frameworks_raise():
    wrapped = RuntimeError("Failed to instantiate component")
    wrapped.__cause__ = RuntimeError("Cannot evaluate expression")
    wrapped.__cause__.__context__ = InputError("no films in x")
    assert str(input_error(wrapped)) == "no films in x"
    assert input_error(ValueError("a defect of ours")) is None
