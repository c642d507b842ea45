"""Inputs out of inputs: cheap enough for tens of thousands a second, and steered by what they lead to.

There is no instrumentation here (`--coverage` has it). Instead, an input whose outcome was not seen before (a reason,
an error, a shape of answer) joins the corpus and is mutated further.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

TOKENS = (
    *(b'""', b"{}", b"[]", b"null", b"true", b"-1", b"1e999", b"-0", b"0.1", b"NaN", b"Infinity", b"-Infinity"),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616"),
    *(b"1" * 400, b"1" * 5_000, b"0." + b"0" * 400 + b"1", b"1E+309", b"01", b"1.", b".5", b"0x10", b"+1"),
    *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00"),
    *(b"[" * 20, b"]" * 20, b"[" * 33 + b"]" * 33, b"[" * 250 + b"]" * 250, b'{"a":' * 40, b"}" * 40),
    *(b'{"a":' * 31 + b"1" + b"}" * 31, b'{"a":' * 32 + b"1" + b"}" * 32),
    *(b',"x":1', b',"x":{"y":[1,2,{"z":null}]}', b',"event_id":"two"', b',"age":"30"', b"\\", b'\\"', b"'", b'"'),
    *(b"2026-01-01T00:00:00Z", b"2026-01-01T00:00:00.123456789+14:00", b"0000-00-00", b"9999-12-31T23:59:60Z"),
    *(
        b"\n",
        b"\r\n",
        b"\t",
        b" " * 50,
        b"=",
        b"#",
        b"[[a]]",
        b"[a]\n",
        b"a.b.c.d=1\n",
        b'"""',
        b"'''",
        b"${x}",
        b"../",
    ),
    *(
        b"enc:1:",
        b'{"enc":"enc:1:k:AAAA"}',
        b"F32",
        b"BF16",
        b"shape",
        b'"__metadata__":{"a":"b"},',
        b"\x08" + b"\0" * 7,
    ),
    *(b"1_000", b"inf", b"0b1", b"1979-05-27", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"%s%n", b"\x1b[31m"),
)
SIZE_MAX = 6_000
"""Bytes. What grows further is cut: long inputs cost time and show little that short ones do not."""
CORPUS_MAX = 2_000


class Corpus:
    """Seeds and what came of them."""

    def __init__(self, seeds: Sequence[bytes], chance: random.Random) -> None:
        self._inputs = list(seeds)
        self._seeds = len(seeds)
        self._chance = chance
        self._seen: set[object] = set()

    def next(self) -> bytes:
        """An input with one to four changes; half of them are changes of a good one."""
        chance = self._chance.random
        inputs = self._inputs
        data = inputs[int(chance() * (len(inputs) if chance() < 0.5 else self._seeds))]
        for _ in range(1 + int(chance() * chance() * 4)):
            data = CHANGES[int(chance() * len(CHANGES))](data, chance, inputs)
        return data[:SIZE_MAX]

    def learn(self, data: bytes, outcome: object) -> None:
        """Keep an input that led somewhere new."""
        if outcome in self._seen or len(self._seen) > CORPUS_MAX:
            return
        self._seen.add(outcome)
        self._inputs.append(data)

    @property
    def outcomes(self) -> int:
        return len(self._seen)


Chance = Callable[[], float]


def _flip(data: bytes, chance: Chance, inputs: Sequence[bytes]) -> bytes:
    at = int(chance() * len(data))
    return data[:at] + bytes((int(chance() * 256),)) + data[at + 1 :]


def _bit(data: bytes, chance: Chance, inputs: Sequence[bytes]) -> bytes:
    at = int(chance() * len(data))
    return data[:at] + bytes(byte ^ 1 << int(chance() * 8) for byte in data[at : at + 1]) + data[at + 1 :]


def _insert(data: bytes, chance: Chance, inputs: Sequence[bytes]) -> bytes:
    at = int(chance() * (len(data) + 1))
    return data[:at] + TOKENS[int(chance() * len(TOKENS))] + data[at:]


def _cut(data: bytes, chance: Chance, inputs: Sequence[bytes]) -> bytes:
    at = int(chance() * len(data))
    return data[:at] + data[at + 1 + int(chance() * chance() * 40) :]


def _truncate(data: bytes, chance: Chance, inputs: Sequence[bytes]) -> bytes:
    return data[: int(chance() * len(data))]


def _repeat(data: bytes, chance: Chance, inputs: Sequence[bytes]) -> bytes:
    at = int(chance() * len(data))
    end = at + 1 + int(chance() * 40)
    return data[:end] + data[at:end] * int(1 + chance() * chance() * 60) + data[end:]


def _splice(data: bytes, chance: Chance, inputs: Sequence[bytes]) -> bytes:
    other = inputs[int(chance() * len(inputs))]
    return data[: int(chance() * len(data))] + other[int(chance() * len(other)) :]


def _value(data: bytes, chance: Chance, inputs: Sequence[bytes]) -> bytes:
    """Another value where one stands: after a colon or an equals sign, up to the next comma, bracket or line."""
    at = max(data.find(b":", int(chance() * len(data))), 0) or data.find(b"=", int(chance() * len(data)))
    ends = [end for mark in (b",", b"}", b"\n", b"]") if (end := data.find(mark, at)) > 0]
    if at < 0 or not ends:
        return _insert(data, chance, inputs)
    return data[: at + 1] + TOKENS[int(chance() * len(TOKENS))] + data[min(ends) :]


CHANGES = (_flip, _bit, _insert, _cut, _truncate, _repeat, _splice, _value, _value, _value)
