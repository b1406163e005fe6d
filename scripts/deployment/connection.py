"""Brownie's connection to the chain, and the account that pays for the deployment.

brownie sends; everything is read through `Chain`, because brownie answers from caches on live networks, one of which
(the code at an address, by chain id) it keeps on disk from run to run.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from brownie import accounts, network
from brownie._config import CONFIG
from eth_account import Account

from pool_oracle.chain.client import Chain
from pool_oracle.errors import ChainError, ConfigError, SetupError
from pool_oracle.payout.payee import payee_of_key

from .settings import Settings

NETWORK = "pool-oracle"


def connect(settings: Settings) -> Chain:
    """Connect brownie, and ourselves, to the node that the settings name.

    A network made here serves, whatever brownie is connected to: one in brownie-config.yaml crashes brownie 1.22.
    Raises ChainError when the node does not answer, ConfigError for another chain than the one that is wanted.
    """
    chain = Chain(settings.rpc)
    wanted = settings.chain.id
    if wanted is not None and chain.chain_id != wanted:
        raise ConfigError(f"the node at chain.rpc is on chain {chain.chain_id}, and chain.id is {wanted}")
    if network.is_connected():
        network.disconnect()
    CONFIG.settings["eager_caching"] = False
    CONFIG.networks[NETWORK] = {
        "id": NETWORK,
        "name": "the node that deploy.toml names",
        "host": settings.rpc,
        "chainid": str(chain.chain_id),
    }
    network.connect(NETWORK)
    if not network.is_connected():
        raise ChainError("brownie gets no answer from the node at chain.rpc")
    return chain


def load_deployer(settings: Settings) -> Any:
    """Brownie's account of the deployer's key. Raises SetupError, ConfigError; the key appears in no message."""
    deployer = settings.deployer
    accounts.clear()  # for an account that the node itself could sign for, brownie would use the node's
    if deployer.keystore is not None and deployer.password_file is not None:
        account = _from_keystore(settings.path(deployer.keystore), settings.path(deployer.password_file))
    else:
        path = settings.path(str(deployer.key_file))
        print(f"warning: {path} holds a raw private key; a keystore with a password is safer on a live network")
        account = _from_key(path)
    key = account.public_key.to_compressed_bytes(), b"\x04" + account.public_key.to_bytes()
    payees = [payee_of_key(form, nested=nested)[1:] for form in key for nested in (False, True)]
    settings.check_refunds([bytes.fromhex(account.address[2:]), *payees])
    return account


def _from_keystore(path: Path, password_path: Path) -> Any:
    keystore = _secret(path, "keystore")
    password = _secret(password_path, "password file").rstrip("\r\n")
    try:
        return accounts.add(Account.decrypt(keystore, password))
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        reason = "the password is wrong" if "MAC" in str(error) else "it is no keystore of version 3"
        raise SetupError(f"the keystore {path} cannot be opened: {reason}") from None


def _from_key(path: Path) -> Any:
    text = _secret(path, "key file").strip()
    try:
        return accounts.add(bytes.fromhex(text.removeprefix("0x")))
    except Exception:
        # Whatever the libraries say may hold the text.
        raise SetupError(f"the key file {path} does not hold a private key (0x and 64 hex digits)") from None


def _secret(path: Path, what: str) -> str:
    """The text of a file that nobody else may read. Raises SetupError, ConfigError."""
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"the {what} {path} can be read by others; run 'chmod 600 {path}'")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(f"the {what} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SetupError(f"the {what} {path} is not text") from None
