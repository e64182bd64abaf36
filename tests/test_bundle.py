"""The bundle as MONAI's own tools see it, and the commands that the README gives."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jsonschema
import monai.bundle
import pytest
import torch
from monai.bundle import ckpt_export, create_workflow, verify_net_in_out

from monai_cxr_vae import load_model
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.settings import input_error

CONFIGS = Path(bundle_root()) / "configs"
REQUIRED = [  # of the schema of 2024-07-25
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task"),
    *("description", "authors", "copyright", "network_data_format"),
]
TENSOR = ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("overlay", [None, "evaluate.json", "federated.json", "multi_gpu_train.json"])
def test_training_configs_have_every_property(overlay: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)  # what torchrun sets
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    files = [str(CONFIGS / name) for name in ("train.json", overlay) if name]
    workflow = create_workflow(
        config_file=files, workflow_type="train", logging_file=False, output_dir=str(tmp_path), device="cpu"
    )
    assert workflow.check_properties() == []
    workflow.finalize()


def test_inference_config_has_every_property(tmp_path: Path):
    workflow = create_workflow(
        config_file=str(CONFIGS / "inference.json"), workflow_type="infer", logging_file=False, output_dir=str(tmp_path)
    )
    assert workflow.check_properties() == []


def test_metadata_is_what_the_schema_demands():
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    tensors = {"type": "object", "additionalProperties": {"type": "object", "required": TENSOR}}
    jsonschema.validate(metadata, {"type": "object", "required": REQUIRED})
    formats = metadata["network_data_format"]
    jsonschema.validate(formats["inputs"], tensors | {"required": ["image"]})
    jsonschema.validate(formats["outputs"], tensors | {"required": ["pred"]})
    assert metadata["version"] in metadata["changelog"]
    size = load_model().image_size
    assert formats["inputs"]["image"]["spatial_shape"] == [size, size]


def test_network_takes_and_gives_what_the_metadata_says():
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
        device="cpu",
    )


def test_export_scripts_the_network_and_keeps_its_output(tmp_path: Path):
    exported = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(Path(bundle_root()) / "models" / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
    )
    model = load_model()
    x = torch.rand(2, 1, model.image_size, model.image_size)
    torch.testing.assert_close(torch.jit.load(str(exported))(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["model", "compact", "vector128", "spatial", "spatial4096", "hierarchical"])
@pytest.mark.parametrize("workflow_type", ["train", "inference"])
def test_monai_loads_every_shipped_file_whole(name: str, workflow_type: str):
    root = Path(bundle_root())
    loaded = monai.bundle.load(
        root.name,
        bundle_dir=root.parent,
        model_file=f"models/{name}.pt",
        workflow_type=workflow_type,
        device="cpu",
    )
    model = load_model(name)
    assert loaded.settings == model.settings
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0, equal_nan=True)
    assert (loaded.scorer is None) == (model.scorer is None)


def test_monai_does_not_load_a_file_into_a_network_of_another_shape():
    root = Path(bundle_root())
    arguments = {"model_file": "models/compact.pt", "device": "cpu", "net_override": {"latent_size": 64}}
    with pytest.raises(RuntimeError) as error:
        monai.bundle.load(root.name, bundle_dir=root.parent, **arguments)
    assert str(input_error(error.value)) == "latent_size 64 contradicts the weights file, which has 16"


def run_bundle(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monai.bundle", "run", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.training
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--max_epoch", "3"], "error: unknown setting --max_epoch; nearest is --max_epochs"),
        (["--max_epochs", "abc"], "error: --max_epochs must be a whole number above 0, not 'abc'"),
        (["--image_size", "60"], "error: image_size 60 is not a multiple of"),
        (["--dataset_dir", "nowhere"], "error: no such folder: nowhere"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(words: list[str], line: str, tmp_path: Path):
    result = run_bundle("training", "--config_file", str(CONFIGS / "train.json"), *words, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith(line)
    assert not list(tmp_path.iterdir())


@pytest.mark.training
def test_the_bare_training_command_works_from_anywhere(tmp_path: Path):
    words = ["training", "--config_file", str(CONFIGS / "train.json"), "--max_epochs", "1"]
    result = run_bundle(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "output").iterdir()
    names = {path.name for path in run.iterdir()}
    assert names == {"model.pt", "checkpoints", "tensorboard", "metrics.csv"}
    model = load_model(run / "model.pt")
    assert model.sigma.isfinite()
    assert model.sample(2).shape == (2, 1, model.image_size, model.image_size)
