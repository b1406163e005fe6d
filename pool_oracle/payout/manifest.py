"""The manifest of an epoch: one canonical JSON file, named by its hash.

Canonical: UTF-8, keys sorted by code point, no insignificant white space, no escapes where UTF-8 serves, integers above
2^53 as decimal strings. Its CIDv1 (raw, sha2-256, base32) is what IPFS calls a file under 1 MiB of the same bytes.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from pool_oracle.errors import ManifestError
from pool_oracle.hashes import sha256
from pool_oracle.wire import hex_bytes

PROTOCOL_VERSION = 1
MAX_MANIFEST_SIZE = 1 << 20
MAX_JSON_INTEGER = 1 << 53
_CID_PREFIX = bytes((0x01, 0x55, 0x12, 0x20))


def canonical_json(value: Any) -> bytes:
    """The one byte string of a JSON value.

    Raises ManifestError for floats, big integers, text that UTF-8 cannot hold, deep nesting, and what is not JSON.
    """
    try:
        _check_canonical(value, "$")
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise ManifestError("a string holds half a surrogate pair, which UTF-8 cannot encode") from None
    except RecursionError:
        raise ManifestError("not acceptable JSON: nested too deeply") from None


def parse_canonical(data: bytes) -> Any:
    """The value of canonical JSON. Raises ManifestError when the bytes are not exactly the canonical ones."""
    try:
        value = json.loads(data.decode())
    except ValueError as error:
        raise ManifestError(f"not JSON: {error}") from None
    except RecursionError:
        raise ManifestError("not acceptable JSON: nested too deeply") from None
    if canonical_json(value) != data:
        raise ManifestError("the JSON is not canonical: sorted unique keys, no white space, no needless escapes")
    return value


def manifest_hash(data: bytes) -> bytes:
    """SHA-256 of the file."""
    return sha256(data)


def cid(digest: bytes) -> str:
    """The CIDv1 (raw, sha2-256, base32 lower case) of a file with this SHA-256."""
    return "b" + base64.b32encode(_CID_PREFIX + digest).decode().lower().rstrip("=")


@dataclass(frozen=True, slots=True)
class Policy:
    """What the pool promises about its accounting.

    `scheme`: how shares become weights; `window`: X; `fee_bps`: the fee in basis points; `unit`: S;
    `genesis_payee`: who epoch 0 pays; `emulated_network_target`: 0x and 64 hex digits, regtest only, else None;
    `payee`: who a SOLO pool mines for, else None.
    """

    scheme: str
    window: int
    fee_bps: int
    unit: str
    genesis_payee: str
    emulated_network_target: str | None
    payee: str | None = None


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """A share-log segment of the bundle: file name, SHA-256, length in bytes, first share's sequence number."""

    name: str
    sha256: str
    length: int
    first: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """An epoch, in full. Hashes and words are 0x hex; integers that may pass 2^53 are decimal strings."""

    version: int
    pool: str
    network: str
    chain_id: int
    distributor: str
    route: str
    epoch: int
    previous: str | None
    policy: Policy
    closing_share: int | None
    closing_t: str
    first_share: int | None
    segments: tuple[SegmentRef, ...]
    leaves: int
    total: str
    root: str
    tip: str
    tip_height: int

    def to_bytes(self) -> bytes:
        """The canonical file. Raises ManifestError above 1 MiB."""
        data = canonical_json(asdict(self) | {"segments": [asdict(segment) for segment in self.segments]})
        if len(data) >= MAX_MANIFEST_SIZE:
            raise ManifestError(f"the manifest has {len(data)} bytes and must stay under {MAX_MANIFEST_SIZE}")
        return data

    def hash(self) -> bytes:
        """The SHA-256 that names this manifest."""
        return sha256(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse a canonical manifest of this protocol version. Raises ManifestError."""
        value = _members(cls, parse_canonical(data))
        if value["version"] != PROTOCOL_VERSION:
            raise ManifestError(f"the manifest has protocol version {value['version']}; this reads {PROTOCOL_VERSION}")
        if not isinstance(value["segments"], list):
            raise ManifestError("the manifest's segments must be a list")
        _check_hex(value["distributor"], "distributor", 20)
        _check_hex(value["root"], "root", 32)
        _check_hex(value["previous"], "previous", 32)
        value["policy"] = Policy(**_members(Policy, value["policy"]))
        _check_hex(value["policy"].emulated_network_target, "emulated_network_target", 32)
        _check_hex(value["policy"].payee, "payee", 21)
        value["segments"] = tuple(SegmentRef(**_members(SegmentRef, segment)) for segment in value["segments"])
        return cls(**value)


def _members(cls: type[Any], value: Any) -> dict[str, Any]:
    """The members of a JSON object that is to become `cls`: exactly its fields, each of its type."""
    if not isinstance(value, dict):
        raise ManifestError(f"{cls.__name__} must be a JSON object")
    wanted = {field.name: str(field.type) for field in fields(cls)}
    if value.keys() != wanted.keys():
        odd = sorted(value.keys() ^ wanted.keys())
        raise ManifestError(f"{cls.__name__}: these fields are missing or unknown: {', '.join(odd)}")
    for name, kind in wanted.items():
        item = value[name]
        allowed: tuple[type, ...] = tuple(t for word, t in (("int", int), ("str", str)) if word in kind.split(" | "))
        is_absent = item is None and "None" in kind
        if allowed and not is_absent and (not isinstance(item, allowed) or isinstance(item, bool)):
            raise ManifestError(f"{cls.__name__}.{name} must be {kind}, not {item!r}")
    return dict(value)


def _check_hex(text: str | None, name: str, size: int) -> None:
    if text is not None:
        hex_bytes(text, f"the manifest's {name}", size=size, prefixed=True, error=ManifestError)


def _check_canonical(value: Any, where: str) -> None:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, int):
        if abs(value) > MAX_JSON_INTEGER:
            raise ManifestError(f"{where}: the integer {value} is above 2^53; write it as a decimal string")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ManifestError(f"{where}: the key {key!r} is not a string")
            _check_canonical(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_canonical(item, f"{where}[{i}]")
    else:
        raise ManifestError(f"{where}: {type(value).__name__} has no place in canonical JSON")
