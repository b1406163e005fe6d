"""What a miner may ask besides handing in shares: each method of stratum, and what is answered to it.

A handler takes the session and the request's parameters and returns the result. It raises ShareRefused with the code
and text that the miner shows, PayeeError for a user name that names no payee, InputError for a wrong form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from pool_oracle.errors import InputError, ShareRefused
from pool_oracle.judge import Worker
from pool_oracle.payout.payee import format_payee, is_maybe_unlinkable
from pool_oracle.stratum.messages import VERSION_MASK, parse_difficulty, question
from pool_oracle.stratum.users import parse_password, parse_user
from pool_oracle.wire import hex_bytes, uint32_hex
from pool_oracle.work.targets import check_target, target_to_nbits

if TYPE_CHECKING:
    from pool_oracle.stratum.session import Session

log = structlog.get_logger("stratum")

VERSION_QUESTION = 1
"""The id of `client.get_version`, the only question that the pool asks."""
MAX_EXTENSIONS = 20
_NESTED_NOTE = "This P2SH address can claim only if it is a nested single-key (P2SH-P2WPKH) address of your wallet."


def printable(text: str) -> str:
    """What a log line or a screen can show of a miner's text."""
    return "".join(c for c in text if c.isprintable())[:80]


def _subscribe(session: Session, params: list[Any]) -> list[Any]:
    """The extranonce1 of this connection, the one from before for a miner that names its session."""
    if params and isinstance(params[0], str):
        session.agent = printable(params[0])
    session.subscribe(params[1] if len(params) > 1 and isinstance(params[1], str) else None)
    subscriptions = [["mining.set_difficulty", session.session_id], ["mining.notify", session.session_id]]
    return [subscriptions, session.extranonce1.hex(), session.desk.extranonce2_size]


def _authorize(session: Session, params: list[Any]) -> bool:
    """A worker of this connection, and the wishes in its password."""
    user = params[0] if params else None
    payee, name = parse_user(user, session.desk.network)
    assert isinstance(user, str)  # noqa: S101 - parse_user refuses anything else
    only = session.desk.only_payees
    if only and payee not in only:
        raise ShareRefused(24, f"this pool mines for {' and '.join(map(format_payee, only))} alone")
    is_new = session.add_worker(user, Worker(payee, name))
    if is_new:
        log.info("worker authorized", peer=session.peer, agent=session.agent, payee=format_payee(payee), worker=name)
    options = parse_password(params[1] if len(params) > 1 else None)
    if options.minimum is not None:
        session.set_minimum(session.target_of(options.minimum))
    if options.start is not None:
        session.suggest(session.target_of(options.start))
    if options.ignored:
        session.tell(f"No share difficulty above zero in the password: {', '.join(options.ignored)[:80]}")
    if is_new and is_maybe_unlinkable(payee):
        session.tell(_NESTED_NOTE)
    if not session.agent and len(session.workers) == 1:
        session.send(question(VERSION_QUESTION, "client.get_version"))
    return True


def _configure(session: Session, params: list[Any]) -> dict[str, Any]:
    """Which extensions are on. Source: BIP-310."""
    wanted = params[0] if params and isinstance(params[0], list) else []
    options = params[1] if len(params) > 1 and isinstance(params[1], dict) else {}
    answer: dict[str, Any] = {}
    for extension in wanted[:MAX_EXTENSIONS]:
        if extension == "version-rolling":
            answer.update(_configure_rolling(session, options))
        elif extension == "minimum-difficulty":
            answer[extension] = _configure_minimum(session, options)
        elif extension == "subscribe-extranonce":
            session.takes_extranonce = answer[extension] = True
        elif extension == "info":
            session.agent = session.agent or printable(str(options.get("info.sw-version", "")))
            answer[extension] = True
        elif isinstance(extension, str):
            answer[extension[:40]] = False
    return answer


def _configure_minimum(session: Session, options: dict[str, Any]) -> bool:
    """Whether no share will be judged by an easier target than the miner wants."""
    minimum = parse_difficulty(options.get("minimum-difficulty.value"))
    if minimum is None:
        return False
    target = session.target_of(minimum)
    session.set_minimum(target)
    return session.vardiff.bits <= target_to_nbits(target)


def _configure_rolling(session: Session, options: dict[str, Any]) -> dict[str, Any]:
    """The version bits that this miner may roll."""
    asked = options.get("version-rolling.mask", f"{VERSION_MASK:08x}")
    mask = VERSION_MASK & uint32_hex(asked, "version-rolling.mask")
    least = options.get("version-rolling.min-bit-count", 0)
    if isinstance(least, int) and mask.bit_count() < least:
        return {"version-rolling": f"only {mask.bit_count()} bits of the mask can be rolled here, not {least}"}
    session.version_mask = mask
    return {"version-rolling": True, "version-rolling.mask": f"{mask:08x}"}


def _subscribe_extranonce(session: Session, _params: list[Any]) -> bool:
    session.takes_extranonce = True
    return True


def _suggest_difficulty(session: Session, params: list[Any]) -> bool:
    difficulty = parse_difficulty(params[0] if params else None)
    if difficulty is None:
        raise InputError("mining.suggest_difficulty takes a positive number")
    session.suggest(session.target_of(difficulty))
    return True


def _suggest_target(session: Session, params: list[Any]) -> bool:
    target = int.from_bytes(hex_bytes(params[0] if params else None, "target", size=32), "big")
    session.suggest(check_target(target, "target"))
    return True


def _get_transactions(_session: Session, _params: list[Any]) -> None:
    raise ShareRefused(20, "transactions are not handed out here; audit a job by its coinbase and merkle branch")


def _ping(_session: Session, _params: list[Any]) -> str:
    return "pong"


HANDLERS: dict[str, Callable[[Session, list[Any]], Any]] = {
    "mining.subscribe": _subscribe,
    "mining.authorize": _authorize,
    "mining.configure": _configure,
    "mining.extranonce.subscribe": _subscribe_extranonce,
    "mining.suggest_difficulty": _suggest_difficulty,
    "mining.suggest_target": _suggest_target,
    "mining.get_transactions": _get_transactions,
    "mining.ping": _ping,
}
