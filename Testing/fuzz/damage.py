"""Ways to damage a file: as disks, cables and programs do, and as somebody does who means harm."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

Random = np.random.Generator

#: What a field of a text header or table is replaced by.
WORDS = (
    b"", b"-1", b"0", b"1", b"2147483648", b"99999999999999999999", b"9" * 5000, b"1e400", b"-1e-400", b"nan", b"inf",
    b"%s%n%s%n", b"/dev/zero", b"/etc/passwd", b"../../x", b"LIST", b"\0", b"\xff\xfe", b"none", b"(1,0,0)", b"True",
    b"a b c", b"\n\n\n", b"<!DOCTYPE x>", b"+ADwAIQ-", b"=cmd()", b"1.5", b"3 3 3", b"LOCAL", b"gzip",
    b"raw", b"\xc2\xb2",
)  # fmt: skip

#: What bytes of a binary header are replaced by: sizes, offsets and numbers that nothing expects.
NUMBERS = tuple(
    np.array(value, dtype).tobytes()
    for dtype in ("<i2", ">i2", "<i4", ">i4", "<i8", "<f4", ">f4", "<f8")
    for value in ((0, -1, 1, 2, 3, 127, 255, 32767) if dtype[1] == "i" else (0.0, -1.0, np.nan, np.inf, 1e30, 1e-30))
) + tuple(np.array(v, "<i8").tobytes() for v in (2**31 - 1, 2**31, 2**40, -(2**31)))

#: What a value in JSON is replaced by.
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2.5, 10**30, 2**31, "", "x", "../x", [], {}, [[]], {"a": 1}, [None], "\ud800", "9" * 5000,
    -1e308,
)  # fmt: skip


def damage(data: bytes, random: Random, is_text: bool) -> tuple[bytes, str, int]:
    """Damage a file's bytes.

    Returns
    -------
    damaged : bytes
    kind : str
    place : int
        First byte that may differ.
    """
    if not data:
        return b"?", "insert", 0
    if is_text and random.random() < 0.7:
        return _damage_text(data, random)
    kind = str(random.choice("bit bit bit byte number number cut zero insert repeat swap".split()))
    # Half of it in the first kilobyte, where the headers are.
    place = int(random.integers(min(len(data), 1024) if random.random() < 0.5 else len(data)))
    changed = bytearray(data)
    size = int(random.integers(1, 64))
    if kind == "bit":
        changed[place] ^= 1 << int(random.integers(8))
    elif kind == "byte":
        changed[place] = int(random.integers(256))
    elif kind == "number":
        number = NUMBERS[int(random.integers(len(NUMBERS)))]
        place -= place % 2
        changed[place : place + len(number)] = number
    elif kind == "cut":
        del changed[place:]
    elif kind == "zero":
        changed[place : place + size] = bytes(len(changed[place : place + size]))
    elif kind == "insert":
        changed[place:place] = random.bytes(size)
    elif kind == "repeat":
        changed[place:place] = changed[place : place + size]
    else:
        other = int(random.integers(len(data)))
        place, other = min(place, other), max(place, other)
        first, second = changed[place : place + 16], changed[other : other + 16]
        changed[other : other + 16], changed[place : place + 16] = first, second
    return bytes(changed), kind, place


def _damage_text(data: bytes, random: Random) -> tuple[bytes, str, int]:
    if data.lstrip().startswith(b"{") and random.random() < 0.7:
        return _damage_json(data, random), "json", 0
    # A header's text ends where its voxels begin.
    head = data[:4096]
    kind = str(random.choice(["word", "word", "word", "line", "lines", "blank"]))
    if kind == "word":
        words = list(re.finditer(rb"[^\s,=:;<>\"]+", head))
        if words:
            word = words[int(random.integers(len(words)))]
            return (
                data[: word.start()] + WORDS[int(random.integers(len(WORDS)))] + data[word.end() :],
                kind,
                word.start(),
            )
    lines = head.split(b"\n")
    number = int(random.integers(len(lines)))
    if kind == "line":
        del lines[number]
    elif kind == "lines":
        lines[number:number] = [lines[int(random.integers(len(lines)))]] * int(random.integers(1, 50))
    else:
        lines[number:number] = [b" " * int(random.integers(3))] * int(random.integers(1, 20_000))
    return b"\n".join(lines) + data[4096:], kind, 0


def _damage_json(data: bytes, random: Random) -> bytes:
    try:
        document = json.loads(data)
    except ValueError:
        return data[:-1]
    for _ in range(int(random.integers(1, 3))):
        place, spots = document, []
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = keys[int(random.integers(len(keys)))]
            spots.append((place, key))
            place = place[key]
        if not spots:
            break
        holder, key = spots[int(random.integers(len(spots)))]
        if random.random() < 0.15 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = VALUES[int(random.integers(len(VALUES)))]
    return json.dumps(document).encode()
