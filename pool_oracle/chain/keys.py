"""Who signs: a keystore with a password file, a raw key in a file, or a signer on another machine.

Secrets come from files that nobody else can read, and never appear in a message.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import requests
import rlp
import structlog
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes
from web3 import Web3

from pool_oracle.chain.client import host_of
from pool_oracle.errors import SetupError, SigningFailed

SIGNER_TIMEOUT_SECONDS = 20
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Where systemd puts a unit's LoadCredential files (systemd.exec(5))."""
_LEGACY_FIELDS = ("nonce", "gasPrice", "gas", "to", "value", "data")

log = structlog.get_logger("keys")


class Signer(Protocol):
    """Holds the key of one account."""

    @property
    def address(self) -> str:
        """The account's address, with checksum."""

    def sign(self, transaction: Mapping[str, Any]) -> bytes:
        """The raw signed transaction. `transaction` has chainId, nonce, gas, fees, value, data, and `to` if a call.

        Raises SigningFailed.
        """


class LocalSigner:
    """A key in this process."""

    def __init__(self, account: LocalAccount) -> None:
        """`account` holds the key."""
        self._account = account

    @property
    def address(self) -> str:
        """The account's address."""
        return str(self._account.address)

    def sign(self, transaction: Mapping[str, Any]) -> bytes:
        """Sign with the key."""
        return bytes(self._account.sign_transaction(dict(transaction)).raw_transaction)


def signer_from_keystore(path: Path, password_file: Path) -> LocalSigner:
    """The key of a keystore (Web3 Secret Storage, version 3), opened by the first line of `password_file`.

    Raises SetupError.
    """
    password = _read_secret(password_file, "password file").partition("\n")[0]
    try:
        keystore = json.loads(_read_secret(path, "keystore"))
    except ValueError:
        raise SetupError(f"the keystore {path} is not JSON; is it a keystore of version 3?") from None
    try:
        key = Account.decrypt(keystore, password)
    except ValueError as error:
        if "MAC" in str(error):
            raise SetupError(f"the password in {password_file} does not open the keystore {path}") from None
        raise SetupError(f"{path} is no keystore of version 3") from None
    except (KeyError, TypeError, NotImplementedError):
        raise SetupError(f"{path} is no keystore of version 3") from None
    return LocalSigner(Account.from_key(key))


def signer_from_key_file(path: Path) -> LocalSigner:
    """A raw private key (0x and 64 hex digits) in a file. Warns that a keystore is better. Raises SetupError."""
    text = _read_secret(path, "key file").strip()
    try:
        account: LocalAccount = Account.from_key(text)
    except Exception:
        raise SetupError(f"the key file {path} does not hold a private key (0x and 64 hex digits)") from None
    log.warning("the key is in a file without a password; a keystore or a remote signer is safer", file=str(path))
    return LocalSigner(account)


def _read_secret(path: Path, what: str) -> str:
    """The text of a file that nobody else may read. Raises SetupError."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise SetupError(f"the {what} {path} is no regular file")
        if mode & 0o077 and not _is_credential(path):
            raise SetupError(
                f"the {what} {path} can be read by others (mode {stat.S_IMODE(mode):04o}); run 'chmod 600 {path}'"
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(f"the {what} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SetupError(f"the {what} {path} is not text") from None


def _is_credential(path: Path) -> bool:
    """Whether systemd gives a file to this process alone: by an ACL, whose mask looks like a right of the group's."""
    folder = os.environ.get(CREDENTIALS_VARIABLE)
    return folder is not None and path.parent == Path(folder)


class RemoteSigner:
    """A signer on another machine, over JSON-RPC's eth_signTransaction (Web3Signer, clef, a node's own accounts).

    What comes back is read, and sent only if it is what was asked for, signed by the right account.
    """

    def __init__(self, url: str, address: str, *, timeout: float = SIGNER_TIMEOUT_SECONDS) -> None:
        """`address` is the account to sign with. Does not connect yet."""
        self._url = url
        self._timeout = timeout
        self._session = requests.Session()
        self._address = str(Web3.to_checksum_address(address))

    @property
    def address(self) -> str:
        """The account's address."""
        return self._address

    def sign(self, transaction: Mapping[str, Any]) -> bytes:
        """Ask for a signature, and check what comes back."""
        asked = {"from": self._address}
        for name, value in transaction.items():
            asked[name] = hex(value) if isinstance(value, int) else value
        answer = self._ask("eth_signTransaction", asked)
        text = answer.get("raw") if isinstance(answer, dict) else answer
        try:
            raw = bytes.fromhex(str(text).removeprefix("0x"))
            problem = _difference(raw, transaction, self._address)
        except Exception:
            raise SigningFailed(f"{self._name} answers with no signed transaction") from None
        if problem:
            raise SigningFailed(f"{self._name} signed something else: {problem}")
        return raw

    @property
    def _name(self) -> str:
        return f"the signer at {host_of(self._url)}"

    def _ask(self, method: str, *params: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        try:
            answer = self._session.post(self._url, json=request, timeout=self._timeout, allow_redirects=False).json()
        except requests.Timeout:
            raise SigningFailed(f"{self._name} did not answer within {self._timeout} s") from None
        except (requests.RequestException, ValueError) as error:
            raise SigningFailed(f"{self._name} does not answer ({type(error).__name__})") from None
        if not isinstance(answer, dict) or answer.get("result") is None:
            told = answer.get("error") if isinstance(answer, dict) else None
            reason = told.get("message") if isinstance(told, dict) else told
            raise SigningFailed(f"{self._name} refuses: {str(reason or 'no reason given')[:200]}")
        return answer["result"]


def _difference(raw: bytes, wanted: Mapping[str, Any], address: str) -> str:
    """What in a signed transaction is not as wanted; empty where all is."""
    signer = Account.recover_transaction(raw)
    if signer != address:
        return f"the key is {signer}'s, not {address}'s"
    found = _legacy_fields(raw) if raw[0] >= 0xC0 else TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    for name, value in wanted.items():
        got = found.get(name)
        if (_plain(got) != _plain(value)) if name in ("to", "data") else (got != value):
            return f"its {name} is not the one that was asked for"
    if not _plain(wanted.get("to")) and _plain(found.get("to")):
        return "it is a call in place of a deployment"
    return ""


def _legacy_fields(raw: bytes) -> dict[str, Any]:
    """The fields of a legacy transaction; its chain id is in `v` (EIP-155)."""
    *parts, v, _, _ = rlp.decode(raw)
    fields: dict[str, Any] = {
        name: part if name in ("to", "data") else int.from_bytes(part, "big")
        for name, part in zip(_LEGACY_FIELDS, parts, strict=True)
    }
    return fields | {"chainId": (int.from_bytes(v, "big") - 35) // 2}


def _plain(value: Any) -> bytes:
    """An address or call data as bytes, whichever way it is written."""
    if not value:
        return b""
    return bytes.fromhex(value.removeprefix("0x")) if isinstance(value, str) else bytes(value)
