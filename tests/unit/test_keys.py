"""Who signs: keystores, key files, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from eth_account import Account
from structlog.testing import capture_logs

from pool_oracle.chain.keys import RemoteSigner, signer_from_key_file, signer_from_keystore
from pool_oracle.errors import SetupError, SigningFailed

KEY = f"0x{'4f' * 32}"
NOBODY = "0x000000000000000000000000000000000000dEaD"
TRANSACTION = {"chainId": 1, "nonce": 0, "gas": 21_000, "gasPrice": 9, "value": 1, "data": "0x", "to": NOBODY}


def secret(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture(scope="module")
def keystore() -> str:
    """Version 3; cheap to open."""
    return json.dumps(Account.encrypt(KEY, "correct horse", kdf="pbkdf2", iterations=2))


def test_a_keystore_opens_with_the_first_line_of_its_password_file(tmp_path: Path, keystore: str) -> None:
    password = secret(tmp_path / "password", "correct horse\n")
    signer = signer_from_keystore(secret(tmp_path / "keystore", keystore), password)
    assert signer.address == Account.from_key(KEY).address
    raw = signer.sign(TRANSACTION)
    assert Account.recover_transaction(raw) == signer.address


def test_a_wrong_password_and_what_is_no_keystore_are_named(tmp_path: Path, keystore: str) -> None:
    password = secret(tmp_path / "password", "battery staple")
    store = secret(tmp_path / "keystore", keystore)
    with pytest.raises(SetupError, match=f"the password in {password} does not open the keystore {store}"):
        signer_from_keystore(store, password)
    for text, problem in (
        ("{", "is not JSON; is it a keystore of version 3"),
        ("{}", "is no keystore of version 3"),
        ("[]", "is no keystore of version 3"),
        ('{"version": 1, "crypto": {}}', "is no keystore of version 3"),
        (keystore.replace("pbkdf2", "md5"), "is no keystore of version 3"),
    ):
        with pytest.raises(SetupError, match=problem):
            signer_from_keystore(secret(store, text), password)


def test_a_raw_key_is_taken_with_a_warning(tmp_path: Path) -> None:
    with capture_logs() as logs:
        signer = signer_from_key_file(secret(tmp_path / "key", f"{KEY}\n"))
    assert signer.address == Account.from_key(KEY).address
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert KEY[2:] not in str(logs)


def test_a_credential_of_systemds_is_taken_although_its_acl_looks_like_a_right_of_the_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secret(tmp_path / "key", KEY, 0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "another"))
    with pytest.raises(SetupError, match="can be read by others"):
        signer_from_key_file(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert signer_from_key_file(path).address == Account.from_key(KEY).address


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o666])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = secret(tmp_path / "key", KEY, mode)
    with pytest.raises(SetupError, match=rf"{path} can be read by others \(mode {mode:04o}\); run 'chmod 600 {path}'"):
        signer_from_key_file(path)


@pytest.mark.parametrize("text", ["", "0x12", "not a key", KEY + "00", "0x" + "00" * 32])
def test_what_is_no_key_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    path = secret(tmp_path / "key", text)
    with pytest.raises(SetupError, match=r"does not hold a private key \(0x and 64 hex digits\)") as refusal:
        signer_from_key_file(path)
    assert not text or text not in str(refusal.value)


def test_missing_files_folders_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read: No such file or directory"):
        signer_from_key_file(tmp_path / "none")
    with pytest.raises(SetupError, match="is no regular file"):
        signer_from_key_file(tmp_path)
    binary = secret(tmp_path / "binary", "")
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match="is not text"):
        signer_from_key_file(binary)


def test_a_remote_signer_that_is_not_there_is_named_by_its_host_alone() -> None:
    signer = RemoteSigner("http://127.0.0.1:9/key/secret", NOBODY)
    with pytest.raises(SigningFailed, match=r"^the signer at http://127.0.0.1:9 does not answer \(ConnectionError\)$"):
        signer.sign(TRANSACTION)
