"""The EVM chain and the operator's account, as a configuration names them."""

from __future__ import annotations

from pathlib import Path

from web3 import Web3

from pool_oracle.chain.fees import GWEI, FeeSettings
from pool_oracle.chain.keys import RemoteSigner, Signer, signer_from_key_file, signer_from_keystore
from pool_oracle.chain.outbox import Outbox, SendSettings
from pool_oracle.chain.quorum import QuorumChain
from pool_oracle.chain.sending import OutboxSender, SafeProposer
from pool_oracle.config import KEY_FILE_VARIABLE, PASSWORD_FILE_VARIABLE, Config
from pool_oracle.errors import ConfigError


def open_chain(config: Config) -> QuorumChain:
    """The chain behind all its nodes. Does not connect yet."""
    return QuorumChain(config.rpc_urls, chain_id=config.chain.chain_id or None)


def open_signer(config: Config) -> Signer:
    """The operator's key. Raises ConfigError where none is named, SetupError for one that cannot be used."""
    chain = config.chain
    if chain.operator_keystore:
        if config.password_file is None:
            raise ConfigError(f"the keystore needs chain.operator_password_file or {PASSWORD_FILE_VARIABLE}")
        return signer_from_keystore(Path(chain.operator_keystore).expanduser(), config.password_file)
    if chain.remote_signer:
        return RemoteSigner(chain.remote_signer, chain.operator)
    if config.key_file is None:
        raise ConfigError(
            "no operator key: set chain.operator_keystore, chain.remote_signer, chain.safe, or "
            f"chain.operator_key_file ({KEY_FILE_VARIABLE})"
        )
    return signer_from_key_file(config.key_file)


def operator_address(config: Config) -> str:
    """The operator's account: the Safe, or the key's. Raises ConfigError, SetupError."""
    return str(Web3.to_checksum_address(config.chain.safe)) if config.chain.safe else open_signer(config).address


def open_outbox(config: Config, chain: QuorumChain) -> Outbox | None:
    """The operator's transactions; None where a Safe's owners send them.

    Raises ConfigError, SetupError, OutboxError, ChainError.
    """
    if config.chain.safe:
        return None
    section = config.chain
    settings = SendSettings(
        confirmations=section.confirmations,
        final_depth=section.final_depth,
        fees=FeeSettings(max_fee=section.max_fee_gwei * GWEI, max_tip=section.max_tip_gwei * GWEI),
    )
    return Outbox(chain, open_signer(config), config.outbox, settings)


def open_sender(config: Config, chain: QuorumChain, outbox: Outbox | None) -> OutboxSender | SafeProposer:
    """What the operator's calls go through."""
    if outbox is None:
        return SafeProposer(chain, operator_address(config), config.data / "proposals")
    return OutboxSender(outbox)
