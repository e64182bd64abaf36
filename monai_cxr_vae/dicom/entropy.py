"""Is a JPEG's entropy-coded data whole? Its bits are counted against what the picture needs (ITU-T T.81).

Decoders of JPEG go on through damage: they fill up what is missing and leave over what is too much, and their
libraries warn of little of it, of nothing beyond 8 bits. A damaged code changes the length of those that follow, so
that as a rule the last one does not end where the data ends. What changes a value but no length remains unseen.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

import numpy as np

_LANE_BITS = 512
_MOST_ROUNDS = 64
_END_OF_BLOCK = 128
_MARKER = re.compile(rb"\xff+([\x01-\xfe])")


@dataclass
class _Stream:
    """What the segments before the only scan say, and the scan itself."""

    process: int = 0
    precision: int = 0
    rows: int = 0
    columns: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    codes: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    interval: int = 0
    tables: list[tuple[int, int, int]] = field(default_factory=list)
    predictor: int = 0
    shift: int = 0
    parts: list[bytes] = field(default_factory=list)


def is_whole(data: bytes, pixels: np.ndarray) -> bool:
    """Does every bit of the data belong to the picture, and none lack?

    Only Huffman-coded pictures with a single scan are looked at (baseline, extended and lossless processes), which are
    all but a few; of others nothing is known, and the answer is yes.

    Args:
        data: a JPEG file with its end marker.
        pixels: what it was decoded to, unsigned (rows, columns) or (rows, columns, channels).
    """
    try:
        stream = _parse(data)
        if stream is None:
            return True
        if stream.process == 0xC3:
            return len(stream.tables) > 1 or _counts_lossless(stream, pixels)
        return _counts_blocks(stream) or (stream.parts[-1].endswith(b"\0") and _counts_blocks(_without_fill(stream)))
    except (struct.error, LookupError, ArithmeticError, ValueError):  # segments that do not hold what they announce
        return False


def _without_fill(stream: _Stream) -> _Stream:
    stream.parts[-1] = stream.parts[-1].rstrip(b"\0")
    return stream


def _parse(data: bytes) -> _Stream | None:
    """The segments of a JPEG; None for what is not Huffman-coded or has several scans."""
    stream, position = _Stream(), 2
    while True:
        if data[position] != 0xFF:
            raise ValueError("no marker")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        segment = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xC4:
            while len(segment) > 16:
                count = sum(segment[1:17])
                stream.codes[segment[0]] = (segment[1:17], segment[17 : 17 + count])
                segment = segment[17 + count :]
        elif marker in (0xC0, 0xC1, 0xC3):
            stream.process = marker
            stream.precision, stream.rows, stream.columns, count = struct.unpack_from(">BHHB", segment)
            for identifier, sampling, _ in struct.iter_unpack("3B", segment[6 : 6 + 3 * count]):
                stream.sampling[identifier] = (sampling >> 4, sampling & 15)
        elif 0xC2 <= marker <= 0xCF and marker not in (0xC8, 0xCC):
            return None
        elif marker == 0xDD:
            (stream.interval,) = struct.unpack(">H", segment[:2])
        elif marker == 0xDA:
            stream.tables = [(i, t >> 4, t & 15) for i, t in struct.iter_unpack("2B", segment[1 : 1 + 2 * segment[0]])]
            stream.predictor, stream.shift = segment[-3], segment[-1] & 15
            return _split(stream, data[position:])


def _split(stream: _Stream, data: bytes) -> _Stream | None:
    """Cut the data of a scan at its restart markers; None if other scans follow, or codes are taken for granted."""
    start = 0
    for match in _MARKER.finditer(data):
        if 0xD0 <= match[1][0] <= 0xD7:
            stream.parts.append(data[start : match.start()].replace(b"\xff\0", b"\xff"))
            start = match.end()
            continue
        stream.parts.append(data[start : match.start()].replace(b"\xff\0", b"\xff"))
        lossless = stream.process == 0xC3
        complete = all(dc in stream.codes and (lossless or 16 + ac in stream.codes) for _, dc, ac in stream.tables)
        return stream if match[1] == b"\xd9" and complete and len(stream.tables) == len(stream.sampling) else None
    return None


def _lengths(codes: tuple[bytes, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Length and symbol of the code that each of the 65,536 next 16 bits begin with; length 0 for no code."""
    length, symbol = np.zeros(65536, np.uint8), np.zeros(65536, np.uint8)
    counts, symbols = codes
    start, number = 0, 0
    for bits, count in enumerate(counts, 1):
        for _ in range(count):
            end = start + (1 << (16 - bits))
            length[start:end], symbol[start:end] = bits, symbols[number]
            start, number = end, number + 1
    return length, symbol


# Lossless: the differences of the decoded picture tell how long their codes were


def _counts_lossless(stream: _Stream, pixels: np.ndarray) -> bool:
    length, symbol = _lengths(stream.codes[stream.tables[0][1]])
    bits_of_category = np.zeros(17, np.int64)
    for category in range(17):
        found = np.flatnonzero((symbol == category) & (length > 0))
        # a code that is not there counts as more bits than any scan has
        bits_of_category[category] = length[found[0]] + category % 16 if found.size else 1 << 40
    difference = np.arange(65536)
    size = np.minimum(difference, 65536 - difference)
    cost = bits_of_category[np.ceil(np.log2(size + 1)).astype(int)]
    cost[32768] = bits_of_category[16]

    rows_each = stream.interval // stream.columns or stream.rows
    if stream.interval % stream.columns:
        return True  # intervals that end within a row do not occur
    values = pixels.astype(np.uint16, copy=False) >> stream.shift
    for number, first in enumerate(range(0, stream.rows, rows_each)):
        if number >= len(stream.parts):
            return False
        part = stream.parts[number]
        needed = _bits_of_rows(values[first : first + rows_each], stream, cost)
        left = 8 * len(part) - needed
        if left < 0 or part[len(part) - left // 8 :].strip(b"\0\xff"):
            return False
    return number + 1 == len(stream.parts)


def _bits_of_rows(values: np.ndarray, stream: _Stream, cost: np.ndarray) -> int:
    """Bits of one restart interval: the prediction starts anew in its first row (T.81 H.1.2)."""
    start = np.uint16(1 << (stream.precision - stream.shift - 1))
    top = np.diff(values[0], prepend=start)
    total = int(cost[top].sum() + cost[values[1:, 0] - values[:-1, 0]].sum())
    for first in range(1, len(values), 256):  # so many rows at a time bound the memory
        block = values[first - 1 : first + 256].astype(np.int32)
        predicted = _predicted(stream.predictor, block[1:, :-1], block[:-1, 1:], block[:-1, :-1])
        total += int(cost[(block[1:, 1:] - predicted) & 0xFFFF].sum())
    return total


def _predicted(selection: int, left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """T.81 table H.1."""
    match selection:
        case 1:
            return left
        case 2:
            return above
        case 3:
            return corner
        case 4:
            return left + above - corner
        case 5:
            return left + ((above - corner) >> 1)
        case 6:
            return above + ((left - corner) >> 1)
        case 7:
            return (left + above) >> 1
    return np.zeros_like(left)


# Discrete cosines: the codes are followed from many places at once until all chains meet


def _counts_blocks(stream: _Stream) -> bool:
    """Follow the codes (T.81 F.2.2) from the start of each lane of the data; where one ends is where the next starts.

    Wrong starts fall in with the right codes after some of them, so that a few rounds settle all lanes.
    """
    if any(len(part) == 0 for part in stream.parts):
        return False
    blocks = [(dc, ac) for i, dc, ac in stream.tables for _ in range(_blocks(stream, i))]
    advance, run = _step_tables(stream, blocks)
    data = b"".join(stream.parts) + bytes(8)
    raw = np.frombuffer(data, np.uint8).astype(np.uint32)
    window = (raw[:-2] << 16) | (raw[1:-1] << 8) | raw[2:]

    ends = np.cumsum([8 * len(part) for part in stream.parts])
    begins = np.concatenate([[0], ends[:-1]])
    starts = [np.arange(begin, end, _LANE_BITS) for begin, end in zip(begins, ends, strict=True)]
    lane_part = np.repeat(np.arange(len(starts)), [len(s) for s in starts])
    position = np.concatenate(starts)
    leads = np.concatenate([[True], lane_part[1:] != lane_part[:-1]])
    last = np.concatenate([lane_part[1:] != lane_part[:-1], [True]])
    limit = np.where(last, ends[lane_part], position + _LANE_BITS)

    state = np.zeros((len(position), 3), np.int64)  # position, block of the unit, coefficient
    state[:, 0] = position
    outcome, counted = np.zeros_like(state), np.zeros(len(position), np.int64)
    broken = np.zeros(len(position), bool)
    todo = np.arange(len(position))
    for _ in range(_MOST_ROUNDS):
        walked = _walk(state[todo], limit[todo], last[todo], window, advance, run, len(blocks))
        outcome[todo], counted[todo], broken[todo] = walked
        follow = np.flatnonzero(~leads[1:] & ~broken[:-1]) + 1
        moved = follow[(state[follow] != outcome[follow - 1]).any(axis=1)]
        if not moved.size:
            break
        state[moved] = outcome[moved - 1]
        todo = moved
    else:
        return True  # too long a chain to be followed
    if broken.any():
        return False
    found = np.bincount(lane_part, counted, len(stream.parts))
    return bool((found == _expected(stream, len(blocks))).all())


def _blocks(stream: _Stream, identifier: int) -> int:
    """Blocks of a component in each unit of the scan; a scan of one component has units of one block (T.81 A.2.2)."""
    across, down = stream.sampling[identifier]
    return across * down if len(stream.tables) > 1 else 1


def _expected(stream: _Stream, blocks: int) -> np.ndarray:
    """Blocks of each part of the scan."""
    if len(stream.tables) > 1:
        across, down = (max(s[axis] for s in stream.sampling.values()) for axis in (0, 1))
    else:
        across = down = 1
    units = -(-stream.rows // (8 * down)) * -(-stream.columns // (8 * across))
    each = stream.interval or units
    number = -(-units // each)
    counts = np.full(max(number, len(stream.parts)), -1)
    counts[:number] = each * blocks
    counts[number - 1] = (units - each * (number - 1)) * blocks
    return counts if number == len(stream.parts) else np.full(len(stream.parts), -1)


def _step_tables(stream: _Stream, blocks: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Bits and coefficients to skip, by block of a unit, first (DC) or other (AC) coefficient, and next 16 bits."""
    advance = np.zeros((len(blocks), 2, 65536), np.int64)
    run = np.zeros((len(blocks), 2, 65536), np.int64)
    for number, (dc, ac) in enumerate(blocks):
        length, symbol = _lengths(stream.codes[dc])
        advance[number, 0] = np.where((length > 0) & (symbol < 16), length + symbol, 0)
        run[number, 0] = 1
        length, symbol = _lengths(stream.codes[16 + ac])
        zeros, size = symbol >> 4, symbol & 15
        advance[number, 1] = np.where(length > 0, length + size, 0)
        run[number, 1] = np.where((size == 0) & (zeros < 15), _END_OF_BLOCK, zeros + 1)
    return advance.reshape(-1), run.reshape(-1)


def _walk(
    state: np.ndarray,
    limit: np.ndarray,
    last: np.ndarray,
    window: np.ndarray,
    advance: np.ndarray,
    run: np.ndarray,
    blocks: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Follow the codes of each lane from its state to its limit.

    Returns:
        The states reached, the number of blocks that ended on the way, and which lanes met what is no code. The last
        lane of a part must end between two units, before less than a byte of ones.
    """
    outcome, counted, broken = state.copy(), np.zeros(len(state), np.int64), np.zeros(len(state), bool)
    lane = np.arange(len(state))
    position, block, coefficient = state.T.copy()
    count = np.zeros(len(state), np.int64)
    while lane.size:
        end = limit[lane]
        bits = (window[np.minimum(position >> 3, len(window) - 1)] >> (8 - (position & 7))) & 0xFFFF
        rest = end - position
        between = (block == 0) & (coefficient == 0)
        ones = (bits >> np.clip(16 - rest, 0, 16)) == (1 << np.clip(rest, 0, 16)) - 1
        final = last[lane]
        done = np.where(final, between & (rest >= 0) & (rest < 8) & ones, rest <= 0)
        entry = (2 * block + (coefficient > 0)) * 65536 + bits
        step = advance[entry]
        over = ~done & ((step == 0) | (final & (rest <= 0)))
        after = coefficient + run[entry]
        over |= ~done & (after > 64) & (after < _END_OF_BLOCK)
        stop = done | over
        if stop.any():
            which = lane[stop]
            outcome[which] = np.stack([position[stop], block[stop], coefficient[stop]], axis=1)
            counted[which], broken[which] = count[stop], over[stop]
            go = ~stop
            lane, position, block, count = lane[go], position[go], block[go], count[go]
            after, step = after[go], step[go]
        closed = after >= 64
        position = position + step
        coefficient = np.where(closed, 0, after)
        block = np.where(closed, (block + 1) % blocks, block)
        count = count + closed
    return outcome, counted, broken
