"""What is to be done in a folder run: functions of the files, the journals and the options, which touch no file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from monai_cxr_vae.errors import Reason, WarningCode
from monai_cxr_vae.files import Entry, Identity
from monai_cxr_vae.inference.rows import InputRow, Row, duplicate, new_row

# By their index: what the journals hold of inputs (rows.InputRow) and of results (rows.Row).
Inputs = Mapping[int, Any]
Rows = Mapping[int, Any]


@dataclass(frozen=True)
class FolderOptions:
    """How a folder is run; none of this changes the bytes of a result.

    Attributes:
        num_workers: processes; None takes one per CPU core up to four.
        timeout: seconds per film.
        memory_limit: GiB per process beyond what it starts with, None for no limit.
        strict_view: skip films of which nothing says that they are frontal.
        force: do everything again.
        retry_failed: try failed films again.
        manifest_paths: put input paths, which may name patients, into the manifest and the report.
        report: write ``report.html``, which shows the films.
        viewer_url, report_patients: see :func:`monai_cxr_vae.inference.report.write_report`.
        progress: show how far the run has come.
    """

    num_workers: int | None = None
    timeout: float = 120
    memory_limit: float | None = 3
    strict_view: bool = False
    force: bool = False
    retry_failed: bool = False
    manifest_paths: bool = False
    report: bool = False
    viewer_url: str | None = None
    report_patients: bool = False
    progress: bool = False


@dataclass(frozen=True)
class Stock:
    """The inputs as they are found.

    Attributes:
        present: the files, by their number in the journal.
        new: inputs that the journal does not know yet.
        changed: inputs of which the file system says something else than before; their digest decides.
        aliases: other names of a file, by the number of the first one, which stands for all.
    """

    present: dict[int, Entry]
    new: list[InputRow]
    changed: set[int]
    aliases: dict[int, list[int]]

    @property
    def leaders(self) -> dict[int, Entry]:
        """The files by their first names alone."""
        others = {index for names in self.aliases.values() for index in names}
        return {index: entry for index, entry in self.present.items() if index not in others}


def take_stock(entries: Iterable[Entry], inputs: Inputs, rows: Rows) -> Stock:
    """Number the inputs: a path keeps its number for ever, and no number is given twice.

    Args:
        entries: the files as they are found, in the order in which new ones are numbered.
        inputs: those that the journal knows.
        rows: of the manifest.

    Returns:
        What is there, and what of it is new or has changed.
    """
    numbers = {row["path"]: index for index, row in inputs.items()}
    number = max([-1, *inputs, *rows])
    present: dict[int, Entry] = {}
    new: list[InputRow] = []
    changed: set[int] = set()
    for entry in entries:
        index = numbers.get(entry.path)
        if index is None:
            index = number = number + 1
            new.append(input_row(index, entry, None))
        elif inputs[index].get("identity") != (entry.identity and list(entry.identity)):
            changed.add(index)
        present[index] = entry
    return Stock(present, new, changed, _aliases(present))


def _aliases(present: Mapping[int, Entry]) -> dict[int, list[int]]:
    first: dict[tuple[int, int], int] = {}
    aliases: dict[int, list[int]] = defaultdict(list)
    for index, entry in present.items():
        if entry.identity is not None and entry.identity.inode:
            leader = first.setdefault(entry.identity[:2], index)
            if leader != index:
                aliases[leader].append(index)
    return dict(aliases)


def input_row(index: int, entry: Entry, header: dict[str, Any] | None) -> InputRow:
    """A line of the journal of inputs.

    Args:
        index: its number.
        entry: what the file system says of it.
        header: what was read of it, None if nothing yet.

    Returns:
        The input, with the identity that its header was read at, else with that of ``entry``.
    """
    identity = entry.identity
    if header is not None and header.get("identity"):
        identity = Identity(*header["identity"])
    return {"index": index, "path": entry.path, "identity": identity and list(identity), "header": header}


def to_look_at(stock: Stock, inputs: Inputs, rows: Rows, options: FolderOptions) -> list[int]:
    """Inputs whose header is to be read: it is not known, or no longer, or is to be judged anew.

    Args:
        stock: of :func:`take_stock`.
        inputs: those that the journal knows, the new ones of ``stock`` too.
        rows: of the manifest.
        options: of the run.

    Returns:
        Their indices.
    """
    return [
        index
        for index in stock.leaders
        if index in stock.changed
        or not inputs[index].get("header")
        or _judged_anew(inputs[index]["header"], rows.get(index), options)
    ]


def _judged_anew(header: Mapping[str, Any], row: Mapping[str, Any] | None, options: FolderOptions) -> bool:
    """Whether these options, or the file by now, may say something else than was said before."""
    if Reason.CHANGED in (header["reason"], row and row["reason"]):
        return True
    if options.force or (options.retry_failed and header["status"] == "failed"):
        return True
    if options.strict_view:
        return not header["status"] and header.get("view") == "unknown"
    return bool(header["reason"] == Reason.VIEW_UNKNOWN)


def settled(looked_at: Collection[int], stock: Stock, inputs: Inputs, rows: Rows, options: FolderOptions) -> list[Row]:
    """Rows of the inputs that are no films to run, as far as the manifest does not say so yet.

    Args:
        looked_at: indices of those whose header was read just now.
        stock, inputs, rows, options: see :func:`to_look_at`.

    Returns:
        Rows that are skipped or failed, as the headers say.
    """
    found: list[Row] = []
    for index in stock.leaders:
        header = inputs[index].get("header")
        if not header or not header["status"]:
            continue
        row = rows.get(index)
        before = row and (row["status"], row["reason"], row["input_sha256"])
        again = options.force and index in looked_at
        if again or before != (header["status"], header["reason"], header["input_sha256"]):
            found.append({**header, "index": index, "outputs": []})  # type: ignore[typeddict-item]
    return found


def gone(stock: Stock, inputs: Inputs, rows: Rows, below: Callable[[str], bool]) -> list[Row]:
    """Rows of inputs that have vanished, which say so while they are away, and of those that have come back.

    Args:
        stock, inputs, rows: see :func:`to_look_at`.
        below: whether a path belongs to the folder that was listed.

    Returns:
        Rows that differ from those of the manifest.
    """
    found: list[Row] = []
    for index, entry in inputs.items():
        if not below(entry["path"]):
            continue
        row, away = rows.get(index), index not in stock.present
        if row is None:
            if away:
                found.append(new_row(index=index, reason=Reason.READ_ERROR, warnings=[WarningCode.INPUT_GONE]))
        elif away != (WarningCode.INPUT_GONE in row["warnings"]):
            others = [code for code in row["warnings"] if code != WarningCode.INPUT_GONE]
            found.append({**row, "warnings": [*others, WarningCode.INPUT_GONE] if away else others})
    return found


def pending_groups(
    stock: Stock, inputs: Inputs, rows: Rows, options: FolderOptions, is_whole: Callable[[Mapping[str, Any]], bool]
) -> list[list[int]]:
    """Films to run; files that claim to be one film are one task, done again together if any of them is new.

    Args:
        stock, inputs, rows, options: see :func:`to_look_at`.
        is_whole: whether all that was made of a film, by its row, is still there.

    Returns:
        Indices of the files of each task.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index in stock.leaders:
        header = inputs[index].get("header")
        if header and not header["status"]:
            groups[key_of(header)].append(index)

    def is_pending(index: int, group: list[int]) -> bool:
        row, digest = rows.get(index), inputs[index]["header"]["input_sha256"]
        if row is None or options.force or (digest and digest != row["input_sha256"]):
            return True
        if row["status"] == "failed":
            return options.retry_failed or row["reason"] == Reason.CHANGED
        if row["reason"] == Reason.DUPLICATE:  # of a film that is another one by now, or was not done after all
            original = row["duplicate_of"]
            done = original in rows and original in inputs and rows[original]["status"] == "done"
            return not done or (original in stock.present and original not in group)
        if row["reason"] == Reason.VIEW_UNKNOWN:  # the header, judged by the present options, no longer says so
            return True
        return not is_whole(row)

    return [group for group in groups.values() if any(is_pending(index, group) for index in group)]


def key_of(header: Mapping[str, Any]) -> str:
    """What a file claims to be, by its header: its SOP Instance UID, else its digest. Equal keys are one film."""
    return str(header.get("sop_uid") or header["input_sha256"])


def alias_rows(leader: int, aliases: Iterable[int], rows: Rows) -> list[Row]:
    """Rows of the other names of a file, as far as the manifest does not say so yet.

    Args:
        leader: index of the name that stands for all.
        aliases: indices of the others.
        rows: of the manifest.

    Returns:
        Rows of duplicates of ``leader``; none while that has no row.
    """
    row = rows.get(leader)
    if row is None:
        return []
    original = (leader, row["input_sha256"])
    return [
        duplicate(index, *original)
        for index in aliases
        if (rows.get(index, {}).get("duplicate_of"), rows.get(index, {}).get("input_sha256")) != original
    ]
