"""From a node's template to a job, a checked share and a block, by how deep the merkle branch is.

    python bench/jobs.py            prints a table, writes bench/results/jobs.json
    python bench/jobs.py --json     prints what it would write, and writes it
    python bench/jobs.py --quick    a few depths, a few repetitions, nothing written: does it still run?

Method: a block of 2^levels transactions of 222 bytes, its coinbase included. Each step is repeated; the fastest
repetition counts, in whole microseconds, because everything slower is somebody else's work. Beside it stands the same
in double SHA-256 hashes of 64 bytes, measured in the same run: that depends on the machine far less.

- reply: decode the JSON of `getblocktemplate`
- template: check it and compute the branch of all its jobs (`template_from_gbt`); once a template
- job: `make_job`; once a template and once an epoch
- share: header and hashes of a submission whose coinbase was not seen before; at every share
- block: `assemble_block`; once in a pool's good days
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pool_oracle.hashes import sha256d
from pool_oracle.networks import network_named
from pool_oracle.payout.commitment import commitment_script
from pool_oracle.units import Satoshi
from pool_oracle.work.coinbase import witness_commitment_script
from pool_oracle.work.gbt import template_from_gbt
from pool_oracle.work.share import check_header, pack_header
from pool_oracle.work.template import Job, Template, assemble_block, make_job
from pool_oracle.work.transaction import Transaction, TxInput, TxOutput

LEVELS = range(14)
QUICK_LEVELS = (0, 6, 12)
WANTED_LEVELS, WANTED_JOB = 12, 1_000
"""A job of a template with so many levels is wanted in less than so many microseconds."""

STEPS = ("reply", "template", "job", "share", "block")
EXTRANONCES = b"\x00\x00\x00\x01", bytes(8)
COMMITMENT = b"\x2a" * 32
MAIN = network_named("main")


def reply_of(transactions: int, source: random.Random) -> bytes:
    """A `getblocktemplate` reply with so many transactions, as a node sends it."""
    entries = []
    for _ in range(transactions):
        tx = Transaction(
            version=2,
            inputs=(TxInput(source.randbytes(36), b"", 0xFFFFFFFD),),
            outputs=tuple(TxOutput(Satoshi(50_000), b"\x00\x14" + source.randbytes(20)) for _ in range(2)),
            locktime=0,
            witnesses=((source.randbytes(71), source.randbytes(33)),),
        )
        raw = tx.serialize()
        ids = {"txid": tx.txid[::-1].hex(), "hash": sha256d(raw)[::-1].hex()}
        entries.append({"data": raw.hex(), **ids, "depends": [], "fee": 222, "sigops": 1, "weight": 561})
    return json.dumps(
        {
            "version": 0x20000000,
            "rules": ["csv", "!segwit", "taproot"],
            "vbrequired": 0,
            "previousblockhash": source.randbytes(32).hex(),
            "transactions": entries,
            "coinbaseaux": {},
            "coinbasevalue": 312_500_000 + 222 * transactions,
            "mintime": 1_700_000_000,
            "curtime": 1_700_000_600,
            "bits": "1702068f",
            "height": 840_000,
            "default_witness_commitment": witness_commitment_script(source.randbytes(32)).hex(),
        }
    ).encode()


def job_of(template: Template) -> Job:
    """What the pool makes of a template."""
    return make_job(
        1,
        template,
        reward_script=b"\xa9\x14" + bytes(20) + b"\x87",
        commitment_script=commitment_script(COMMITMENT),
        commitment=COMMITMENT,
        epoch=1,
        tag=b"/pool_oracle/",
        extranonce_size=len(b"".join(EXTRANONCES)),
    )


def header_of(job: Job) -> bytes:
    """The header of a submission."""
    root = job.stratum.merkle_root(*EXTRANONCES)
    return pack_header(job.stratum.version, job.stratum.prev_hash, root, job.template.curtime, job.stratum.nbits, 7)


def fastest(step: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest repetition of a step, in loops long enough for the clock; at least three of them."""
    start = time.perf_counter()
    step()
    once = time.perf_counter() - start
    loop = max(1, int(0.001 / max(once, 1e-7)))
    best = once
    end = start + seconds
    for tried in range(1_000_000):
        begin = time.perf_counter()
        if tried >= 3 and begin > end:
            break
        for _ in range(loop):
            step()
        best = min(best, (time.perf_counter() - begin) / loop)
    return best


def measure(levels: int, seconds: float) -> dict[str, float]:
    """Seconds of each step for a branch of so many levels."""
    reply = reply_of((1 << levels) - 1, random.Random(levels))
    decode = msgspec.json.Decoder().decode
    parsed = decode(reply)
    template = template_from_gbt(parsed, MAIN)
    job = job_of(template)
    header, coinbase = header_of(job), job.stratum.coinbase(*EXTRANONCES)

    def share() -> None:
        root = job.stratum.merkle_root(*EXTRANONCES)
        header = pack_header(job.stratum.version, template.prev_hash, root, template.curtime, template.nbits, 7)
        check_header(header, root, job.network_target, job.network_target)

    steps: dict[str, Callable[[], Any]] = {
        "reply": lambda: decode(reply),
        "template": lambda: template_from_gbt(parsed, MAIN),
        "job": lambda: job_of(template),
        "share": share,
        "block": lambda: assemble_block(header, coinbase, template),
    }
    return {name: fastest(steps[name], seconds) for name in STEPS}


def report(levels: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """All figures, as integers."""
    block = bytes(64)
    hash_seconds = fastest(lambda: sha256d(block), seconds)
    rows = {}
    for depth in levels:
        timed = measure(depth, seconds)
        rows[str(depth)] = {
            "transactions": 1 << depth,
            "microseconds": {name: round(timed[name] * 1e6) for name in STEPS},
            "hashes": {name: round(timed[name] / hash_seconds) for name in STEPS},
        }
    return {"hash_nanoseconds": round(hash_seconds * 1e9), "levels": rows}


def render(results: dict[str, Any]) -> str:
    """A table for people."""
    lines = [
        f"One double SHA-256 of 64 bytes: {results['hash_nanoseconds']} ns. Microseconds (hashes):",
        "",
        "levels transactions" + "".join(f"{name:>20}" for name in STEPS),
    ]
    for depth, row in results["levels"].items():
        cells = (f"{row['microseconds'][name]:,} ({row['hashes'][name]:,})" for name in STEPS)
        lines.append(f"{depth:>6} {row['transactions']:>12,}" + "".join(f"{cell:>20}" for cell in cells))
    job = results["levels"].get(str(WANTED_LEVELS), {}).get("microseconds", {}).get("job")
    if job is not None:
        lines += ["", f"Template to job with {WANTED_LEVELS} levels: {job:,} of {WANTED_JOB:,} microseconds wanted."]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write unless in a hurry."""
    quick = "--quick" in sys.argv
    results = report(QUICK_LEVELS, 0.02) if quick else report(tuple(LEVELS), 0.5)
    if not quick:
        file = Path(__file__).parent / "results" / "jobs.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1) if "--json" in sys.argv else render(results))


if __name__ == "__main__":
    main()
