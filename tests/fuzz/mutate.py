"""Mutations: of bytes, of JSON documents, and of formats that hold JSON."""

from __future__ import annotations

import json
import random
import tomllib
import zlib
from typing import Any

from .guard import Mutator

NUMBERS = (
    0, 1, -1, 2, 3, 64, 65, 255, 256, 1000, 65536, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63,
    2**64 - 1, 2**64, 10**9, 10**12, 10**30, 10**400, -(2**63), 0.5, -0.0, 1e-300, 1e308, 1e-5, 7.5,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
STRINGS = (
    "", " ", "\0", "\n", "a", "é", "\ud800", "\U0001f389", "../../etc/passwd", "/etc/passwd",
    "__proto__", "__class__", "F32", "BF16", "U8", "F8_E4M3", "none", "x" * 300, "%s%n", "{}",
    "\x1b[2J",
)  # fmt: skip
FEW = (1, 1, 1, 2, 3)
SIZES = (1, 1, 1, 2, 4, 8, 16)
BYTES = (b"\0", b"\xff", b"0", b"9", b"-", b'"', b"\n", b"\\")
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [0], [1, 1], {"a": 1}, {"": {}})


def mutate_bytes(data: bytes, rng: random.Random, words: tuple[bytes, ...] = ()) -> bytes:
    """Apply one to four small changes."""
    data = bytearray(data)
    number = rng.random  # randrange and choice take several times as long
    for _ in range(FEW[int(5 * number())]):
        i = int((len(data) + 1) * number())
        n = SIZES[int(7 * number())]
        kind = int(7 * number())
        if kind == 0 and data:
            data[min(i, len(data) - 1)] ^= 1 << int(8 * number())
        elif kind == 1:
            data[i : i + n] = rng.randbytes(n)
        elif kind == 2:
            data[i:i] = rng.randbytes(n)
        elif kind == 3:
            del data[i : i + n]
        elif kind == 4 and words:
            data[i : i + (n if number() < 0.5 else 0)] = words[int(len(words) * number())]
        elif kind == 5:
            j = int((len(data) + 1) * number())
            data[i:i] = data[j : j + (n if number() < 0.5 else 4 * n)]
        else:
            data[i : i + 1] = BYTES[int(8 * number())]
    return bytes(data)


def mutate_value(value: Any, rng: random.Random) -> Any:
    """Apply one change somewhere in a JSON document."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        kind = rng.randrange(12)
        if kind == 0:
            del changed[key]
        elif kind == 1:
            changed[rng.choice(STRINGS)] = value[key]
        elif kind == 2:
            changed[rng.choice(list(value))] = value[key]
        else:
            changed[key] = mutate_value(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.85:
        i = rng.randrange(len(value))
        changed = list(value)
        kind = rng.randrange(10)
        if kind == 0:
            del changed[i]
        elif kind == 1:
            changed.insert(i, changed[rng.randrange(len(value))])
        elif kind == 2:
            changed *= rng.choice((2, 3, 70))
        else:
            changed[i] = mutate_value(value[i], rng)
        return changed[:500]
    if type(value) in (int, float) and abs(value) < 1e300 and rng.random() < 0.4:
        return rng.choice((value + 1, value - 1, -value, value * 2, float(value), value * 0.5))
    if isinstance(value, str) and rng.random() < 0.4:
        i = rng.randint(0, len(value))
        return value[:i] + rng.choice((*STRINGS, *value)) + value[i + rng.randint(0, 2) :]
    return rng.choice((rng.choice(NUMBERS), rng.choice(STRINGS), rng.choice(OTHERS)))


def dump(value: Any) -> bytes:
    """JSON as UTF-8; lone surrogates stay escaped."""
    return json.dumps(value).encode()


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Apply one to three changes to the document, or to its bytes if it is not JSON."""
    try:
        value = json.loads(data)
        if rng.random() < 0.97:
            for _ in range(FEW[int(5 * rng.random())]):
                value = mutate_value(value, rng)
            return dump(value)
    except (ValueError, OverflowError, RecursionError):
        pass
    return mutate_bytes(data, rng, (b"[", b"{", b"}", b",", b"null", b"NaN", b"1e999", b'"a":1,'))


def mutate_toml(data: bytes, rng: random.Random) -> bytes:
    """Apply one to three changes to the values, or changes to the bytes."""
    try:
        value = tomllib.loads(data.decode()) if rng.random() < 0.8 else None
    except (ValueError, RecursionError):
        value = None
    if value is None:
        return mutate_bytes(data, rng, (b"[a]", b"=", b"\n", b"[[", b"{", b"}", b"nan"))
    for _ in range(FEW[int(5 * rng.random())]):
        value = mutate_value(value, rng)
    return "\n".join(_toml(value, "") if isinstance(value, dict) else []).encode()


def _toml(table: dict[str, Any], name: str) -> list[str]:
    values = [(k, v) for k, v in table.items() if not isinstance(v, dict)]
    lines = [f"[{name}]"] if name else []
    lines += [f"{json.dumps(key)} = {_inline(value)}" for key, value in values]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _toml(value, f"{name}.{json.dumps(key)}".removeprefix("."))
    return lines


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value) if isinstance(value, str | bool) else str(value).lower()


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Change the header and keep its length right, or change the bytes."""
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    body = data[8 + length :]
    if rng.random() < 0.1 or len(header) < length:
        return mutate_bytes(data, rng)
    if rng.random() < 0.1:
        body = mutate_bytes(body, rng)
    if rng.random() < 0.3:
        header = mutate_bytes(header, rng, (b" ", b'"a":', b"\0", b"1.0", b"-1", b"true"))
    else:
        header = mutate_json(header, rng)
    return len(header).to_bytes(8, "little") + header + body


def mutate_png(data: bytes, rng: random.Random) -> bytes:
    """Change a chunk and correct lengths and checksums, or change the bytes."""
    chunks = png_chunks(data)
    if not chunks or rng.random() < 0.1:
        return mutate_bytes(data, rng)
    i = rng.randrange(len(chunks))
    kind, content = chunks[i]
    change = rng.randrange(10)
    if change == 0:
        chunks.pop(i)
    elif change == 1:
        chunks.insert(rng.randint(0, len(chunks)), chunks[i])
    elif change == 2:
        kinds = (
            b"tEXt",
            b"iTXt",
            b"zTXt",
            b"eXIf",
            b"acTL",
            b"fcTL",
            b"fdAT",
            b"iCCP",
            b"tRNS",
            b"gAMA",
            b"pHYs",
            b"PLTE",
            b"IDAT",
        )
        chunks[i] = rng.choice(kinds), content
    elif kind == b"IDAT" and change < 6:
        try:
            pixels = zlib.decompress(content)
        except zlib.error:
            pixels = content
        chunks[i] = kind, zlib.compress(mutate_bytes(pixels, rng))
    else:
        chunks[i] = kind, mutate_bytes(content, rng)
    return png(chunks)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return (type, content) of every complete chunk."""
    chunks = []
    at = 8
    while data[:4] == b"\x89PNG" and at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG of these chunks."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in chunks:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        parts.append(len(content).to_bytes(4, "big") + kind + content + checksum)
    return b"".join(parts)


def mutator(mutate: Mutator | None, words: tuple[bytes, ...]) -> Mutator:
    """Return the mutations of a target: mostly of its format, otherwise of bytes."""
    share = 0.97 if mutate is mutate_json else 0.8

    def change(data: bytes, rng: random.Random) -> bytes:
        if mutate is not None and rng.random() < share:
            return mutate(data, rng)
        return mutate_bytes(data, rng, words)

    return change
