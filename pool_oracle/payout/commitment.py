"""The epoch's commitment, and the coinbase output that carries it (protocol.md)."""

from __future__ import annotations

from collections.abc import Iterable

from pool_oracle.errors import InputError
from pool_oracle.hashes import keccak256

TAG = b"PORC"
_SCRIPT_HEAD = b"\x6a\x24" + TAG
SCRIPT_SIZE = len(_SCRIPT_HEAD) + 32


def epoch_commitment(chain_id: int, distributor: bytes, root: bytes, manifest_hash: bytes) -> bytes:
    """keccak256(abi.encode(uint256 chainId, address distributor, bytes32 root, bytes32 manifestHash))."""
    if not 0 <= chain_id < 1 << 256:
        raise InputError(f"the chain id must be 0 to 2^256 - 1, not {chain_id}")
    if len(distributor) != 20 or len(root) != 32 or len(manifest_hash) != 32:
        raise InputError("a commitment takes 20 bytes of address, 32 of root and 32 of manifest hash")
    return keccak256(chain_id.to_bytes(32, "big") + bytes(12) + distributor + root + manifest_hash)


def commitment_script(commitment: bytes) -> bytes:
    """The output script: OP_RETURN with one push of 36 bytes, PORC and the commitment."""
    return _SCRIPT_HEAD + commitment


def parse_commitment_script(script: bytes) -> bytes | None:
    """The commitment of an output script, or None if the script is not exactly of that form."""
    if len(script) != SCRIPT_SIZE or not script.startswith(_SCRIPT_HEAD):
        return None
    return script[len(_SCRIPT_HEAD) :]


def find_commitment(scripts: Iterable[bytes]) -> tuple[int, bytes] | None:
    """(output index, commitment) of a coinbase's scripts; None where there is none, or more than one."""
    found = [(i, c) for i, script in enumerate(scripts) if (c := parse_commitment_script(script)) is not None]
    return found[0] if len(found) == 1 else None
