"""The treasury of a pool that pays for shares: an account whose balance of the reward asset carries the luck.

Its contract comes later; here it is an address that is looked at. Whoever holds its key has to be trusted with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from web3 import Web3
from web3.contract import Contract
from web3.exceptions import BadFunctionCallOutput, ContractLogicError

from pool_oracle.chain.client import Chain
from pool_oracle.errors import ChainError
from pool_oracle.payout.schemes.base import Scheme
from pool_oracle.payout.schemes.reserve import Reserve
from pool_oracle.units import Satoshi

SATOSHI_DECIMALS = 8
NATIVE_DECIMALS = 18
_ABI: list[dict[str, Any]] = [
    {"type": "function", "stateMutability": "view", "name": name, "inputs": inputs, "outputs": [output]}
    for name, inputs, output in (
        ("token", [], {"name": "", "type": "address"}),
        ("decimals", [], {"name": "", "type": "uint8"}),
        ("balanceOf", [{"name": "account", "type": "address"}], {"name": "", "type": "uint256"}),
    )
]

T = TypeVar("T")


class Treasury:
    """The account `address`, and the asset that a distributor pays in: its token, else the chain's own coin."""

    def __init__(self, chain: Chain, distributor: str, address: str) -> None:
        """Raises ChainError when the chain does not answer."""
        self._chain = chain
        self._address = Web3.to_checksum_address(address)
        token = self._call(lambda: str(self._contract(distributor).functions.token().call()))
        self._token = None if token is None else self._contract(token)

    def held(self) -> Satoshi:
        """The balance, in whole satoshis. Raises ChainError."""
        if self._token is None:
            balance, decimals = self._chain.balance(self._address), NATIVE_DECIMALS
        else:
            token = self._token
            balance = self._call(lambda: int(token.functions.balanceOf(self._address).call())) or 0
            decimals = self._call(lambda: int(token.functions.decimals().call())) or 0
        if decimals < SATOSHI_DECIMALS:
            raise ChainError(f"the reward asset has {decimals} decimals, too few for satoshis")
        return Satoshi(balance // 10 ** (decimals - SATOSHI_DECIMALS))

    def _contract(self, address: str) -> Contract:
        return self._chain.web3.eth.contract(address=Web3.to_checksum_address(address), abi=_ABI)

    def _call(self, call: Callable[[], T]) -> T | None:
        """What a contract answers; None where it has no such function."""
        try:
            return call()
        except (ContractLogicError, BadFunctionCallOutput):
            return None


def require_reserve(
    name: str, scheme: Scheme, odds: int, height: int, treasury: Treasury, owed: Satoshi, coin: str
) -> Reserve:
    """Refuse a scheme whose treasury does not cover the reserve for a block at `height` and what it owes already.

    Returns the reserve. Raises ConfigError with both numbers, ChainError.
    """
    reserve = Reserve(scheme.guaranteed(height), odds, scheme.terms.fee_bps)
    reserve.check(name, treasury.held(), owed, coin)
    return reserve
