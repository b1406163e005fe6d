"""Exports of the share log: Parquet that others can read, written once; sealed segments packed under their own hash."""

from __future__ import annotations

import importlib
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow.parquet
import pytest

from pool_oracle.errors import CorruptLog, InputError, LedgerError, SetupError
from pool_oracle.hashes import sha256, sha256d
from pool_oracle.ledger import export
from pool_oracle.ledger.export import ExportReport, export_log
from pool_oracle.ledger.packed import unpack_segment
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import replay, segment_files, segment_name
from pool_oracle.payout.payee import format_payee
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import S
from pool_oracle.work.records import SLOT_SIZE, ShareRecord, encode_share
from pool_oracle.work.share import StratumJob, display
from pool_oracle.work.targets import target_to_nbits
from tests.integration.synthetic_log import NETWORK_TARGET, RULES, LogWriter, job_payload, payee, write_log


def rows(target: Path, table: str) -> list[dict]:
    """All rows of a table, in the order of the segments."""
    return [
        row
        for path in sorted((target / table).glob("*.parquet"))
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]


def made(target: Path) -> dict[str, int]:
    """Which files there are, and when each was made."""
    return {str(path.relative_to(target)): path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}


def test_every_share_is_a_row_with_its_header_hash_its_payee_and_its_targets(tmp_path):
    log = write_log(tmp_path / "log", "ssScsHcns")
    report = export_log(log.folder, tmp_path / "out", RULES)
    assert report == ExportReport(written=4, kept=0, shares=6, packed=0)
    shares = [record for _, record in replay(log.folder) if isinstance(record, ShareRecord)]
    job = StratumJob.from_wire(job_payload(0))
    found = rows(tmp_path / "out", "shares")
    assert [row["hash"] for row in found] == [display(sha256d(share.header(job))) for share in shares]
    assert [row["sequence"] for row in found] == list(range(6))
    assert [row["segment"] for row in found] == [0, 0, 0, 1, 1, 3]
    assert [row["payee"] for row in found] == [format_payee(payee(share.worker % 5)) for share in shares]
    first = found[0]
    assert (first["worker"], first["worker_name"], first["job"], first["height"]) == (0, "rig 0", 0, 100)
    assert (first["share_target"], first["network_target"]) == (f"0x{1 << 246:064x}", f"0x{NETWORK_TARGET:064x}")
    assert (first["unit"], first["t"], first["work"]) == (S // 1024, Decimal(S // 1024), Decimal(1023))
    assert int(first["time"].timestamp() * 10**6) == shares[0].time
    assert (first["extranonce1"], first["nonce"], first["ntime"]) == ("01010101", 0, 1)
    assert found[-1]["t"] == Decimal(log.window.t)


def test_epochs_and_leaves_are_those_of_the_closes(tmp_path):
    log = write_log(tmp_path / "log", "sSsc" * 3 + "s")
    export_log(log.folder, tmp_path / "out", RULES)
    epochs = rows(tmp_path / "out", "epochs")
    assert [row["epoch"] for row in epochs] == [1, 2, 3]
    assert [row["root"] for row in epochs] == [f"0x{SumTree(log.weights[n].items()).root.hex()}" for n in (1, 2, 3)]
    assert [(row["first_share"], row["closing_share"]) for row in epochs] == [(0, 2), (0, 5), (0, 8)]
    leaves = rows(tmp_path / "out", "leaves")
    for n, weights in log.weights.items():
        assert [(row["payee"], row["weight"]) for row in leaves if row["epoch"] == n] == [
            (format_payee(who), weight) for who, weight in sorted(weights.items())
        ]


def test_duckdb_reads_all_segments_as_one_table_and_sums_without_loss(tmp_path):
    log = LogWriter(tmp_path / "log")
    for i in range(300):
        log.share(i % 4, bits=target_to_nbits(1 << 160))
        if i % 100 == 99:
            log.close()
    log.finish()
    export_log(log.folder, tmp_path / "out", RULES)
    shares, leaves = (f"'{tmp_path}/out/{table}/*.parquet'" for table in ("shares", "leaves"))
    sums = duckdb.sql(f"SELECT count(*), sum(unit), max(t) FROM {shares}").fetchall()  # noqa: S608
    assert sums == [(300, 300 * S, Decimal(300 * S))]
    weights = duckdb.sql(f"SELECT sum(weight) FROM {leaves} GROUP BY epoch").fetchall()  # noqa: S608
    assert weights == [(2 * S,)] * 3


# Once is enough


def test_what_was_exported_is_not_written_again(tmp_path):
    log = write_log(tmp_path / "log", "ssc" * 4 + "s")
    export_log(log.folder, tmp_path / "out", RULES)
    before = made(tmp_path / "out")
    assert export_log(log.folder, tmp_path / "out", RULES) == ExportReport(written=0, kept=5, shares=0, packed=0)
    assert made(tmp_path / "out") == before


def test_only_new_segments_and_the_one_that_grew_are_written(tmp_path):
    whole = write_log(tmp_path / "whole", "Hc" * 9 + "ssc")
    folder, target = tmp_path / "log", tmp_path / "out"
    folder.mkdir()
    for path in segment_files(whole.folder)[:6]:
        (folder / path.name).write_bytes(path.read_bytes())
    cut = folder / segment_name(5)
    cut.write_bytes(cut.read_bytes()[: -6 * SLOT_SIZE])  # without the close, which takes six slots
    export_log(folder, target, RULES)
    before = made(target)
    for path in segment_files(whole.folder):
        (folder / path.name).write_bytes(path.read_bytes())
    assert export_log(folder, target, RULES) == ExportReport(written=6, kept=5, shares=6, packed=0)
    after = made(target)
    assert {name for name in before if after[name] == before[name]} == {
        f"{table}/{i:08d}.parquet" for table in ("shares", "epochs", "leaves") for i in range(5)
    }
    export_log(whole.folder, tmp_path / "anew", RULES)
    for table in ("shares", "epochs", "leaves"):
        assert rows(target, table) == rows(tmp_path / "anew", table)


def test_an_export_that_was_cut_off_goes_on_where_it_ended(tmp_path, monkeypatch):
    log = write_log(tmp_path / "log", "ssc" * 4)
    target = tmp_path / "out"
    closed = export.SegmentRows.close
    left = iter(range(2))

    def dying(rows):
        if next(left, None) is None:
            raise KeyboardInterrupt
        closed(rows)

    monkeypatch.setattr(export.SegmentRows, "close", dying)
    with pytest.raises(KeyboardInterrupt):
        export_log(log.folder, target, RULES)
    monkeypatch.undo()
    assert export_log(log.folder, target, RULES) == ExportReport(written=3, kept=2, shares=4, packed=0)
    assert len(rows(target, "shares")) == 8


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"no parquet at all"])
def test_a_file_that_is_damaged_or_gone_is_written_again(tmp_path, damage):
    log = write_log(tmp_path / "log", "ssc" * 3)
    export_log(log.folder, tmp_path / "out", RULES)
    good = rows(tmp_path / "out", "leaves")
    (tmp_path / "out" / "shares" / "00000002.parquet").unlink()
    (tmp_path / "out" / "leaves" / "00000001.parquet").write_bytes(damage)
    assert export_log(log.folder, tmp_path / "out", RULES).written == 2
    assert rows(tmp_path / "out", "leaves") == good


def test_another_policy_makes_another_export(tmp_path):
    log = write_log(tmp_path / "log", "ss")
    export_log(log.folder, tmp_path / "out", RULES)
    assert export_log(log.folder, tmp_path / "out", Rules(2, NETWORK_TARGET << 1)).written == 1
    assert [row["unit"] for row in rows(tmp_path / "out", "shares")] == [S // 512] * 2


def test_the_export_of_a_longer_log_is_left_alone(tmp_path):
    export_log(write_log(tmp_path / "long", "sc" * 3).folder, tmp_path / "out", RULES)
    before = made(tmp_path / "out")
    with pytest.raises(InputError, match="the export of another log; give an empty folder"):
        export_log(write_log(tmp_path / "short", "sc").folder, tmp_path / "out", RULES)
    assert made(tmp_path / "out") == before


def test_a_log_whose_last_segment_is_torn_is_exported_up_to_there(tmp_path):
    log = write_log(tmp_path / "log", "ssc")
    path = log.folder / segment_name(1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert export_log(log.folder, tmp_path / "out", RULES).written == 1
    path.write_bytes(whole + encode_share(ShareRecord(2, 0, b"", b"", 0, 0, 0, 0, 0, 0))[:-1])
    assert export_log(log.folder, tmp_path / "out", RULES) == ExportReport(written=1, kept=1, shares=0, packed=0)
    assert len(rows(tmp_path / "out", "shares")) == 2


def test_a_damaged_log_is_not_exported(tmp_path):
    log = write_log(tmp_path / "log", "sscs")
    path = log.folder / segment_name(0)
    data = bytearray(path.read_bytes())
    data[SLOT_SIZE] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptLog, match=r"shares-00000000\.log: the slot at offset 64 is damaged"):
        export_log(log.folder, tmp_path / "out", RULES)


def test_a_number_that_no_column_can_hold_is_an_error_that_names_the_segment(tmp_path):
    log = LogWriter(tmp_path / "log")
    log.share(bits=0x01010000)  # a target of 1: 2^255 hashes
    log.finish()
    with pytest.raises(LedgerError, match=r"shares-00000000\.log holds a number that has no room"):
        export_log(log.folder, tmp_path / "out", RULES)


def test_a_missing_library_is_named_with_how_to_get_it(tmp_path, monkeypatch):
    log = write_log(tmp_path / "log", "sc")
    load = importlib.import_module

    def without(wanted: str):
        if wanted.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError(wanted)
        return load(wanted)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(SetupError, match=r"pyarrow is missing, .*pip install 'pool-oracle\[export\]'"):
        export_log(log.folder, tmp_path / "out", RULES, packed=True)


# Packed segments


def test_sealed_segments_are_packed_under_the_hash_of_what_is_inside(tmp_path):
    log = write_log(tmp_path / "log", "s" * 200 + "csns")
    report = export_log(log.folder, tmp_path / "out", RULES, packed=True)
    *sealed, growing = segment_files(log.folder)
    packed = {path.stem: path for path in (tmp_path / "out" / "segments").iterdir()}
    assert report.packed == len(sealed) == 2
    assert set(packed) == {sha256(path.read_bytes()).hex() for path in sealed}
    for path in sealed:
        place = packed[sha256(path.read_bytes()).hex()]
        assert unpack_segment(place) == path.read_bytes()
        assert place.stat().st_size < path.stat().st_size
    assert sha256(growing.read_bytes()).hex() not in packed


def test_a_last_segment_that_ends_with_a_close_is_sealed(tmp_path):
    log = write_log(tmp_path / "log", "ssc")
    (log.folder / segment_name(1)).unlink()
    assert export_log(log.folder, tmp_path / "out", RULES, packed=True).packed == 1
