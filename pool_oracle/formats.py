"""The protocol's formats as functions from JSON values to JSON values: what the command line shows to auditors.

Field names and encodings are those of the test vectors: words and payees as 0x hex, big integers as decimal strings.
Every function raises InputError (or ProofError) with a message that names the field.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pool_oracle.errors import InputError, PayeeError, ProofError, TreeError, WindowError
from pool_oracle.networks import Network, network_named
from pool_oracle.payout.payee import format_payee, is_unchecked_account, parse_address, parse_payee
from pool_oracle.payout.sumtree import SumProof, SumTree, verify_proof
from pool_oracle.payout.window import PplnsWindow, check_window, share_unit
from pool_oracle.units import Payee
from pool_oracle.wire import hex_bytes, integer, member, uint32_hex
from pool_oracle.work.share import check_share_from_wire, display, target_from_wire
from pool_oracle.work.targets import nbits_to_target

Format = Callable[[Any], Any]


def read_json(text: str) -> Any:
    """The JSON value of a text. Raises InputError saying where it breaks."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise InputError("not acceptable JSON: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"not acceptable JSON: {error}") from None


def tree_root(value: Any, network: Network | None = None) -> dict[str, Any]:
    """[{payee, weight}, ...] to {root, total, leaves, depth}."""
    tree = SumTree(_leaves(value, network))
    return {"root": f"0x{tree.root.hex()}", "total": str(tree.total), "leaves": len(tree), "depth": tree.depth}


def tree_proof(value: Any, payee: str, network: Network | None = None) -> dict[str, Any]:
    """[{payee, weight}, ...] and a payee to {payee, weight, index, proof, root}."""
    tree = SumTree(_leaves(value, network))
    proof = tree.proof(read_payee(payee, network))
    return {
        "payee": format_payee(proof.payee),
        "weight": str(proof.weight),
        "index": proof.index,
        "proof": [f"0x{word.hex()}" for word in proof.siblings],
        "root": f"0x{tree.root.hex()}",
    }


def tree_verify(value: Any, network: Network | None = None) -> dict[str, Any]:
    """{payee, weight, index, proof, root} to {valid: true}. Raises ProofError when it does not verify."""
    siblings = member(value, "proof", error=TreeError)
    if not isinstance(siblings, list):
        raise TreeError("proof must be a list of 32-byte words")
    root = hex_bytes(member(value, "root", error=TreeError), "root", size=32, prefixed=True, error=TreeError)
    proof = SumProof(
        payee=read_payee(member(value, "payee", error=TreeError), network),
        weight=integer(member(value, "weight", error=TreeError), "weight", error=TreeError),
        index=integer(member(value, "index", error=TreeError), "index", error=TreeError),
        siblings=tuple(
            hex_bytes(word, f"proof[{i}]", size=32, prefixed=True, error=TreeError) for i, word in enumerate(siblings)
        ),
    )
    verify_proof(root, proof)
    return {"valid": True}


def window_weights(value: Any, network: Network | None = None) -> dict[str, Any]:
    """{window, shares: [{payee, nbits, shareTarget}, ...]} to {total, weights}."""
    window = PplnsWindow(check_window(member(value, "window", error=WindowError)))
    shares = member(value, "shares", error=WindowError)
    if not isinstance(shares, list):
        raise WindowError("shares must be a list of {payee, nbits, shareTarget}")
    for i, share in enumerate(shares):
        try:
            unit = _unit(member(share, "nbits"), member(share, "shareTarget"))
            window.add(i, read_payee(member(share, "payee"), network), unit)
        except InputError as error:
            raise WindowError(f"shares[{i}]: {error}") from None
    weights = {format_payee(payee): str(weight) for payee, weight in sorted(window.weights.items())}
    return {"total": str(window.total), "weights": weights}


def share_check(value: Any) -> dict[str, Any]:
    """A job and a submission as in stratum_share.json to {header, hash, meetsShareTarget, meetsNetworkTarget}."""
    share = check_share_from_wire(value)
    return {
        "header": f"0x{share.header.hex()}",
        "hash": f"0x{display(share.block_hash)}",
        "meetsShareTarget": share.meets_share_target,
        "meetsNetworkTarget": share.meets_network_target,
    }


def payee_of(value: Any) -> dict[str, Any]:
    """{address, network} to {payee}."""
    address = member(value, "address", error=PayeeError)
    if not isinstance(address, str):
        raise PayeeError("address must be a string")
    network = network_named(member(value, "network", error=PayeeError))
    return {"payee": format_payee(parse_address(address, network))}


def answer_line(convert: Format, line: str) -> str:
    """One line of `--lines`: the answer, or {"error": ...} in its place."""
    try:
        answer = convert(read_json(line))
    except (InputError, ProofError) as error:
        answer = {"error": str(error)}
    return json.dumps(answer)  # in ASCII: a message may hold characters that the terminal's encoding does not have


def _leaves(value: Any, network: Network | None) -> list[tuple[Payee, int]]:
    if not isinstance(value, list):
        raise TreeError("a tree is a JSON list of {payee, weight}")
    leaves = []
    for i, leaf in enumerate(value):
        try:
            weight = integer(member(leaf, "weight"), "weight")
            leaves.append((read_payee(member(leaf, "payee"), network), weight))
        except InputError as error:
            raise TreeError(f"leaf {i}: {error}") from None
    return leaves


def read_payee(text: Any, network: Network | None) -> Payee:
    """A payee given as an address or as 21 bytes. Raises PayeeError, also where 20 bytes could be either."""
    if not isinstance(text, str):
        raise PayeeError("payee must be a string: an address, or 0x and 42 hex digits")
    if network is None and is_unchecked_account(text):
        # It may be an address, or a payee whose kind was lost: only its EIP-55 checksum or a named network tells.
        raise PayeeError(
            f"{text} has 20 bytes and no checksum: write a payee's 21 bytes (0x00 before an EVM address), "
            "the address in its EIP-55 form, or name the network"
        )
    return parse_payee(text, network)


@lru_cache(maxsize=4096)
def _unit_of(nbits: str, share_target: str) -> int:
    target = nbits_to_target(uint32_hex(nbits, "nbits"))
    return share_unit(target, target_from_wire(share_target, "shareTarget"))


def _unit(nbits: Any, share_target: Any) -> int:
    if not isinstance(nbits, str) or not isinstance(share_target, str):
        raise WindowError("nbits and shareTarget must be hex strings")
    return _unit_of(nbits, share_target)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number here")
