"""What a user is shown and asked, on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console

from pool_oracle import terminal
from pool_oracle.claims.relaying import RelayPolicy
from pool_oracle.claims.showing import percent
from pool_oracle.errors import InputError
from pool_oracle.terminal import confirm, progress, write_new
from pool_oracle.units import Wei


def test_elsewhere_long_work_tells_plain_lines_and_short_work_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    with progress("payouts read", 10) as advance:
        for _ in range(5):
            advance(2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "payouts read: 6 of 10\n"


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    with progress("payouts read", 10) as advance:
        advance(10)
    assert "10/10" in screen.getvalue()


def test_a_question_is_asked_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    confirm("Send it?", yes=True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(InputError, match="--yes"):
        confirm("Send it?", yes=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    confirm("Send it?", yes=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with pytest.raises(typer.Abort):
        confirm("Send it?", yes=False)


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "tx.json"
    write_new(path, [{"to": "0x"}])
    assert json.loads(path.read_text()) == [{"to": "0x"}]
    with pytest.raises(InputError, match="exists already"):
        write_new(path, [])
    with pytest.raises(InputError, match="cannot be written"):
        write_new(tmp_path / "nowhere" / "tx.json", [])
    assert json.loads(path.read_text()) == [{"to": "0x"}]


@pytest.mark.parametrize(("bps", "text"), [(0, "0.00 %"), (5, "0.05 %"), (10_000, "100.00 %"), (12_345, "123.45 %")])
def test_basis_points_are_shown_exactly(bps: int, text: str) -> None:
    assert percent(bps) == text


@pytest.mark.parametrize(("size", "amount"), [(0, 1), (101, 1), (50, 0)])
def test_a_policy_that_cannot_be_is_refused(size: int, amount: int) -> None:
    with pytest.raises(InputError):
        RelayPolicy(max_gas_price=1, min_amount=Wei(amount), batch=size)
