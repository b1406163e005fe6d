"""What people see of long work: a bar on a terminal, plain lines elsewhere; and questions, asked on a terminal only.

All of it goes to standard error, so that standard output holds the answer alone.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pool_oracle.errors import InputError

LINE_SECONDS = 5.0
"""How often there is a line where there is no terminal."""


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how many of `total` are done while the block runs; yields a function that takes how many more are."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(what, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.update(task, advance=more)


def _plain(what: str, total: int) -> Callable[[int], None]:
    done, told = 0, time.monotonic()

    def advance(more: int) -> None:
        nonlocal done, told
        done += more
        if time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            typer.echo(f"{what}: {done} of {total}", err=True)

    return advance


def say(text: str) -> None:
    """A line for whoever watches."""
    typer.echo(text, err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if somebody says yes. Raises InputError where nobody can, and typer.Abort where somebody does not."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError("nobody can be asked here, since standard input is no terminal; --yes says yes to everything")
    typer.confirm(question, abort=True, err=True)


def write_new(path: Path, value: Any) -> None:
    """A JSON value into a file that is not there yet: no keystore is ever overwritten. Raises InputError."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=2) + "\n")
    except FileExistsError:
        raise InputError(f"{path} exists already; give the name of a new file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
