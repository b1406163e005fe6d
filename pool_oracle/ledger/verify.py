"""The check of a whole share log: every rule of protocol.md, "Share log", and the bundles that were made of it.

Reading goes on behind what is wrong where that can be, so that one look finds all of it: behind damage, with the next
segment. Proof of work is the auditor's matter.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pool_oracle.errors import CorruptLog, InputError
from pool_oracle.hashes import sha256
from pool_oracle.ledger.bundle import bundle_folder, bundle_folders, read_leaves, read_manifest
from pool_oracle.ledger.index.events import LoggedBlock, LoggedClose, ReadShare
from pool_oracle.ledger.index.meter import Meter, Progress
from pool_oracle.ledger.index.reading import LogReader, newest_segment
from pool_oracle.ledger.recovery import read_mark
from pool_oracle.ledger.rules import Rules
from pool_oracle.ledger.sharelog import segment_name


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. `offset` is where the record begins that is not as it must be; `segment` a file name."""

    segment: str
    offset: int
    problem: str


@dataclass(slots=True)
class VerifyReport:
    """What was read, and what is wrong.

    `segments` counts up to the newest. `t` is the sum of all units, a decimal string. `torn` counts bytes behind the
    last whole record: a pool that runs is writing them, or a crash left them, and the next start cuts them. `bundles`
    counts the epochs that were compared.
    """

    segments: int = 0
    bytes: int = 0
    shares: int = 0
    closes: int = 0
    blocks: int = 0
    bundles: int = 0
    t: str = "0"
    torn: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON value."""
        return {"verdict": "PASS" if self.passed else "FAIL"} | asdict(self)

    def __str__(self) -> str:
        lines = [finding.problem for finding in self.findings]
        if self.torn:
            lines.append(f"note: {self.torn} bytes behind the last record are not whole (being written, or torn)")
        verdict = "PASS" if self.passed else "FAIL"
        lines.append(
            f"{verdict}: {self.segments} segments, {self.shares} shares, {self.closes} closes "
            f"({self.bundles} compared with their bundles), {self.blocks} blocks"
        )
        return "\n".join(lines)


def verify_log(
    folder: Path, rules: Rules, *, bundles: Path | None = None, progress: Progress | None = None
) -> VerifyReport:
    """Read a log from its beginning and compare its closes with the bundles of a folder, where there are any."""
    return _Verification(folder, rules, bundles, progress).run()


class _Verification:
    """One run of the check."""

    def __init__(self, folder: Path, rules: Rules, bundles: Path | None, progress: Progress | None) -> None:
        self._folder = folder
        self._bundles = bundles
        self._report = VerifyReport()
        self._reader = LogReader(folder, rules, on_problem=self._find)
        self._meter = Meter(self._reader, progress)
        self._digests: dict[str, tuple[str, int]] = {}

    def run(self) -> VerifyReport:
        """Read everything."""
        report = self._report
        newest = newest_segment(self._folder)
        mark = read_mark(self._folder)
        published = bundle_folders(self._bundles) if self._bundles else []
        while self._reader.segment <= newest:
            try:
                self._read()
                break
            except CorruptLog as error:
                self._find(segment_name(self._reader.segment), self._reader.offset, str(error))
            self._reader.skip_to(self._reader.segment + 1)
        report.segments = newest + 1
        report.bytes = self._reader.consumed
        report.t = str(self._reader.scheme.t)
        report.torn = self._reader.torn
        if mark is not None:
            self._check_end(*mark)
        report.shares = self._meter.shares
        self._meter.tell()
        if report.passed:
            for bundle in published[report.closes + 1 :]:
                self._find(
                    segment_name(self._reader.segment), self._reader.offset, f"the log has no close for {bundle}"
                )
        return report

    def _read(self) -> None:
        report = self._report
        for event in self._reader.read():
            if isinstance(event, ReadShare):
                self._meter.count()
            elif isinstance(event, LoggedClose):
                report.closes += 1
                self._compare(event)
            elif isinstance(event, LoggedBlock):
                report.blocks += 1

    def _check_end(self, segment: str, size: int) -> None:
        """Find that less is there than was synced. What is wrong before the end has been found."""
        end = segment_name(self._reader.segment), self._reader.offset
        if self._report.passed and end < (segment, size):
            self._find(end[0], end[1], f"{end[0]}: ends at offset {end[1]}; {segment} was synced up to offset {size}")

    def _find(self, segment: str, offset: int, problem: str) -> None:
        self._report.findings.append(Finding(segment, offset, problem))

    def _compare(self, close: LoggedClose) -> None:
        """Compare a close with its bundle, if there is one."""
        if self._bundles is None:
            return
        bundle = bundle_folder(self._bundles, close.epoch)
        if not bundle.exists():
            return
        segment, offset = segment_name(close.segment), self._reader.offset
        try:
            manifest, _ = read_manifest(bundle)
            leaves = read_leaves(bundle)
        except InputError as error:
            self._find(segment, offset, str(error))
            return
        self._report.bundles += 1
        published = (manifest.closing_share, manifest.closing_t, manifest.first_share)
        if published != (close.closing_share, str(close.t), close.first_share):
            self._find(
                segment, offset, f"{segment}: the close at offset {offset} is not the one that {bundle} tells of"
            )
        if self._reader.is_trusted and leaves != sorted(close.weights.items()):
            text = f"the shares before offset {offset} make other weights than those in {bundle}"
            self._find(segment, offset, f"{segment}: {text}")
        for part in manifest.segments:
            if self._digest(part.name) != (part.sha256, part.length):
                text = f"from offset 0 on it is not the segment that {bundle} tells of (length or SHA-256)"
                self._find(part.name, 0, f"{part.name}: {text}")

    def _digest(self, name: str) -> tuple[str, int]:
        if name not in self._digests:
            try:
                data = (self._folder / Path(name).name).read_bytes()
            except OSError:
                data = b""
            self._digests[name] = f"0x{sha256(data).hex()}", len(data)
        return self._digests[name]
