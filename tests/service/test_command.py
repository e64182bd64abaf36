"""The commands ``serve`` and ``outbox`` where they need no network."""

from __future__ import annotations

import contextlib
import os

import pytest

from monai_cxr_vae.cli import main
from monai_cxr_vae.service.spool import Spool


@pytest.fixture(autouse=True)
def mask():
    """``serve`` keeps what it writes to its user."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--peer", "A@127.0.0.1"], "name at least one destination"),
        (["--send", "B@127.0.0.1:104"], "--peer"),
        (["--peer", "A", "--send", "B@127.0.0.1:104"], "AET@HOST"),
        (["--peer", "A@127.0.0.1", "--send", "B@127.0.0.1"], "AET@HOST:PORT"),
        (["--peer", "A" * 17 + "@127.0.0.1", "--send", "B@127.0.0.1:104"], "1 to 16 letters"),
        (["--peer", "A@127.0.0.1", "--stow", "pacs.example"], "--stow takes an address"),
        (["--peer", "A@nowhere.invalid", "--send", "B@127.0.0.1:104"], "no address"),
        (["--peer", "A@127.0.0.1", "--send", "B@127.0.0.1:104", "--weights", "missing.pt"], "missing.pt"),
        (["--peer", "A@127.0.0.1", "--send", "B@127.0.0.1:104", "--tls-cert", "missing.pem"], "certificate"),
        (["--peer", "A@127.0.0.1", "--send", "B@127.0.0.1:104", "--keep", "-1"], "number of days"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(tmp_path, capsys, words, message):
    with contextlib.suppress(SystemExit):
        assert main(["serve", str(tmp_path / "spool"), *words]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_outbox(tmp_path, capsys):
    assert main(["outbox", str(tmp_path)]) == 1
    assert "there is no spool" in capsys.readouterr().err
    spool = Spool(tmp_path / "spool")
    film = spool.receive("1.1", b"film", "SENDER").film
    outputs = [{"kind": "sc", "uid": f"2.{i}", "path": f"{i}.dcm"} for i in range(2)]
    spool.finish(film, {"status": "done", "reason": None, "warnings": [], "outputs": outputs}, ("A",))
    for delivery in spool.due("A", 2):
        spool.refused(delivery.number, "no")
    assert main(["outbox", str(tmp_path / "spool")]) == 0
    assert len(lines := capsys.readouterr().out.splitlines()) == 2
    assert lines[0].split("\t")[:4] == ["status=refused", "number=1", "uid=2.0", "destination=A"]
    assert main(["outbox", str(tmp_path / "spool"), "--requeue", "2"]) == 0
    assert [delivery.uid for delivery in spool.due("A", 2)] == ["2.1"]
    assert main(["outbox", str(tmp_path / "spool"), "--requeue"]) == 0
    assert [delivery.uid for delivery in spool.due("A", 2)] == ["2.0", "2.1"]
    spool.close()
