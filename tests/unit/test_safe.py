"""Proposals for a Safe's Transaction Builder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pool_oracle.chain.calls import Request
from pool_oracle.chain.safe import batch_checksum, proposal_path, safe_batch, write_proposal
from pool_oracle.errors import ChainError

TARGET = "0x49d4450977E2c95362C13D3a31a09311E0Ea26A6"
SAFE = "0xDF8a1Ce35c9a6ACE153B4e0767942f1E2291a1Aa"
REQUEST = Request("commit", TARGET, "0xe3ce094d", 0)

# The Transaction Builder's own test (apps/tx-builder/src/lib/checksum.test.ts), whose file holds an empty checksum
# that is hashed with the rest.
UPSTREAM: dict[str, Any] = {
    "version": "1.0",
    "chainId": "4",
    "createdAt": 1646321521061,
    "meta": {
        "name": "test batch file",
        "txBuilderVersion": "1.4.0",
        "checksum": "",
        "createdFromSafeAddress": SAFE,
        "createdFromOwnerAddress": TARGET,
    },
    "transactions": [
        {
            "to": TARGET,
            "value": "0",
            "contractMethod": {
                "inputs": [{"internalType": "address", "name": "paramAddress", "type": "address"}],
                "name": "testAddress",
                "payable": False,
            },
            "contractInputsValues": {"paramAddress": TARGET},
        },
        {
            "to": TARGET,
            "value": "0",
            "contractMethod": {
                "inputs": [{"internalType": "bool", "name": "paramBool", "type": "bool"}],
                "name": "testBool",
                "payable": False,
            },
            "contractInputsValues": {"paramAddress": "", "paramBool": "false"},
        },
        {
            "to": TARGET,
            "value": "2000000000000000000",
            "data": "0x42f4579000000000000000000000000049d4450977e2c95362c13d3a31a09311e0ea26a6",
        },
    ],
}


def test_the_checksum_is_the_builders_own() -> None:
    assert batch_checksum(UPSTREAM) == "0x4ecbfd364aa6759983915644e73f8bd411e85a2dc306f252a387c2728c4db64c"


def test_a_batch_holds_one_call_with_its_checksum(tmp_path: Path) -> None:
    path = proposal_path(tmp_path / "proposals", REQUEST, "commit:7")
    assert path.name.startswith("commit-7-")
    write_proposal(path, safe_batch(30, SAFE, REQUEST, "commit:7: commit(0x01, 0x02)", 1_700_000_000_000))
    batch = json.loads(path.read_text())
    assert batch["version"] == "1.0"
    assert batch["chainId"] == "30"
    assert batch["meta"]["createdFromSafeAddress"] == SAFE
    assert batch["meta"].pop("checksum") == batch_checksum(batch)
    (transaction,) = batch["transactions"]
    assert transaction == {
        "to": TARGET,
        "value": "0",
        "data": "0xe3ce094d",
        "contractMethod": None,
        "contractInputsValues": None,
    }


def test_another_call_under_the_same_intent_is_another_file(tmp_path: Path) -> None:
    other = Request("commit", TARGET, "0xffffffff", 0)
    assert proposal_path(tmp_path, REQUEST, "commit:7") != proposal_path(tmp_path, other, "commit:7")
    assert proposal_path(tmp_path, REQUEST, "../../etc: x").parent == tmp_path


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ChainError, match=r"cannot be written: "):
        write_proposal(tmp_path / "file" / "x.json", safe_batch(1, SAFE, REQUEST, "", 0))
