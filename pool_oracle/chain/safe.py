"""Proposals for a Safe: a call as a file that its Transaction Builder loads, with the checksum that it checks.

Format: version 1.0 of the Transaction Builder's batch files, and its lib/checksum.ts
(https://github.com/safe-global/safe-react-apps, apps/tx-builder).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from pool_oracle.chain.calls import Request
from pool_oracle.errors import ChainError
from pool_oracle.hashes import keccak256

BUILDER_VERSION = "1.16.5"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def proposal_path(folder: Path, request: Request, intent: str | None) -> Path:
    """Where a request's file goes: the same call under the same intent is the same file."""
    name = _NOT_IN_NAMES.sub("-", intent or request.what).strip("-.")
    content = f"{request.to.lower()} {request.data} {request.value}"
    return folder / f"{name}-{keccak256(content.encode()).hex()[:8]}.json"


def safe_batch(chain_id: int, safe: str, request: Request, description: str, created: int) -> dict[str, Any]:
    """A batch of one call, which the builder shows with `description`; `created` is Unix time in ms."""
    batch: dict[str, Any] = {
        "version": "1.0",
        "chainId": str(chain_id),
        "createdAt": created,
        "meta": {
            "name": request.what,
            "description": description,
            "txBuilderVersion": BUILDER_VERSION,
            "createdFromSafeAddress": safe,
            "createdFromOwnerAddress": "",
        },
        "transactions": [
            {
                "to": request.to,
                "value": str(request.value),
                "data": request.data,
                "contractMethod": None,
                "contractInputsValues": None,
            }
        ],
    }
    batch["meta"]["checksum"] = batch_checksum(batch)
    return batch


def batch_checksum(batch: dict[str, Any]) -> str:
    """Keccak-256 of a batch that has no checksum yet, without its name, in the builder's own way to write it."""
    nameless = batch | {"meta": batch["meta"] | {"name": None}}
    return f"0x{keccak256(_serialized(nameless).encode()).hex()}"


def _serialized(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(_serialized(item) for item in value)}]"
    if isinstance(value, dict):
        names = sorted(value)
        return f"{{{_plain(names)}{''.join(f'{_serialized(value[name])},' for name in names)}}}"
    return _plain(value)


def _plain(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def write_proposal(path: Path, batch: dict[str, Any]) -> None:
    """Write a proposal, whole or not at all. Raises ChainError where it cannot be written."""
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            json.dump(batch, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise ChainError(f"{path} cannot be written: {error.strerror}") from None
