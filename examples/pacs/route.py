"""Between an Orthanc server and a folder run: films to a folder, results back by STOW-RS.

Usage: route.py SPOOL [--orthanc URL] [--stow URL] [--interval SECONDS | --once] [-- COMMAND...]

SPOOL/in receives every CR and DX instance that the Orthanc server gets, under names that say nothing about a patient.
COMMAND, by default ``cxr-vae reconstruct``, is run as ``COMMAND SPOOL/in --output SPOOL/out``, and what it derives is
stored at the STOW-RS service (by default that of the same Orthanc server; C-STORE works as well:
``storescu +sd +r +sp '*.dcm' HOST PORT SPOOL/out``). Every step can be repeated: a killed script goes on where it was.

Needs nothing but Python's standard library.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

MODALITIES = ("CR", "DX")
# Films that fail or are skipped are told in the manifest; only these codes mean that the run itself did not work.
FATAL = (1, 3)


def get(url: str) -> bytes:
    """Body of an HTTP answer."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


def new_instances(orthanc: str, since: int) -> Iterator[tuple[int, str | None]]:
    """The server's log of changes after ``since``: the number of each and, if it is a new instance, its ID."""
    done = False
    while not done:
        page = json.loads(get(f"{orthanc}/changes?since={since}&limit=100"))
        for change in page["Changes"]:
            yield change["Seq"], change["ID"] if change["ChangeType"] == "NewInstance" else None
        since, done = page["Last"], page["Done"]


def fetch(orthanc: str, spool: Path) -> int:
    """Copy new films to the spool and return how many came."""
    mark, count = spool / "last_change", 0
    (spool / "in").mkdir(parents=True, exist_ok=True)
    since = int(mark.read_text()) if mark.exists() else 0
    for number, instance in new_instances(orthanc, since):
        if instance and get(f"{orthanc}/instances/{instance}/content/0008-0060").decode().strip(" \0") in MODALITIES:
            part = spool / "part"
            part.write_bytes(get(f"{orthanc}/instances/{instance}/file"))
            part.rename(spool / "in" / f"{instance}.dcm")
            count += 1
        mark.write_text(str(number))
    return count


def store(stow: str, objects: list[Path]) -> None:
    """Store DICOM files by STOW-RS (PS3.18 section 10.5)."""
    boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + path.read_bytes() + b"\r\n" for path in objects) + f"--{boundary}--\r\n".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
    urllib.request.urlopen(urllib.request.Request(f"{stow}/studies", body, headers), timeout=60).close()


def deliver(stow: str, spool: Path) -> int:
    """Store the results that have not been stored yet and return how many there were."""
    log = spool / "delivered"
    delivered = set(log.read_text().splitlines()) if log.exists() else set()
    waiting = [path for path in sorted((spool / "out").rglob("*.dcm")) if path.name not in delivered]
    with log.open("a") as file:
        for path in waiting:
            store(stow, [path])
            file.write(path.name + "\n")
            file.flush()
    return len(waiting)


def main() -> None:
    """See the module."""
    words = sys.argv[1:]
    own = words[: words.index("--")] if "--" in words else words
    command = words[len(own) + 1 :] or ["cxr-vae", "reconstruct"]
    parser = argparse.ArgumentParser(description="Films from Orthanc to a folder run, results back.")
    parser.add_argument("spool", type=Path)
    parser.add_argument("--orthanc", default="http://127.0.0.1:8042")
    parser.add_argument("--stow")
    parser.add_argument("--interval", type=float, default=30)
    parser.add_argument("--once", action="store_true")
    options = parser.parse_args(own)
    stow = options.stow or f"{options.orthanc}/dicom-web"
    while True:
        came = fetch(options.orthanc, options.spool)
        # Run even if nothing came: an earlier run may have been cut short, and one with nothing to do is quick.
        code = subprocess.call([*command, str(options.spool / "in"), "--output", str(options.spool / "out")])
        if code in FATAL or code < 0 or code > 128:
            sys.exit(code)
        print(f"{came} films came, {deliver(stow, options.spool)} results delivered", flush=True)
        if options.once:
            return
        time.sleep(options.interval)


if __name__ == "__main__":
    main()
