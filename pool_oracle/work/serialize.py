"""Bitcoin's serialization: compact sizes, pushes, and a reader that names where bytes ran out."""

from __future__ import annotations

from pool_oracle.errors import JobError


def compact_size(value: int) -> bytes:
    """The variable-length integer before lists and strings."""
    if value < 0xFD:
        return bytes((value,))
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "little")
    if value <= 0xFFFFFFFF:
        return b"\xfe" + value.to_bytes(4, "little")
    return b"\xff" + value.to_bytes(8, "little")


def push(data: bytes) -> bytes:
    """The script push of 1 to 75 bytes."""
    if not 0 < len(data) <= 75:
        raise JobError(f"a push of one length byte holds 1 to 75 bytes, not {len(data)}")
    return bytes((len(data),)) + data


def push_height(height: int) -> bytes:
    """The push of a block height that BIP-34 wants: the shortest form, OP_1 to OP_16 for small ones."""
    if height < 0:
        raise JobError(f"height must not be negative: {height}")
    if height == 0:
        return b"\x00"
    if height <= 16:
        return bytes((0x50 + height,))
    return push(height.to_bytes(height.bit_length() // 8 + 1, "little"))


class Reader:
    """Reads from the front of bytes."""

    def __init__(self, data: bytes, what: str) -> None:
        """Read `data`; errors call it `what`."""
        self._data = data
        self._what = what
        self.at = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes. Raises JobError when fewer are left."""
        end = self.at + size
        if end > len(self._data):
            raise JobError(f"{self._what} ends at byte {len(self._data)}, inside a field that needs {end}")
        piece = self._data[self.at : end]
        self.at = end
        return piece

    def integer(self, size: int) -> int:
        """The next `size` bytes as a little-endian number."""
        return int.from_bytes(self.take(size), "little")

    def compact_size(self) -> int:
        """The next variable-length integer. Raises JobError for a form that is not the shortest, as nodes do."""
        first = self.integer(1)
        if first < 0xFD:
            return first
        value = self.integer({0xFD: 2, 0xFE: 4, 0xFF: 8}[first])
        if compact_size(value)[0] != first:
            raise JobError(f"{self._what} has a length, {value}, that is not in its shortest form")
        return value

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self.at
