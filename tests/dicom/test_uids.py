"""UIDs that come from outside are checked; ours are valid, short and depend on nothing but their parts."""

from __future__ import annotations

import subprocess
import sys
import uuid

import pytest
from pydicom.uid import UID

from monai_cxr_vae.dicom.uids import is_safe_uid, uid_from


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.1", "2.25.1", "1.2.03.4", "1." + "9" * 62])
def test_uid_of_a_study_is_accepted(uid):
    assert is_safe_uid(uid)


@pytest.mark.parametrize(
    "uid", ["", None, "1.2.3/../../evil", "../x", "1..2", ".1.2", "1.2.", "1.2 ", "12", "1." + "9" * 63, "1.2\n"]
)
def test_hostile_uid_is_refused(uid):
    assert not is_safe_uid(uid)


def test_uid_is_valid_for_many_parts():
    for i in range(500):
        uid = UID(uid_from("x", str(i)))
        assert uid.is_valid
        assert len(uid) <= 44
        prefix, _, number = uid.rpartition(".")
        assert prefix == "2.25"
        made = uuid.UUID(int=int(number))  # PS3.5 annex B.2
        assert (made.version, made.variant) == (5, uuid.RFC_4122)


def test_parts_are_not_run_together():
    assert uid_from("ab", "c") != uid_from("a", "bc")
    assert uid_from("a", "") != uid_from("", "a")
    assert uid_from("a") != uid_from("a", "")


def test_uid_is_the_same_in_another_process():
    code = "from monai_cxr_vae.dicom.uids import uid_from; print(uid_from('a', b'b'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == uid_from("a", b"b")
