"""What ends a command becomes one line and an exit code."""

from __future__ import annotations

import pytest

from pool_oracle import cli


def code_of(monkeypatch, error):
    def fails(**_options):
        raise error

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_an_interrupt_is_an_interrupt_whatever_a_library_makes_of_it(monkeypatch, capsys):
    assert code_of(monkeypatch, KeyboardInterrupt()) == 130
    wrapped = SystemError("returned a result with an exception set")
    wrapped.__cause__ = KeyboardInterrupt()
    assert code_of(monkeypatch, wrapped) == 130
    later = ValueError("tidying up failed")
    later.__context__ = RuntimeError()
    later.__context__.__context__ = KeyboardInterrupt()
    assert code_of(monkeypatch, later) == 130
    assert capsys.readouterr().err == "pool-oracle: interrupted\n" * 3


def test_a_bug_is_one_line_that_says_how_to_report_it(monkeypatch, capsys):
    assert code_of(monkeypatch, ValueError("odd")) == 4
    assert capsys.readouterr().err.startswith("pool-oracle: internal error: ValueError('odd'); please report it")
