"""`ledger verify`, `rebuild` and `export`: damage is named, and what is right says so."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pool_oracle import ledger_commands
from pool_oracle.errors import CorruptLog, InputError
from pool_oracle.ledger.bundle import MANIFEST_FILE, bundle_folder, write_bundle
from pool_oracle.ledger.index.database import sqlite_url
from pool_oracle.ledger.index.store import Index
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import segment_digest, segment_files, segment_name
from pool_oracle.ledger.verify import Finding, verify_log
from pool_oracle.ledger_commands import run_export, run_rebuild, run_verify
from pool_oracle.payout.manifest import Manifest, Policy, SegmentRef
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import S
from pool_oracle.work.records import (
    KIND_BLOCK_STATE,
    KIND_CLOSE,
    KIND_JOB,
    KIND_WORKER,
    SLOT_SIZE,
    SegmentHeader,
    ShareRecord,
    encode_header,
    encode_long,
    encode_share,
    read_records,
)
from tests.integration.synthetic_log import RULES, SMALL, LogWriter, job_payload, payee, worker_payload, write_log
from tests.integration.test_ledger_index import expected_digest


def damage(path: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def share_offsets(path: Path) -> list[int]:
    return [at for at, record in read_records(path.read_bytes(), path.name) if isinstance(record, ShareRecord)]


def share(sequence: int, *, job: int = 0, worker: int = 0, bits: int = SMALL) -> bytes:
    return encode_share(ShareRecord(sequence, job, b"\x01" * 4, b"\x02" * 8, 1, 0, 1, bits, worker, 1))


# verify


def test_a_pools_log_passes(rig, tmp_path):
    async def run() -> None:
        async with rig(window=2) as mined:
            await mined.mine(40)
            mined.pool.close_epoch("ab" * 32, 5, 1)
            await mined.mine(100, payee(1))
            mined.pool.close_epoch("ab" * 32, 6, 2)
            await mined.mine(3)
            rules = Rules(2, mined.pool.job.network_target)
        report = verify_log(mined.log.folder, rules)
        assert report.passed, str(report)
        assert (report.shares, report.closes, report.segments) == (143, 2, 3)
        assert (report.t, report.torn) == (str(mined.pool.scheme.t), 0)
        assert report.bytes == sum(path.stat().st_size for path in segment_files(mined.log.folder))

    asyncio.run(run())


def test_a_restarted_pools_log_passes(tmp_path):
    log = write_log(tmp_path, "ssrsSbrbscrsHHHHHHHHHcssbnsrs" * 2)
    report = verify_log(log.folder, RULES)
    assert report.passed, str(report)
    assert str(report).startswith("PASS: 7 segments, ")


def test_every_damaged_segment_is_named_with_its_offset_and_the_rest_is_read(tmp_path):
    log = write_log(tmp_path, "ssscsssnsss")
    paths = segment_files(log.folder)
    offsets = [share_offsets(path) for path in paths]
    damage(paths[0], offsets[0][1] + 30)
    damage(paths[2], offsets[2][1] + 63)
    report = verify_log(log.folder, RULES)
    assert [(finding.segment, finding.offset) for finding in report.findings] == [
        (paths[0].name, offsets[0][1]),
        (paths[2].name, offsets[2][1]),
    ]
    assert (
        report.findings[0].problem
        == f"{paths[0].name}: the slot at offset {offsets[0][1]} is damaged or cut (checksum)"
    )
    assert report.shares == 1 + 3 + 1


def test_a_torn_tail_is_a_note_and_no_failure(tmp_path):
    log = write_log(tmp_path, "sscss")
    path = segment_files(log.folder)[-1]
    path.write_bytes(path.read_bytes()[:-3])
    report = verify_log(log.folder, RULES)
    assert report.passed
    assert (report.shares, report.torn) == (3, SLOT_SIZE - 3)
    assert str(report).startswith("note: 61 bytes behind the last record are not whole")


@pytest.mark.parametrize("slot", range(16))
def test_one_changed_bit_in_any_slot_of_a_sealed_segment_is_found(tmp_path, slot):
    log = write_log(tmp_path, "ssbsc" + "s")
    path = segment_files(log.folder)[0]
    assert path.stat().st_size > 16 * SLOT_SIZE
    damage(path, slot * SLOT_SIZE + 7 * slot % SLOT_SIZE)
    report = verify_log(log.folder, RULES)
    (finding,) = report.findings
    assert finding.segment == path.name
    assert finding.offset <= slot * SLOT_SIZE
    assert f"offset {slot * SLOT_SIZE} " in finding.problem
    assert report.shares >= 1  # of the next segment


@pytest.mark.parametrize("missing", [1, SLOT_SIZE])
def test_the_end_of_a_sealed_segment_that_was_cut_off_is_found(tmp_path, missing):
    log = write_log(tmp_path, "sscs")
    path = segment_files(log.folder)[0]
    path.write_bytes(path.read_bytes()[:-missing])
    (finding,) = verify_log(log.folder, RULES).findings
    assert finding.segment == path.name
    assert "is damaged or cut" in finding.problem


def spoiled(folder: Path, spoil: Callable[[LogWriter], object]) -> list[str]:
    """What is found in a log of two shares, something wrong, and an epoch behind it."""
    log = LogWriter(folder)
    log.share(0)
    log.share(1)
    spoil(log)
    log.finish()
    return [finding.problem for finding in verify_log(folder, RULES).findings]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda log: log.write(share(3)), r"share 3 at offset \d+, where share 2 belongs"),
        (lambda log: log.write(share(1)), r"share 1 at offset \d+, where share 2 belongs"),
        (lambda log: log.write(share(2, job=9)), r"share 2 at offset \d+ points to job 9, which its segment"),
        (lambda log: log.write(share(2, worker=9)), r"share 2 at offset \d+ points to worker 9, which its segment"),
        (lambda log: log.write(share(2, bits=0)), r"share 2 at offset \d+: nbits 00000000 stand for a target of zero"),
        (lambda log: log.write(encode_header(SegmentHeader(0, 2, 0, 0))), r"a segment header at offset \d+"),
        (
            lambda log: log.write(encode_long(KIND_JOB, job_payload(0) | {"coinb1": "00"})),
            r"job 0 at offset \d+ is not the one that it was before",
        ),
        (
            lambda log: log.write(encode_long(KIND_WORKER, worker_payload(1) | {"name": "me"})),
            r"worker 1 at offset \d+ is not who it was before",
        ),
        (lambda log: log.write(encode_long(KIND_JOB, {"job": 3})), r"record at offset \d+ is not one of kind 3"),
        (lambda log: log.write(encode_long(KIND_WORKER, {"worker": []})), r"record at offset \d+ is not one of kind 4"),
        (lambda log: log.close(epoch=2), r"the close of epoch 2 at offset \d+ has number 2; it should be 1"),
        (lambda log: log.close(t="5"), r"close of epoch 1 at offset \d+ has T 5; it should be 140737488355328"),
        (lambda log: log.close(firstShare=1), r"has first share 1; it should be 0"),
        (lambda log: log.close(closingShare=2), r"has closing share 2; it should be 1"),
        (lambda log: log.close(t="T"), r"record at offset \d+ is not one of kind 5"),
        (
            lambda log: [log.write(encode_long(KIND_CLOSE, log.close_payload())), log.share(0)],
            r"a record at offset \d+, behind the close",
        ),
        (
            lambda log: log.state(b"\x07" * 32, "best"),
            r"a state of block (07){32} at offset \d+, which was never found",
        ),
        (lambda log: log.write(encode_long(KIND_BLOCK_STATE, {"block": "xy"})), r"offset \d+ is not one of kind 8"),
    ],
)
def test_what_breaks_a_rule_is_named(tmp_path, spoil, problem):
    (found,) = spoiled(tmp_path, spoil)
    with pytest.raises(CorruptLog, match=r"shares-00000000\.log: .*" + problem):
        raise CorruptLog(found)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (SegmentHeader(1, 3, S // 512, 0), "begins with share 3, where 2 belongs"),
        (SegmentHeader(1, 2, 17, 0), f"T is 17 at its start .offset 0., and {S // 512} by the shares before"),
        (SegmentHeader(2, 2, S // 512, 0), "says at offset 0 that it is segment 2"),
    ],
)
def test_a_segment_that_does_not_go_on_from_the_one_before_is_named_and_read(tmp_path, header, problem):
    log = write_log(tmp_path, "ss")
    data = encode_header(header) + encode_long(KIND_JOB, job_payload(0)) + encode_long(KIND_WORKER, worker_payload(0))
    (log.folder / segment_name(1)).write_bytes(data + share(header.first_sequence))
    report = verify_log(log.folder, RULES)
    with pytest.raises(CorruptLog, match=r"shares-00000001\.log: " + problem):
        raise CorruptLog(report.findings[0].problem)
    assert len(report.findings) == 1
    assert report.shares == 3


@pytest.mark.parametrize("lacking", ["job", "worker"])
def test_each_segment_has_to_define_its_jobs_and_workers_itself(tmp_path, lacking):
    log = write_log(tmp_path, "ssc")
    path = segment_files(log.folder)[1]
    others = {"job": encode_long(KIND_WORKER, worker_payload(0)), "worker": encode_long(KIND_JOB, job_payload(0))}
    path.write_bytes(path.read_bytes() + others[lacking] + share(2))
    (finding,) = verify_log(log.folder, RULES).findings
    assert f"points to {lacking} 0, which its segment does not define" in finding.problem


def test_an_empty_segment_before_the_last_is_named(tmp_path):
    log = write_log(tmp_path, "sns")
    (log.folder / segment_name(0)).write_bytes(b"")
    (finding,) = verify_log(log.folder, RULES).findings
    problem = "shares-00000000.log: is empty, from offset 0 on, and not the last segment"
    assert finding == Finding("shares-00000000.log", 0, problem)


def test_a_missing_segment_is_named_and_what_is_behind_it_is_read(tmp_path):
    log = write_log(tmp_path, "sscsscscs")
    (log.folder / segment_name(1)).unlink()
    damage(log.folder / segment_name(3), 64)
    report = verify_log(log.folder, RULES)
    assert [(finding.segment, finding.offset) for finding in report.findings] == [
        ("shares-00000001.log", 0),
        ("shares-00000003.log", 64),
    ]
    assert "shares-00000001.log: is missing" in str(report)
    assert (report.segments, report.shares) == (4, 3)


def test_closes_behind_damage_are_compared_again_once_the_window_has_run_over(tmp_path):
    log = LogWriter(tmp_path)
    for close in range(6):
        for _ in range(3):
            log.share(1, bits=0x1E200000)  # half a block's work
        changes = {3: {"firstShare": 1}}.get(close, {})
        log.close(**changes)
    log.finish()
    damage(segment_files(tmp_path)[0], 5)
    first, second = verify_log(tmp_path, RULES).findings
    assert (first.segment, second.segment) == (segment_name(0), segment_name(3))
    assert "has first share 1; it should be 8" in second.problem


def test_an_empty_log_passes(tmp_path):
    report = verify_log(tmp_path, RULES)
    assert report.passed
    assert report.to_json()["verdict"] == "PASS"


def test_the_report_is_json_with_its_findings(tmp_path):
    log = write_log(tmp_path, "sscs")
    damage(segment_files(log.folder)[0], 100)
    value = json.loads(json.dumps(run_verify(log.folder, RULES, None).to_json()))
    assert value["verdict"] == "FAIL"
    assert value["findings"] == [
        {
            "segment": "shares-00000000.log",
            "offset": 64,
            "problem": "shares-00000000.log: the slot at offset 64 is damaged or cut (checksum)",
        }
    ]


# verify: bundles


def publish(log: LogWriter, root: Path, epoch: int) -> None:
    """The bundle of an epoch whose window reaches back to the log's beginning."""
    segments = segment_files(log.folder)[:epoch]
    tree = SumTree(log.weights[epoch].items())
    closes = [
        record.payload
        for path in segments
        for _, record in read_records(path.read_bytes(), path.name)
        if getattr(record, "kind", None) == KIND_CLOSE
    ]
    manifest = Manifest(
        version=1,
        pool="pool",
        network="regtest",
        chain_id=1,
        distributor="0x" + "11" * 20,
        route="deposit",
        epoch=epoch,
        previous=None,
        policy=Policy("pplns", 2, 0, str(S), "0x00" + "11" * 20, None),
        closing_share=closes[-1]["closingShare"],
        closing_t=closes[-1]["t"],
        first_share=closes[-1]["firstShare"],
        segments=tuple(
            SegmentRef(path.name, f"0x{segment_digest(path)[0].hex()}", segment_digest(path)[1], 0) for path in segments
        ),
        leaves=len(tree),
        total=str(tree.total),
        root=f"0x{tree.root.hex()}",
        tip="",
        tip_height=0,
    )
    write_bundle(root, epoch, manifest.to_bytes(), tree.leaves, [])


@pytest.fixture
def published(tmp_path: Path) -> tuple[LogWriter, Path]:
    """A log of three epochs, and the bundles of two."""
    log = write_log(tmp_path / "shares", "sSscssSbcssc")
    for epoch in (1, 2):
        publish(log, tmp_path / "bundles", epoch)
    return log, tmp_path / "bundles"


def test_closes_are_compared_with_their_bundles(published):
    log, bundles = published
    report = run_verify(log.folder, RULES, bundles)
    assert report.passed, str(report)
    assert (report.closes, report.bundles) == (3, 2)
    assert "3 closes (2 compared with their bundles)" in str(report)


def test_other_weights_than_those_published_are_found(published):
    log, bundles = published
    log.weights[2][payee(0)] += 1
    log.weights[2][payee(1)] -= 1
    (bundle_folder(bundles, 2) / MANIFEST_FILE).unlink()
    (bundle_folder(bundles, 2) / "leaves.json").unlink()
    bundle_folder(bundles, 2).rmdir()
    publish(log, bundles, 2)
    (finding,) = run_verify(log.folder, RULES, bundles).findings
    assert finding.segment == segment_name(1)
    assert "make other weights than those in" in finding.problem


def test_a_sealed_segment_that_is_not_the_one_published_is_found(published):
    log, bundles = published
    path = segment_files(log.folder)[0]
    data = bytearray(path.read_bytes())
    at = share_offsets(path)[0]
    data[at : at + SLOT_SIZE] = share(0)  # whole and in order, but not the share that was
    path.write_bytes(data)
    findings = run_verify(log.folder, RULES, bundles).findings
    assert {finding.segment for finding in findings} == {path.name}
    assert all("it is not the segment that" in finding.problem for finding in findings)


def test_weights_are_not_compared_where_damage_took_shares_of_their_window(published):
    log, bundles = published
    damage(segment_files(log.folder)[0], 64)
    damaged, *others = run_verify(log.folder, RULES, bundles).findings
    assert "the slot at offset 64 is damaged" in damaged.problem
    assert {finding.segment for finding in others} == {segment_name(0)}
    assert all("it is not the segment that" in finding.problem for finding in others)


def test_a_bundle_that_cannot_be_read_or_tells_of_another_close_is_found(published):
    log, bundles = published
    (bundle_folder(bundles, 1) / MANIFEST_FILE).write_bytes(b"{}")
    bundle_folder(bundles, 2).rename(bundle_folder(bundles, 3))
    problems = [finding.problem for finding in run_verify(log.folder, RULES, bundles).findings]
    assert any("Manifest: these fields are missing" in problem for problem in problems)
    assert any("the close at offset" in problem and "is not the one that" in problem for problem in problems)


def test_a_bundle_without_a_close_is_found(published):
    log, bundles = published
    shorter = write_log(log.folder.parent / "shorter", "sSsc")
    bundle_folder(bundles, 0).mkdir()
    problems = [finding.problem for finding in run_verify(shorter.folder, RULES, bundles).findings]
    assert len(problems) == 1
    assert "the log has no close for" in problems[0]


# rebuild and export


def test_rebuild_drops_the_index_and_fills_it_from_the_log(tmp_path):
    log = write_log(tmp_path / "shares", "sSbsc" * 3)
    url = sqlite_url(tmp_path / "index.sqlite")
    with Index(url) as index:
        index.fill(write_log(tmp_path / "other", "HHcH").folder, RULES)
    facts = run_rebuild(log.folder, RULES, url)
    assert facts == run_rebuild(log.folder, RULES, url)
    assert facts["digest"] == f"0x{expected_digest(log.folder).hex()}"
    assert (facts["shares"], facts["epochs"], facts["blocks"], facts["t"]) == (9, 3, 3, str(log.window.t))
    json.dumps(facts)


def test_rebuild_refuses_a_damaged_log_and_goes_on_once_it_is_whole(tmp_path):
    log = write_log(tmp_path / "shares", "sscsss")
    path = segment_files(log.folder)[0]
    damage(path, 70)
    with pytest.raises(CorruptLog, match=r"shares-00000000\.log: the slot at offset 64"):
        run_rebuild(log.folder, RULES, sqlite_url(tmp_path / "index.sqlite"))
    damage(path, 70)
    with Index(sqlite_url(tmp_path / "index.sqlite")) as index:
        index.fill(log.folder, RULES)
        assert index.digest() == expected_digest(log.folder)


def test_export_says_what_it_wrote(tmp_path):
    log = write_log(tmp_path / "shares", "sscs")
    facts = run_export(log.folder, RULES, tmp_path / "out", packed=True)
    assert facts == {"folder": str(tmp_path / "out"), "written": 2, "kept": 0, "shares": 3, "packed": 1}
    assert run_export(log.folder, RULES, tmp_path / "out", packed=True)["kept"] == 2


@pytest.mark.parametrize("command", ["verify", "rebuild", "export"])
def test_a_folder_that_is_not_there_is_named(tmp_path, command):
    run = {
        "verify": lambda folder: run_verify(folder, RULES, None),
        "rebuild": lambda folder: run_rebuild(folder, RULES, sqlite_url(tmp_path / "index.sqlite")),
        "export": lambda folder: run_export(folder, RULES, tmp_path / "out", packed=False),
    }[command]
    with pytest.raises(InputError, match="nowhere holds no share log"):
        run(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_progress_is_shown_in_shares_a_second(tmp_path, monkeypatch):
    log = LogWriter(tmp_path)
    for i in range(6000):
        log.share(i % 2)
    log.finish()
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(ledger_commands, "Console", lambda stderr: console)
    run_verify(tmp_path, RULES, None)
    assert "6,000 shares, " in screen.getvalue()
    assert " a second" in screen.getvalue()
