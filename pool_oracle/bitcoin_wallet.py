"""A miner's Bitcoin key: its address and its signed messages. The one module that imports bitcoinlib.

bitcoinlib takes a second to import and writes a database and a log where it is told to, so it is imported when it is
first needed, with its folder pointed away from the user's home.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import lru_cache
from typing import Any

from pool_oracle.networks import Network
from pool_oracle.payout.payee import address_of, payee_of_key
from pool_oracle.units import Payee

DATA_VARIABLE = "BCL_DATA_DIR"


@lru_cache
def _bitcoinlib_keys() -> Any:
    """The keys module of bitcoinlib; its folder goes away with this process, unless the user has named one."""
    if DATA_VARIABLE not in os.environ:
        folder = tempfile.mkdtemp(prefix="pool-oracle-bitcoinlib-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ[DATA_VARIABLE] = folder
    from bitcoinlib import keys

    return keys


class BitcoinWallet:
    """One private key, used for P2WPKH or, with `nested`, for P2SH-P2WPKH."""

    def __init__(self, private_key: bytes, *, nested: bool = False) -> None:
        """`private_key` is 32 bytes."""
        witness_type = "p2sh-segwit" if nested else "segwit"
        self._key = _bitcoinlib_keys().HDKey(key=private_key, chain=bytes(32), witness_type=witness_type)
        self.payee: Payee = payee_of_key(self._key.public_byte, nested=nested)

    def address(self, network: Network) -> str:
        """The address on `network`; ours, because bitcoinlib's is wrong for P2SH on regtest."""
        return address_of(self.payee, network)

    def sign_message(self, text: str) -> str:
        """A BIP-137 signature, base64, as a wallet shows it."""
        signature: str = self._key.sign_message(text.encode()).as_base64()
        return signature
