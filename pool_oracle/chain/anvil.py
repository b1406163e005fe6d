"""A local EVM chain in a process of its own (anvil, from the npm package), for the demo and for tests."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from types import TracebackType

from pool_oracle.errors import SetupError
from pool_oracle.processes import start_child, stop_child

# Mnemonic of the accounts that anvil makes and funds; known to everybody, worth nothing.
TEST_MNEMONIC = "test test test test test test test test test test test junk"
START_TIMEOUT_SECONDS = 30


def find_project_root(start: Path | None = None) -> Path:
    """The folder of the checkout that holds contracts and npm packages. Raises SetupError outside one."""
    for folder in [start or Path.cwd(), Path(__file__).resolve().parents[2]]:
        for candidate in [folder, *folder.parents]:
            if (candidate / "brownie-config.yaml").exists() and (candidate / "contracts").is_dir():
                return candidate
    raise SetupError("no checkout of pool_oracle found here; run this from a clone, after 'make setup'")


def find_anvil(root: Path) -> Path:
    """The anvil program for this platform. Raises SetupError where npm has not brought it."""
    for found in sorted((root / "node_modules" / "@foundry-rs").glob("anvil-*/bin/anvil")):
        return found
    raise SetupError("anvil is missing under node_modules; run 'make setup' (npm brings it for Linux and macOS)")


def free_port() -> int:
    """A TCP port that was free on loopback a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Anvil:
    """A running anvil. Use it as a context manager, or call `stop`."""

    def __init__(self, root: Path | None = None, *, chain_id: int = 31337, block_seconds: int = 0) -> None:
        """Start anvil on a free loopback port and wait until it answers.

        `block_seconds` 0 makes a block for every transaction. Raises SetupError if it does not start.
        """
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [str(find_anvil(root or find_project_root())), "--silent", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--chain-id", str(chain_id), "--accounts", "20"]
        command += ["--mnemonic", TEST_MNEMONIC, "--hardfork", "cancun"]
        if block_seconds:
            command += ["--block-time", str(block_seconds)]
        self._process = start_child(command)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise SetupError(f"anvil ended at once with status {self._process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SetupError(f"anvil did not answer within {START_TIMEOUT_SECONDS} seconds")

    @property
    def pid(self) -> int:
        """The process id of anvil."""
        return self._process.pid

    def stop(self) -> None:
        """End the process and wait for it. Calling it again does nothing."""
        stop_child(self._process)

    def __enter__(self) -> Anvil:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
