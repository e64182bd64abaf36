"""One film through the chain: always a row, the same bytes alone and in company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_cxr_vae import radiograph
from monai_cxr_vae.errors import CorruptFile, LateralView, OutputError
from monai_cxr_vae.inference.film_chain import FilmChain
from monai_cxr_vae.inference.rows import refused
from tests.inference.standins import CANARIES, Smooth, evaluator, write_film


def raised(error, cause=None):
    try:
        raise error from cause
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (raised(CorruptFile("x")), ("failed", "corrupt")),
        (raised(LateralView("x")), ("skipped", "lateral")),
        (raised(RuntimeError("applying transform"), CorruptFile("x")), ("failed", "corrupt")),
        (raised(FileNotFoundError("/secret/path")), ("failed", "read_error")),
        (raised(MemoryError()), ("failed", "out_of_memory")),
        (raised(RuntimeError("DefaultCPUAllocator: can't allocate memory: x")), ("failed", "out_of_memory")),
        (raised(RuntimeError("ZZNAME")), ("failed", "internal")),
    ],
)
def test_error_becomes_a_reason(error, expected):
    row = refused(error)
    assert (row["status"], row["reason"]) == expected
    assert "secret" not in str(row)
    assert "ZZNAME" not in str(row)


def test_film_is_done_and_described(tmp_path):
    chain = evaluator(tmp_path, tmp_path / "out").chain
    row = chain(write_film(tmp_path / "film", 3))
    assert (row["status"], row["reason"], row["format"], row["view"]) == ("done", None, "dicom", "PA")
    assert (row["rows"], row["columns"], row["bits_stored"], row["photometric"]) == (60, 50, 12, "MONOCHROME2")
    assert row["transfer_syntax"] == "1.2.840.10008.1.2.1"
    assert len(row["outputs"]) == 1


def test_missing_file_is_a_row(tmp_path):
    row = evaluator(tmp_path, tmp_path / "out").chain(tmp_path / "absent")
    assert (row["status"], row["reason"]) == ("failed", "read_error")


def test_unwritable_output_is_no_fault_of_the_film(tmp_path):
    (tmp_path / "out").write_text("a file where a folder is needed")
    chain = evaluator(tmp_path, tmp_path / "out").chain
    with pytest.raises(OutputError):
        chain(write_film(tmp_path / "film"))


def test_network_sees_one_film_and_its_answer_can_be_inverted():
    seen = []

    class Spy(Smooth):
        def forward(self, x):
            seen.append((tuple(x.shape), self.training, torch.is_grad_enabled()))
            return super().forward(x)

    image = MetaTensor(torch.rand(1, 8, 8), meta={"format": "png", "geometry": {"rows": 4, "columns": 4}})
    image.applied_operations = [{"class": "X"}]
    kept = {}
    chain = FilmChain(
        lambda item: {**item, "image": image}, Spy(), lambda x, net: net(x), lambda data: kept.update(data) or data
    )
    assert chain(__file__)["status"] == "done"
    assert seen == [((1, 1, 8, 8), False, False)]
    assert kept["pred"].shape == (1, 8, 8)
    assert kept["pred"].applied_operations == image.applied_operations
    assert kept["pred"].meta["format"] == "png"
    np.testing.assert_array_equal(np.asarray(kept["pred"])[None], Smooth()(image.as_tensor()[None]))


def test_a_fault_of_the_program_is_not_a_fault_of_the_film(tmp_path, monkeypatch):
    def faulty(*_):
        raise RuntimeError(CANARIES[0])

    monkeypatch.setattr(radiograph, "display_table", faulty)
    engine = evaluator(tmp_path / "in", tmp_path / "out")
    row = engine.chain(write_film(tmp_path / "in" / "film"))
    assert (row["status"], row["reason"]) == ("failed", "internal")
    assert row["warnings"] == [f"RuntimeError@test_film_chain.py:{faulty.__code__.co_firstlineno + 1}"]
