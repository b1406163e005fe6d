"""The record of a deployment: `CHAIN-ID.json` and beside it the genesis manifest and the compiler's input.

A contract is written down before its transaction is sent (address, arguments, nonce) and completed when it is mined, so
that a run that was interrupted anywhere goes on where it stopped. What is written is never rewritten by a later run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pool_oracle.errors import ConfigError


class Record:
    """The files of one deployment in one folder. `contracts`: name in pool-oracle.toml to what is known of it."""

    def __init__(self, folder: Path, chain_id: int) -> None:
        """Read what is there. Raises ConfigError when it is no record of this chain."""
        self.folder = folder
        self.path = folder / f"{chain_id}.json"
        self._chain_id = chain_id
        self.data: dict[str, Any] = {}
        try:
            self.data = json.loads(self.path.read_text(encoding="utf-8"))
            self._check()
        except FileNotFoundError:
            self._clear()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"{self.path} cannot be read as a record of chain {chain_id}; restore it, or name another 'output'"
            ) from None

    @property
    def contracts(self) -> dict[str, Any]:
        """Name to entry; an entry without `block` is planned, and perhaps sent."""
        contracts: dict[str, Any] = self.data["contracts"]
        return contracts

    def begin(self, settings: dict[str, Any], compiler: dict[str, str]) -> None:
        """Name what is deployed, for a new record, or hold what is wanted against what the record says.

        Raises ConfigError with everything that differs.
        """
        if not self.contracts:
            self._clear()
            self.data |= {"settings": settings, "compiler": compiler}
            return
        changes = list(_differences(self.data["settings"], settings, ""))
        if changes:
            raise ConfigError(
                f"{self.path} was deployed with other settings: {'; '.join(changes)}; put them back, or name another "
                "'output' folder to deploy anew"
            )

    def refuse_other_compiler(self, compiler: dict[str, str]) -> None:
        """Raise ConfigError when a deployment is to go on with other sources than it began with."""
        if self.data["compiler"] != compiler:
            raise ConfigError(
                f"{self.path} was begun with compiler input {self.data['compiler']['input_hash'][:16]}, and build/ is "
                f"of {compiler['input_hash'][:16]}: go back to those sources and 'make contracts', or name another "
                "'output' folder to deploy anew"
            )

    def drop(self, name: str) -> None:
        """Forget a planned contract that was never sent."""
        del self.contracts[name]

    def save(self) -> None:
        """Write the record, if it changed, in one step."""
        self._write(self.path, json.dumps(self.data, indent=1).encode() + b"\n")

    def save_manifest(self, manifest: bytes) -> None:
        """Write the canonical bytes of epoch 0's manifest."""
        self._write(self.folder / f"{self._chain_id}-genesis-manifest.json", manifest)

    def save_compiler_input(self, source: bytes) -> None:
        """Write the exact standard JSON that the contracts were compiled from."""
        self._write(self.folder / f"{self._chain_id}-solc-input.json", source)

    def _clear(self) -> None:
        self.data = {"chain_id": self._chain_id, "settings": {}, "compiler": {}, "genesis": {}, "contracts": {}}

    def _check(self) -> None:
        if self.data.keys() != {"chain_id", "settings", "compiler", "genesis", "contracts"}:
            raise KeyError
        if self.data["chain_id"] != self._chain_id:
            raise ValueError
        for entry in self.contracts.values():
            if not {"contract", "address", "deployer", "nonce", "encoded_arguments"} <= entry.keys():
                raise KeyError

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        try:
            if path.exists() and path.read_bytes() == content:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.draft")
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    """'policy.window was 2 and is 3' for every value that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield f"{where} was {_shown(old)} and is {_shown(new)}"


def _shown(value: Any) -> str:
    return "not set" if value is None else "set" if isinstance(value, dict) else str(value)
