"""Lies of an operator, each told on honestly made bundles, each caught and named by the audit."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pool_oracle.audit.bundles import AuditReport, BundleAudit
from pool_oracle.hashes import sha256
from pool_oracle.ledger.bundle import bundle_folder, read_leaves, read_manifest
from pool_oracle.ledger.sharelog import segment_digest, segment_files
from pool_oracle.logbook import EpochClose
from pool_oracle.payout.commitment import epoch_commitment
from pool_oracle.payout.manifest import PROTOCOL_VERSION, Manifest, Policy, SegmentRef, canonical_json
from pool_oracle.payout.payee import format_payee, payee_of_account
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import S
from pool_oracle.pool import Commitment
from pool_oracle.work.records import (
    KIND_JOB,
    KIND_WORKER,
    LongRecord,
    SegmentHeader,
    ShareRecord,
    encode_header,
    encode_long,
    encode_share,
    read_records,
)
from pool_oracle.work.targets import nbits_to_target, target_to_nbits

ALICE = payee_of_account(b"\xa1" * 20)
BOB = payee_of_account(b"\xb2" * 20)
THIEF = payee_of_account(b"\xcc" * 20)
DISTRIBUTOR = b"\xdd" * 20
POLICY = Policy("pplns", 2, 0, str(S), format_payee(ALICE), f"0x{1 << 248:064x}")
EPOCHS = 3


def manifest_of(
    number: int, previous: str | None, tree: SumTree, close: EpochClose | None, refs: tuple[SegmentRef, ...]
) -> Manifest:
    return Manifest(
        version=PROTOCOL_VERSION,
        pool="test",
        network="regtest",
        chain_id=1,
        distributor=f"0x{DISTRIBUTOR.hex()}",
        route="flyover",
        epoch=number,
        previous=previous,
        policy=POLICY,
        closing_share=close.closing_share if close else None,
        closing_t=str(close.t if close else 0),
        first_share=close.first_share if close else None,
        segments=refs,
        leaves=len(tree),
        total=str(tree.total),
        root=f"0x{tree.root.hex()}",
        tip="",
        tip_height=0,
    )


def publish(root: Path, manifest: Manifest, tree: SumTree, segments: list[Path]) -> bytes:
    folder = bundle_folder(root, manifest.epoch)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    (folder / "leaves.json").write_bytes(canonical_json([[format_payee(p), str(w)] for p, w in tree.leaves]))
    for segment in segments:
        shutil.copyfile(segment, folder / segment.name)
    return manifest.hash()


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, rig_at: Callable[[Path], Any]) -> Path:
    """Bundles of epochs 0 to 3, made by a real pool from real shares."""
    folder = tmp_path_factory.mktemp("honest")
    bundles = folder / "bundles"

    async def work() -> None:
        async with rig_at(folder) as r:
            tree = SumTree([(ALICE, 1)])
            digest = publish(bundles, manifest_of(0, None, tree, None, ()), tree, [])
            for number in range(1, EPOCHS + 1):
                carried = epoch_commitment(1, DISTRIBUTOR, tree.root, digest)
                await r.pool.set_commitment(Commitment(number - 1, carried, b"\x51"))
                await r.mine(14, ALICE)
                await r.mine(7, BOB)
                close = r.pool.close_epoch("", 0, 0)
                await r.log.flush()
                tree = SumTree(r.pool.weights_of(number).items())
                segments = [path for path in segment_files(r.log.folder) if path.stat().st_size]
                refs = tuple(
                    SegmentRef(path.name, f"0x{d.hex()}", size, 21 * i)
                    for i, path in enumerate(segments)
                    for d, size in [segment_digest(path)]
                )
                manifest = manifest_of(number, f"0x{digest.hex()}", tree, close, refs)
                digest = publish(bundles, manifest, tree, segments)

    asyncio.run(work())
    return bundles


@pytest.fixture
def bundles(honest: Path, tmp_path: Path) -> Path:
    """A copy of the honest bundles, to lie in."""
    return Path(shutil.copytree(honest, tmp_path / "bundles"))


def audit(bundles: Path) -> AuditReport:
    return BundleAudit(bundles).run()


def found(report: AuditReport) -> set[str]:
    return {finding.what for finding in report.findings}


def change_manifest(bundles: Path, epoch: int, **changes: Any) -> None:
    """Rewrite a manifest and, as a lying operator would, mend the chain of the later ones."""
    for number in range(epoch, EPOCHS + 1):
        folder = bundle_folder(bundles, number)
        manifest, _ = read_manifest(folder)
        if number == epoch:
            manifest = replace(manifest, **changes)
        else:
            _, before = read_manifest(bundle_folder(bundles, number - 1))
            manifest = replace(manifest, previous=f"0x{before.hex()}")
        (folder / "manifest.json").write_bytes(manifest.to_bytes())


def change_leaves(bundles: Path, epoch: int, change: Callable[[dict[Any, int]], None]) -> None:
    """Rewrite the leaves, with root, count and total that fit."""
    folder = bundle_folder(bundles, epoch)
    leaves = dict(read_leaves(folder))
    change(leaves)
    tree = SumTree(leaves.items())
    (folder / "leaves.json").write_bytes(canonical_json([[format_payee(p), str(w)] for p, w in tree.leaves]))
    root, total = f"0x{tree.root.hex()}", str(tree.total)
    change_manifest(bundles, epoch, root=root, total=total, leaves=len(tree))


def rewrite_segment(bundles: Path, epoch: int, change: Callable[[list[Any]], list[Any]]) -> None:
    """Rewrite the epoch's last segment, record by record, with a hash that fits."""
    folder = bundle_folder(bundles, epoch)
    manifest, _ = read_manifest(folder)
    path = folder / manifest.segments[-1].name
    records = change([record for _, record in read_records(path.read_bytes(), path.name)])
    data = b"".join(encoded(record) for record in records)
    path.write_bytes(data)
    last = replace(manifest.segments[-1], sha256=f"0x{sha256(data).hex()}", length=len(data))
    change_manifest(bundles, epoch, segments=(*manifest.segments[:-1], last))


def encoded(record: Any) -> bytes:
    if isinstance(record, SegmentHeader):
        return encode_header(record)
    if isinstance(record, ShareRecord):
        return encode_share(record)
    assert isinstance(record, LongRecord)
    return encode_long(record.kind, record.payload)


def changed_share(records: list[Any], change: Callable[[ShareRecord], ShareRecord]) -> list[Any]:
    """The records with their third share changed."""
    place = [i for i, record in enumerate(records) if isinstance(record, ShareRecord)][2]
    return [change(record) if i == place else record for i, record in enumerate(records)]


def test_honest_bundles_pass(honest: Path) -> None:
    report = audit(honest)
    assert report.findings == []
    assert report.passed
    assert [epoch.epoch for epoch in report.epochs] == [0, 1, 2, 3]
    assert report.shares == 21 + 42 + 63
    assert json.loads(json.dumps(report.to_json()))["verdict"] == "PASS"


def test_a_weight_raised_with_another_lowered_is_found(bundles: Path) -> None:
    def shift(leaves: dict[Any, int]) -> None:
        leaves[ALICE] += 5
        leaves[BOB] -= 5

    change_leaves(bundles, 3, shift)
    assert found(audit(bundles)) == {f"weight of {format_payee(ALICE)}", f"weight of {format_payee(BOB)}"}


def test_a_leaf_added_and_a_leaf_left_out_are_found(bundles: Path) -> None:
    change_leaves(bundles, 3, lambda leaves: leaves.update({THIEF: 9}))
    assert f"weight of {format_payee(THIEF)}" in found(audit(bundles))
    change_leaves(bundles, 2, lambda leaves: leaves.pop(BOB))
    assert f"weight of {format_payee(BOB)}" in found(audit(bundles))


def test_a_root_that_is_not_the_leaves_is_found(bundles: Path) -> None:
    change_manifest(bundles, 3, root="0x" + "11" * 32)
    assert "root of the leaves" in found(audit(bundles))


def test_a_share_without_work_is_found(bundles: Path) -> None:
    def spoil(records: list[Any]) -> list[Any]:
        """Other nonces for all 21 shares of the segment: one in sixteen may have work by chance, not all."""
        return [r._replace(nonce=r.nonce ^ 0x5A5A5A) if isinstance(r, ShareRecord) else r for r in records]

    rewrite_segment(bundles, 3, spoil)
    assert "proof of work" in found(audit(bundles))


def test_a_target_made_harder_than_it_was_is_found(bundles: Path) -> None:
    """A harder target would give the share more weight."""
    harder = target_to_nbits(nbits_to_target(0x2010_0000) >> 6)
    rewrite_segment(bundles, 3, lambda rs: changed_share(rs, lambda share: share._replace(share_bits=harder)))
    assert found(audit(bundles)) & {"proof of work", "T at the close"}


def test_a_share_counted_twice_is_found(bundles: Path) -> None:
    def double(records: list[Any]) -> list[Any]:
        shares = [record for record in records if isinstance(record, ShareRecord)]
        return changed_share(records, lambda share: shares[0]._replace(sequence=share.sequence))

    rewrite_segment(bundles, 3, double)
    assert "share counted once" in found(audit(bundles))


def test_a_share_left_out_is_found(bundles: Path) -> None:
    def drop(records: list[Any]) -> list[Any]:
        place = [i for i, record in enumerate(records) if isinstance(record, ShareRecord)][2]
        return records[:place] + records[place + 1 :]

    rewrite_segment(bundles, 3, drop)
    assert "where share" in str(audit(bundles).findings[0])


def test_a_share_credited_to_another_payee_is_found(bundles: Path) -> None:
    def credit(records: list[Any]) -> list[Any]:
        return [
            replace(record, payload=record.payload | {"payee": format_payee(THIEF)})
            if isinstance(record, LongRecord) and record.kind == KIND_WORKER and record.payload["worker"] == 1
            else record
            for record in records
        ]

    rewrite_segment(bundles, 1, credit)
    assert f"weight of {format_payee(THIEF)}" in found(audit(bundles))
    rewrite_segment(bundles, 3, credit)
    assert "worker defined again" in found(audit(bundles))


def test_a_job_defined_a_second_time_with_another_coinbase_is_found(bundles: Path) -> None:
    """Otherwise only the first definition's coinbase would be looked at."""

    def redefine(records: list[Any]) -> list[Any]:
        last = max(i for i, record in enumerate(records) if isinstance(record, ShareRecord))
        job = next(r for r in records if isinstance(r, LongRecord) and r.kind == KIND_JOB)
        other = replace(job, payload=job.payload | {"coinb2": job.payload["coinb2"].replace("504f5243", "00000000")})
        return [*records[:last], other, *records[last:]]

    rewrite_segment(bundles, 3, redefine)
    assert "job defined again" in found(audit(bundles))


def test_extranonces_that_reach_into_the_outputs_are_found(bundles: Path) -> None:
    """Otherwise each share could have a coinbase that pays somebody else."""

    def move(records: list[Any]) -> list[Any]:
        moved = []
        for record in records:
            if isinstance(record, LongRecord) and record.kind == KIND_JOB:
                whole = record.payload["coinb1"] + "00" * 12 + record.payload["coinb2"]
                parts = {"coinb1": whole[:-60], "coinb2": whole[-36:]}
                moved.append(replace(record, payload=record.payload | parts))
            else:
                moved.append(record)
        return moved

    rewrite_segment(bundles, 1, move)
    assert "do not stand inside the coinbase's scriptSig" in str(audit(bundles).findings[0])


def test_leaves_out_of_order_and_a_segment_that_begins_elsewhere_are_found(bundles: Path) -> None:
    folder = bundle_folder(bundles, 3)
    rows = json.loads((folder / "leaves.json").read_text())
    (folder / "leaves.json").write_bytes(canonical_json(rows[::-1]))
    assert found(audit(bundles)) == {"leaves in ascending order"}
    manifest, _ = read_manifest(bundle_folder(bundles, 2))
    change_manifest(bundles, 2, segments=tuple(replace(s, first=s.first + 1) for s in manifest.segments))
    assert "first share of the segment" in found(audit(bundles))


def test_a_job_with_another_coinbase_is_found(bundles: Path) -> None:
    def divert(records: list[Any]) -> list[Any]:
        return [
            replace(
                record, payload=record.payload | {"coinb2": record.payload["coinb2"].replace("504f5243", "504f5244")}
            )
            if isinstance(record, LongRecord) and record.kind == KIND_JOB
            else record
            for record in records
        ]

    rewrite_segment(bundles, 3, divert)
    assert {"commitment in the coinbase", "proof of work"} <= found(audit(bundles))


def test_a_window_shifted_by_one_share_is_found(bundles: Path) -> None:
    manifest, _ = read_manifest(bundle_folder(bundles, 3))
    change_manifest(bundles, 3, first_share=(manifest.first_share or 0) + 1)
    assert found(audit(bundles)) == {"first share that is paid"}


def test_a_window_size_changed_silently_is_found(bundles: Path) -> None:
    change_manifest(bundles, 3, policy=replace(POLICY, window=1))
    assert "policy in the log" in found(audit(bundles))


def test_an_epoch_that_is_skipped_is_found(bundles: Path) -> None:
    shutil.rmtree(bundle_folder(bundles, 2))
    assert {"epoch number", "previous manifest"} <= found(audit(bundles))


def test_a_bundle_that_does_not_match_its_hashes_is_found(bundles: Path) -> None:
    segment = next(bundle_folder(bundles, 3).glob("shares-*.log"))
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(bytes(data))
    assert "length or SHA-256" in str(audit(bundles).findings[0])
    segment.unlink()
    assert "cannot be read" in str(audit(bundles).findings[0])


def test_a_manifest_that_names_a_file_elsewhere_is_refused(bundles: Path) -> None:
    change_manifest(bundles, 3, segments=(SegmentRef("../../secret", "0x" + "00" * 32, 1, 0),))
    assert "outside the bundle" in str(audit(bundles).findings[0])


def test_a_running_sum_that_begins_elsewhere_is_found(bundles: Path) -> None:
    """A smaller T would make the window look unfilled, and its total smaller."""

    def lower(records: list[Any]) -> list[Any]:
        return [replace(records[0], t=records[0].t + 1), *records[1:]]

    rewrite_segment(bundles, 3, lower)
    assert "T at the segment's start" in found(audit(bundles))


def pack(bundles: Path) -> None:
    """Pack every segment, as a pool publishes it."""
    for segment in bundles.glob("epoch-*/shares-*.log"):
        segment.with_name(f"{segment.name}.zst").write_bytes(zstandard.compress(segment.read_bytes()))
        segment.unlink()


def test_packed_segments_are_audited_like_plain_ones(bundles: Path) -> None:
    plain = audit(bundles)
    pack(bundles)
    assert audit(bundles).to_json() == plain.to_json()
    assert plain.passed


def test_a_packed_segment_that_holds_more_than_the_manifest_says_is_found(bundles: Path) -> None:
    pack(bundles)
    segment = next(bundle_folder(bundles, 3).glob("shares-*.zst"))
    segment.write_bytes(zstandard.compress(bytes(1 << 26)))
    (finding, *_) = audit(bundles).findings
    assert finding.what == "bundle cannot be read"
    assert f"epoch-000003/{segment.name}: holds more than" in finding.found
