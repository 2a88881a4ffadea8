"""CRC-64 of ECMA-182, reflected, as Go's ``hash/crc64`` and xz compute it; the checksum of ``mongodump`` archives."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

_POLYNOMIAL = 0xC96C5795D7870F42  # bits reversed
_ONES = 0xFFFFFFFFFFFFFFFF
_LANE = 1024  # bytes; long data are cut into lanes of this length, whose registers numpy updates together
_FEWEST_LANES = 64  # with fewer, byte by byte is faster

Words = npt.NDArray[np.uint64]


class Crc64:
    """A running checksum."""

    def __init__(self) -> None:
        self._register = _ONES

    def update(self, data: bytes) -> None:
        """Take more bytes."""
        lanes = len(data) // _LANE
        if lanes >= _FEWEST_LANES:
            for remainder in _lane_remainders(data[: lanes * _LANE]):
                self._register = _over_a_lane_of_zeros(self._register) ^ remainder
            data = data[lanes * _LANE :]
        table, register = _table_of_integers(), self._register
        for byte in data:
            register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
        self._register = register

    @property
    def value(self) -> int:
        """The checksum of all bytes so far, from 0 to 2**64 - 1."""
        return self._register ^ _ONES


def _lane_remainders(data: bytes) -> list[int]:
    """Return the register after each lane, starting from zero; it is linear in its start value and the data."""
    columns = np.frombuffer(data, np.uint8).reshape(-1, _LANE).T.astype(np.uint64)
    registers = np.zeros(columns.shape[1], np.uint64)
    for column in columns:
        registers = _table()[(registers ^ column) & np.uint64(0xFF)] ^ (registers >> np.uint64(8))
    return [int(register) for register in registers]


def _over_a_lane_of_zeros(register: int) -> int:
    """Return the register after a lane of zero bytes: by linearity, the sum over its own eight bytes."""
    moved = 0
    for place, table in enumerate(_lane_tables()):
        moved ^= table[(register >> 8 * place) & 0xFF]
    return moved


@functools.cache
def _lane_tables() -> list[list[int]]:
    registers = np.array([byte << 8 * place for place in range(8) for byte in range(256)], np.uint64)
    for _ in range(_LANE):
        registers = _table()[registers & np.uint64(0xFF)] ^ (registers >> np.uint64(8))
    return [[int(register) for register in registers[256 * place : 256 * (place + 1)]] for place in range(8)]


@functools.cache
def _table() -> Words:
    return np.array(_table_of_integers(), np.uint64)


@functools.cache
def _table_of_integers() -> list[int]:
    table = []
    for register in range(256):
        for _ in range(8):
            register = (register >> 1) ^ (_POLYNOMIAL if register & 1 else 0)
        table.append(register)
    return table
