"""A distributor on a real chain, published bundles, and a pool's API that can lie, for tests of claims."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pool_oracle.chain.anvil import find_project_root
from pool_oracle.chain.client import Chain, Sender
from pool_oracle.chain.deploy import DistributorSettings, deploy, load_artifact, next_contract_address
from pool_oracle.chain.distributor import DistributorClient, part_of
from pool_oracle.demo.scenario import FEE_RECIPIENT, OPERATOR, STRANGER, demo_accounts
from pool_oracle.epoch.keeper import Identity, genesis_manifest
from pool_oracle.ledger.bundle import bundle_folders, read_leaves, read_manifest, write_bundle
from pool_oracle.payout.commitment import epoch_commitment
from pool_oracle.payout.manifest import Policy
from pool_oracle.payout.payee import format_payee, parse_payee, payee_of_account
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.payout.window import S
from pool_oracle.units import Payee

CLI = [sys.executable, "-m", "pool_oracle.cli"]

Lie = Callable[[dict[str, Any]], "tuple[int, str, bytes] | dict[str, Any]"]


@contextlib.contextmanager
def quiet(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
    """Progress that nobody watches."""
    yield lambda _more: None


def stranger_payee(number: int) -> Payee:
    """An EVM account that nobody has used yet."""
    return payee_of_account(b"\xaa" * 16 + number.to_bytes(4, "big"))


class World:
    """A distributor, and the bundles of its pool in a folder."""

    def __init__(self, url: str, folder: Path, route: str = "flyover") -> None:
        self.url = url
        self.folder = folder
        self.bundles = folder / "bundles"
        self.bundles.mkdir()
        self.chain = Chain(url)
        self.accounts = demo_accounts()
        self.sender = Sender(self.chain, self.accounts[OPERATOR])
        address = next_contract_address(self.chain, self.sender.address)
        genesis = stranger_payee(0xFFFF)
        policy = Policy("pplns", 2, 100, str(S), format_payee(genesis), None)
        self.identity = Identity("test pool", "regtest", self.chain.chain_id, address, route, policy)
        self.last, tree = genesis_manifest(self.identity, genesis)
        settings = DistributorSettings(
            operator=self.sender.address,
            fee_recipient=str(self.accounts[FEE_RECIPIENT].address),
            fee_bps=100,
            fee_cap_bps=100,
            activation_delay=0,
            min_payout=0,
            genesis_root=tree.root,
            genesis_manifest_hash=self.last.hash(),
        )
        self.client = DistributorClient(
            self.chain,
            deploy(self.sender, load_artifact(find_project_root(), "NativeDistributor"), settings.as_tuple()),
        )
        write_bundle(self.bundles, 0, self.last.to_bytes(), tree.leaves, [])
        self.trees = [tree]

    def epoch(self, leaves: list[tuple[Payee, int]]) -> int:
        """Publish an epoch; returns its number."""
        tree = SumTree(leaves)
        self.last = replace(
            self.last,
            epoch=self.last.epoch + 1,
            previous=f"0x{self.last.hash().hex()}",
            leaves=len(tree),
            total=str(tree.total),
            root=f"0x{tree.root.hex()}",
        )
        write_bundle(self.bundles, self.last.epoch, self.last.to_bytes(), tree.leaves, [])
        self.trees.append(tree)
        return self.last.epoch

    def manifest_hash(self, epoch: int) -> bytes:
        """Of a published epoch."""
        return read_manifest(bundle_folders(self.bundles)[epoch])[1]

    def commitment(self, epoch: int) -> bytes:
        """Of a published epoch."""
        root, digest = self.trees[epoch].root, self.manifest_hash(epoch)
        return epoch_commitment(self.chain.chain_id, self.client.address_bytes, root, digest)

    def fund(self, epoch: int, value: int = 10**18, times: int = 1) -> None:
        """Payouts with an epoch's root."""
        call = self.client.contract.functions.fund(self.trees[epoch].root, self.manifest_hash(epoch))
        for _ in range(times):
            self.sender.send(call, value=value)

    def key_file(self, place: int = STRANGER) -> Path:
        """A file with the private key of one of anvil's accounts."""
        path = self.folder / f"account-{place}.key"
        path.touch(mode=0o600)
        path.write_text(f"0x{bytes(self.accounts[place].key).hex()}")
        return path

    def account(self, place: int = STRANGER) -> str:
        """The address of one of anvil's accounts."""
        return str(self.accounts[place].address)

    def run(self, *arguments: str, wanted: int = 0, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """A command as a user runs it."""
        done = subprocess.run(
            [*CLI, *arguments, "--rpc", self.url],
            cwd=self.folder,
            capture_output=True,
            text=True,
            input=text,
            timeout=120,
            check=False,
        )
        assert done.returncode == wanted, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def proof_answer(self, payout: int, payee: str) -> dict[str, Any]:
        """What an honest pool answers."""
        source = self.client.payout(payout)
        who = parse_payee(payee)
        epoch = [tree.root for tree in self.trees].index(source.root)
        proof = SumTree(read_leaves(bundle_folders(self.bundles)[epoch])).proof(who)
        return {
            "payout": payout,
            "epoch": epoch,
            "payee": payee,
            "weight": str(proof.weight),
            "index": proof.index,
            "proof": [f"0x{word.hex()}" for word in proof.siblings],
            "root": f"0x{source.root.hex()}",
            "amount": str(part_of(source, proof.weight)),
            "claimed": False,
        }

    @contextlib.contextmanager
    def api(self, lie: Lie = lambda answer: answer) -> Iterator[str]:
        """A pool's API, whose proofs go through `lie`; yields its address."""
        world = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = world._answer(self.path, lie)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _answer(self, path: str, lie: Lie) -> tuple[int, str, bytes]:
        parts = path.strip("/").split("/")[2:]
        if parts[0] == "proof":
            try:
                answer = lie(self.proof_answer(int(parts[1]), parts[2]))
            except Exception as error:
                problem = {"type": "about:blank", "status": 404, "detail": str(error)}
                return 404, "application/problem+json", json.dumps(problem).encode()
        elif len(parts) == 3:
            return 200, "application/json", (bundle_folders(self.bundles)[int(parts[1])] / parts[2]).read_bytes()
        else:
            rows = [
                {"epoch": i, "root": f"0x{tree.root.hex()}", "manifestHash": f"0x{self.manifest_hash(i).hex()}"}
                for i, tree in enumerate(self.trees)
            ]
            return 200, "application/json", json.dumps(rows).encode()
        if isinstance(answer, tuple):
            return answer
        return 200, "application/json", json.dumps(answer).encode()
