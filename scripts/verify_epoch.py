"""From a published bundle to the root that the contract holds, written to be read: docs/protocol.md in 200 lines.

    python scripts/verify_epoch.py BUNDLES/epoch-000007

Needs Python 3.11 and one package for keccak256 (pycryptodome); packed segments want the program zstd. It imports
nothing of pool_oracle. It hashes every share again, adds up the window, builds the tree, and compares. For what it
leaves out (the coinbase of each job, other schemes than PPLNS, the chain) there is `pool-oracle audit`.
"""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from Crypto.Hash import keccak

S = 1 << 56  # the work of one block
SLOT = 64
SHARE, JOB, WORKER, MORE, POLICY = 2, 3, 4, 7, 10


class Wrong(Exception):
    """Something in the bundle is not as it must be."""


def check(holds: bool, what: str) -> None:
    """Or it is wrong."""
    if not holds:
        raise Wrong(what)


def sha256d(data: bytes) -> bytes:
    """Bitcoin's hash."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def keccak256(data: bytes) -> bytes:
    """Ethereum's hash."""
    return bytes(keccak.new(digest_bits=256, data=data).digest())


def target_of(bits: int) -> int:
    """A compact target, as Bitcoin Core decodes it."""
    size, mantissa = bits >> 24, bits & 0x7FFFFF
    target = mantissa >> 8 * (3 - size) if size <= 3 else mantissa << 8 * (size - 3)
    check(0 < target < 1 << 256 and not bits & 0x800000, f"compact target {bits:08x}")
    return target


def segment_bytes(folder: Path, wanted: dict[str, Any]) -> bytes:
    """A segment, packed or plain, with the length and SHA-256 that the manifest names."""
    name = Path(wanted["name"]).name
    packed = folder / f"{name}.zst"
    if packed.exists():
        with subprocess.Popen(["zstd", "-dc", str(packed)], stdout=subprocess.PIPE) as program:
            data = program.stdout.read(wanted["length"] + 1) if program.stdout else b""  # never more than announced
            program.kill()
    else:
        data = (folder / name).read_bytes()
    check(len(data) == wanted["length"], f"length of {name}")
    check("0x" + hashlib.sha256(data).hexdigest() == wanted["sha256"], f"SHA-256 of {name}")
    return data


def records(data: bytes, name: str) -> Iterator[tuple[int, Any]]:
    """Each record: its kind, and its slot or its JSON payload. The first slot is the header."""
    at = 0
    while at < len(data):
        slot = data[at : at + SLOT]
        check(len(slot) == SLOT and zlib.crc32(slot[:60]) == struct.unpack("<I", slot[60:])[0], f"{name}, offset {at}")
        at += SLOT
        if slot[0] <= SHARE:
            yield slot[0], slot
            continue
        (size,) = struct.unpack_from("<I", slot, 4)
        payload = slot[8:60]
        while len(payload) < size:
            more = data[at : at + SLOT]
            whole = len(more) == SLOT and zlib.crc32(more[:60]) == struct.unpack("<I", more[60:])[0]
            check(whole and more[0] == MORE, f"{name}, offset {at}")
            payload += more[1:60]
            at += SLOT
        yield slot[0], json.loads(payload[:size])


def header_of(slot: bytes, job: dict[str, Any]) -> bytes:
    """The 80 bytes that a share solved, rebuilt from its record and its job."""
    extranonces = slot[8 : 8 + (slot[1] >> 4)] + slot[16 : 16 + (slot[1] & 15)]
    check(len(extranonces) == job["extranonceSize"], "size of the extranonces")
    node = sha256d(bytes.fromhex(job["coinb1"]) + extranonces + bytes.fromhex(job["coinb2"]))
    for sibling in job["merkleBranch"]:
        node = sha256d(node + bytes.fromhex(sibling))
    ntime, nonce, version = struct.unpack_from("<III", slot, 24)
    words = bytes.fromhex(job["prevhash"])  # stratum turns the bytes of each word round
    previous = b"".join(words[i : i + 4][::-1] for i in range(0, 32, 4))
    return struct.pack("<I32s32sIII", version, previous, node, ntime, int(job["nbits"], 16), nonce)


def proof_of_work(header: bytes, network: str) -> int:
    """The number that a target must not be below."""
    is_scrypt = network.startswith("litecoin")
    found = hashlib.scrypt(header, salt=header, n=1024, r=1, p=1, dklen=32) if is_scrypt else sha256d(header)
    return int.from_bytes(found, "little")


def shares_of(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[int, str, int, int]]:
    """(number, payee, unit, T after it) of every share up to the closing one, each with its work checked."""
    emulated = manifest["policy"]["emulated_network_target"]
    seen: set[bytes] = set()
    t = number = -1
    for segment in manifest["segments"]:
        jobs: dict[int, dict[str, Any]] = {}
        payees: dict[int, str] = {}
        for kind, record in records(segment_bytes(folder, segment), segment["name"]):
            if kind == JOB:
                jobs[record["job"]] = record
            elif kind == WORKER:
                payees[record["worker"]] = record["payee"]
            elif kind == POLICY:
                check(record["window"] == manifest["policy"]["window"], "one window X (audit knows how X changes)")
            elif kind == 1:
                first, t_before = struct.unpack_from("<Q16s", record, 20)
                t_before = int.from_bytes(t_before, "little")
                check(t in (-1, t_before) and number in (-1, first - 1), f"where {segment['name']} begins")
                t, number = t_before, first - 1
            elif kind == SHARE and number < manifest["closing_share"]:
                job_number, bits, worker = struct.unpack_from("<I28xII", record, 4)
                number += 1
                check(struct.unpack_from("<Q", record, 52)[0] == number, f"number of share {number}")
                job, share_target = jobs[job_number], target_of(bits)
                header = header_of(record, job)
                check(proof_of_work(header, manifest["network"]) <= share_target, f"work of share {number}")
                check(header not in seen, f"share {number} counts once")
                seen.add(header)
                network_target = int(emulated, 16) if emulated else target_of(int(job["nbits"], 16))
                unit = min(S, network_target * S // share_target)
                t += unit
                yield number, payees[worker], unit, t


def weights_of(folder: Path, manifest: dict[str, Any]) -> dict[bytes, int]:
    """Each payee's part of the window (T - X*S, T]."""
    check(manifest["policy"]["scheme"] == "pplns" and manifest["policy"]["unit"] == str(S), "PPLNS with unit 2^56")
    shares = list(shares_of(folder, manifest))
    last, _, _, t = shares[-1]
    check((last, str(t)) == (manifest["closing_share"], manifest["closing_t"]), "closing share and its T")
    low = t - manifest["policy"]["window"] * S
    weights: dict[bytes, int] = {}
    inside = [(n, bytes.fromhex(payee[2:]), t_n - max(t_n - unit, low)) for n, payee, unit, t_n in shares]
    inside = [(n, payee, credit) for n, payee, credit in inside if credit > 0]
    for _, payee, credit in inside:
        weights[payee] = weights.get(payee, 0) + credit
    check(inside[0][0] == manifest["first_share"], "first share of the window")
    return weights


def root_of(weights: dict[bytes, int]) -> bytes:
    """The packed-sum tree: a node is 24 bytes of hash and 8 of sum."""
    level = []
    for payee, weight in sorted(weights.items()):
        tail = weight.to_bytes(8, "big")
        level.append(keccak256(b"\0" + payee + tail)[:24] + tail)
    while len(level) > 1:
        if len(level) % 2:
            level.append(bytes(32))
        pairs = zip(level[::2], level[1::2], strict=True)
        sums = [(a + b, int.from_bytes(a[24:], "big") + int.from_bytes(b[24:], "big")) for a, b in pairs]
        level = [keccak256(both)[:24] + total.to_bytes(8, "big") for both, total in sums]
    return level[0]


def main(folder: Path) -> int:
    """Verify one epoch; 0 when it holds."""
    raw = (folder / "manifest.json").read_bytes()
    manifest = json.loads(raw)
    print(f"manifest hash  0x{hashlib.sha256(raw).hexdigest()}")
    try:
        genesis = {bytes.fromhex(manifest["policy"]["genesis_payee"][2:]): 1}
        weights = weights_of(folder, manifest) if manifest["epoch"] else genesis
        root = f"0x{root_of(weights).hex()}"
        check(root == manifest["root"], f"root: computed {root}, published {manifest['root']}")
    except (Wrong, KeyError, ValueError, IndexError, StopIteration, OSError, struct.error) as error:
        print(f"FAIL           {error if isinstance(error, Wrong) else repr(error)}")
        return 1
    for payee, weight in sorted(weights.items()):
        print(f"leaf           0x{payee.hex()} {weight}")
    print(f"PASS           epoch {manifest['epoch']}: root {root}; compare it with the contract's")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) if len(sys.argv) == 2 else __doc__)
