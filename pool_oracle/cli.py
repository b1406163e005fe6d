"""The command line: parses, calls the rooms below, prints. Heavy libraries are imported by the command that needs them.

Exit codes: 0 done, and so it is; 1 what was checked is not so; 2 wrong input, usage or configuration; 3 something that
is needed failed or is missing (node, chain, disk, program); 4 a bug of ours; 130 interrupted. Errors are one line on
standard error.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pool_oracle import __version__
from pool_oracle.claim_commands import add_claim_commands
from pool_oracle.errors import InputError, PoolOracleError, ProofError
from pool_oracle.reward_commands import reward_app, status

EXIT_NOT_SO, EXIT_INPUT, EXIT_FAILED, EXIT_INTERNAL, EXIT_INTERRUPTED = 1, 2, 3, 4, 130
KEEP_VARIABLE = "KEEP"
DEBUG_VARIABLE = "POOL_ORACLE_DEBUG"

EPILOG = (
    "Exit codes: 0 done; 1 what was checked is not so; 2 wrong input, usage or configuration; "
    "3 something needed failed or is missing; 4 a bug of ours; 130 interrupted."
)

app = typer.Typer(
    name="pool-oracle",
    help="A mining pool whose payouts nobody has to trust the operator for.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
tree_app = typer.Typer(help="Sum trees: JSON in, JSON out.", no_args_is_help=True, rich_markup_mode=None)
share_app = typer.Typer(help="Shares: JSON in, JSON out.", no_args_is_help=True, rich_markup_mode=None)
audit_app = typer.Typer(help="Recompute what the pool published.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tree_app, name="tree")
app.add_typer(share_app, name="share")
app.add_typer(audit_app, name="audit")
ledger_app = typer.Typer(
    help="The share log: check it, index it anew, export it.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(ledger_app, name="ledger")
add_claim_commands(app)
app.add_typer(reward_app, name="reward")
app.command("status")(status)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output.")]
Lines = Annotated[
    bool, typer.Option("--lines", help="One JSON value a line in, one a line out; errors in their place.")
]
Network = Annotated[str | None, typer.Option(help="Accept addresses of this network only; any, if left out.")]
ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
FormatJson = Annotated[bool, typer.Option("--json", help="The answer is JSON already; accepted for symmetry.")]

DEFAULT_CONFIG = Path("pool-oracle.toml")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pool-oracle {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """A mining pool whose payouts nobody has to trust the operator for."""


# Formats


@tree_app.command("root")
def tree_root(network: Network = None, lines: Lines = False, as_json: FormatJson = False) -> None:
    """[{payee, weight}, ...] to {root, total, leaves, depth}."""
    from pool_oracle import formats

    chosen = _network(network)
    _convert(lambda value: formats.tree_root(value, chosen), lines)


@tree_app.command("proof")
def tree_proof(
    payee: Annotated[str, typer.Option(help="An address, or 0x and 42 hex digits.")],
    network: Network = None,
    lines: Lines = False,
    as_json: FormatJson = False,
) -> None:
    """[{payee, weight}, ...] to the proof of one payee."""
    from pool_oracle import formats

    chosen = _network(network)
    formats.read_payee(payee, chosen)  # a wrong one is an error of the call, not of each line
    _convert(lambda value: formats.tree_proof(value, payee, chosen), lines)


@tree_app.command("verify")
def tree_verify(network: Network = None, lines: Lines = False, as_json: FormatJson = False) -> None:
    """{payee, weight, index, proof, root}: exit code 0 if it verifies, 1 with the reason if not."""
    from pool_oracle import formats

    chosen = _network(network)
    _convert(lambda value: formats.tree_verify(value, chosen), lines)


@app.command("window")
def window(network: Network = None, lines: Lines = False, as_json: FormatJson = False) -> None:
    """{window, shares: [{payee, nbits, shareTarget}, ...]} to {total, weights}."""
    from pool_oracle import formats

    chosen = _network(network)
    _convert(lambda value: formats.window_weights(value, chosen), lines)


@share_app.command("check")
def share_check(lines: Lines = False, as_json: FormatJson = False) -> None:
    """A job and a submission to {header, hash, meetsShareTarget, meetsNetworkTarget}."""
    from pool_oracle import formats

    _convert(formats.share_check, lines)


@app.command("payee")
def payee_of(lines: Lines = False, as_json: FormatJson = False) -> None:
    """{address, network} to {payee}."""
    from pool_oracle import formats

    _convert(formats.payee_of, lines)


# The pool


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a configuration file with every setting explained."""
    from pool_oracle.config import EXAMPLE

    if path.exists() and not force:
        raise InputError(f"{path} exists already; give another name, or --force to overwrite it")
    try:
        path.write_text(EXAMPLE, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    _print({"config": str(path)}, as_json, f"{path} is written; fill in the lines with 0x..., then 'pool-oracle check'")


@app.command()
def check(config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Try disk, node, key, chain, contracts and clock, and say what is wrong."""
    from dataclasses import asdict

    from pool_oracle.check import run_checks
    from pool_oracle.config import load_config
    from pool_oracle.logs import configure_logs

    configure_logs(sys.stderr, level=logging.ERROR)
    results = run_checks(load_config(config))
    text = "\n".join(f"{'ok  ' if r.ok else 'FAIL'}  {r.name:10} {r.detail}" for r in results)
    _print([asdict(result) for result in results], as_json, text)
    if not all(result.ok for result in results):
        raise typer.Exit(EXIT_NOT_SO)


@app.command()
def run(
    config: ConfigPath = DEFAULT_CONFIG,
    propose: Annotated[
        str, typer.Option(metavar="SAFE", help="Send nothing; write files for the owners of this Safe (0x...) to sign.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing, and need no key; log what would be.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the pool until it is told to stop."""
    from pool_oracle.config import load_config, proposing_to
    from pool_oracle.running import run_pool

    settings = load_config(config)
    if propose:
        settings = proposing_to(settings, propose)
    run_pool(settings, on_start=lambda facts: _print(facts, as_json, _facts(facts)), is_dry=dry_run)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running afterwards; KEEP=1 does the same.")] = False,
    data: Annotated[Path | None, typer.Option(help="Keep the run's data in this (empty) folder.")] = None,
    scheme: Annotated[str, typer.Option(help="How shares become weights: pplns, prop or solo.")] = "pplns",
    as_json: Json = False,
) -> None:
    """Run a whole pool on this machine, from the first share to the last claimed wei, and prove it."""
    from pool_oracle.running import run_demo

    keep = keep or os.environ.get(KEEP_VARIABLE, "") not in ("", "0")
    if not run_demo(keep=keep, data=data, scheme=scheme, as_json=as_json):
        raise typer.Exit(EXIT_NOT_SO)


@audit_app.command("epoch")
def audit_epoch(
    bundle: Annotated[Path, typer.Option(help="The folder that holds the bundles (epoch-NNNNNN).")],
    rpc: Annotated[str | None, typer.Option(help="Compare with the contract through this node, too.")] = None,
    flyover_route: Annotated[
        str | None, typer.Option(help="Check every job's reward script by this route contract (with --rpc).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute every published epoch: shares, window, weights, roots."""
    from pool_oracle.running import run_audit

    report = run_audit(bundle, rpc, flyover_route)
    value = report.to_json()
    text = "\n".join(str(finding) for finding in report.findings)
    summary = f"{value['verdict']}: {len(value['epochs'])} epochs, {value['shares']} headers hashed again"
    _print(value, as_json, f"{text}\n{summary}" if text else summary)
    if not report.passed:
        raise typer.Exit(EXIT_NOT_SO)


@audit_app.command("job")
def audit_job(
    url: Annotated[str, typer.Argument(help="stratum+tcp://HOST:PORT, or stratum+ssl://HOST:PORT.")],
    user: Annotated[str, typer.Option("--user", "-u", help="The user name that you mine with.")],
    pool: Annotated[str | None, typer.Option(help="The pool's page, to fetch published epochs from.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Or a folder that holds the bundles.")] = None,
    rpc: Annotated[str | None, typer.Option(help="A node of the EVM chain, for --flyover-route.")] = None,
    flyover_route: Annotated[
        str | None, typer.Option(help="Check where the reward goes by this route contract.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on with every job; end with the first bad one.")] = False,
    as_json: Json = False,
) -> None:
    """Take a job as a miner and say in one line whether to mine on it."""
    from pool_oracle.audit.jobs import FolderEpochs, PoolEpochs
    from pool_oracle.errors import InputError
    from pool_oracle.running import run_job_audit

    if (pool is None) == (bundle is None):
        raise InputError("published epochs come from --pool URL or from --bundle FOLDER; give one of them")
    published = FolderEpochs(bundle) if bundle is not None else PoolEpochs(pool or "")
    good = run_job_audit(
        url,
        user,
        published,
        rpc,
        flyover_route,
        watch=watch,
        on_verdict=lambda verdict: _print(verdict.to_json(), as_json, str(verdict)),
    )
    if not good:
        raise typer.Exit(EXIT_NOT_SO)


@ledger_app.command("verify")
def ledger_verify(config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Read the whole share log by its rules, and compare its closes with the published bundles."""
    from pool_oracle.config import load_config
    from pool_oracle.ledger_commands import run_verify

    settings = load_config(config)
    report = run_verify(settings.shares, settings.log_rules, settings.bundles)
    _print(report.to_json(), as_json, str(report))
    if not report.passed:
        raise typer.Exit(EXIT_NOT_SO)


@ledger_app.command("rebuild")
def ledger_rebuild(config: ConfigPath = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Drop the SQL index and fill it from the share log."""
    from pool_oracle.config import load_config
    from pool_oracle.ledger_commands import run_rebuild

    settings = load_config(config)
    facts = run_rebuild(settings.shares, settings.log_rules, settings.index_url)
    _print(facts, as_json, _facts(facts))


@ledger_app.command("export")
def ledger_export(
    folder: Annotated[Path, typer.Argument(help="Where the files go; what is there and unchanged stays.")],
    packed: Annotated[bool, typer.Option("--packed", help="Also every sealed segment, packed with zstd.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Write shares, epochs and leaves as Parquet files, for DuckDB, polars or pandas."""
    from pool_oracle.config import load_config
    from pool_oracle.ledger_commands import run_export

    settings = load_config(config)
    facts = run_export(settings.shares, settings.log_rules, folder, packed=packed)
    _print(facts, as_json, _facts(facts))


# Helpers


def _network(name: str | None) -> Any:
    from pool_oracle.networks import network_named

    return None if name is None else network_named(name)


def _convert(convert: Callable[[Any], Any], lines: bool) -> None:
    """Standard input through one of the formats to standard output."""
    from pool_oracle.formats import answer_line, read_json

    if lines:
        for line in sys.stdin.buffer:
            print(answer_line(convert, _decode(line)))
        return
    print(json.dumps(convert(read_json(_decode(sys.stdin.buffer.read()))), ensure_ascii=False))


def _decode(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _print(value: Any, as_json: bool, text: str) -> None:
    print(json.dumps(value, ensure_ascii=False) if as_json else text, flush=True)


def _facts(facts: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in facts.items())


def _fail(message: str, code: int) -> NoReturn:
    """One line on standard error; a command group called without a command gives its help instead."""
    is_help = message.startswith("Usage:")
    print(message if is_help else f"pool-oracle: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _follows_interrupt(error: BaseException | None) -> bool:
    """Whether an error is what a library, or the tidying up, made of Ctrl-C."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def main() -> None:
    """The entry point: every error becomes one line and an exit code."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        _fail(getattr(error, "format_message", error.__str__)(), EXIT_INPUT)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", EXIT_INTERRUPTED)
    except ProofError as error:
        _fail(str(error), EXIT_NOT_SO)
    except InputError as error:
        _fail(str(error), EXIT_INPUT)
    except PoolOracleError as error:
        _fail(str(error), EXIT_FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except Exception as error:
        if _follows_interrupt(error):
            _fail("interrupted", EXIT_INTERRUPTED)
        if os.environ.get(DEBUG_VARIABLE):
            raise
        _fail(f"internal error: {error!r}; please report it with what {DEBUG_VARIABLE}=1 shows", EXIT_INTERNAL)


if __name__ == "__main__":
    main()
