"""One anvil for all contract tests, and what they share: deploying, sending, reading errors, building claims.

And for the analysers: projects of their own, in which they may leave what they like.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from pool_oracle.chain.anvil import Anvil
from pool_oracle.hashes import hash160, keccak256, sha256d
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.work.serialize import compact_size

with warnings.catch_warnings():
    # web3 imports the deprecated legacy client of websockets, which nothing here uses.
    warnings.simplefilter("ignore", DeprecationWarning)
    from eth_abi import decode
    from web3 import HTTPProvider, Web3
    from web3.exceptions import ContractLogicError
    from web3.logs import DISCARD

ROOT = Path(__file__).resolve().parents[2]
GAS = 10_000_000
ETHER = 10**18
MANIFEST = bytes.fromhex("3a" * 32)
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class Chain:
    """The local chain, seen from a test: accounts that sign by themselves, and a clock that only the test moves."""

    def __init__(self, url: str) -> None:
        self.w3 = Web3(HTTPProvider(url))
        self.accounts = self.w3.eth.accounts
        self._artifacts: dict[str, Any] = {}
        self._errors: dict[bytes, tuple[str, list[str]]] = {}
        for path in sorted((ROOT / "build" / "artifacts").glob("*.json")):
            artifact = json.loads(path.read_text())
            self._artifacts[artifact["contractName"]] = artifact
            for entry in artifact["abi"]:
                if entry["type"] == "error":
                    types = [i["type"] for i in entry["inputs"]]
                    selector = keccak256(f"{entry['name']}({','.join(types)})".encode())[:4]
                    self._errors[selector] = (entry["name"], types)
        assert self._artifacts, "no artifacts under build/; run scripts/compile.py"

    def raw(self, method: str, *params: Any) -> Any:
        """An RPC call that web3 has no function for."""
        answer = self.w3.provider.make_request(method, list(params))
        assert "error" not in answer, answer
        return answer["result"]

    def artifact(self, name: str) -> Any:
        """What the compiler made of a contract."""
        return self._artifacts[name]

    def at(self, name: str, address: str) -> Any:
        """The contract at an address."""
        return self.w3.eth.contract(address=address, abi=self._artifacts[name]["abi"])

    def deploy(self, name: str, *args: Any) -> Any:
        """A new contract."""
        artifact = self._artifacts[name]
        contract = self.w3.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"])
        return self.at(name, self.send(contract.constructor(*args))["contractAddress"])

    def send(self, call: Any, *, sender: str | None = None, value: int = 0, gas: int = GAS) -> Any:
        """Send a transaction that must succeed; returns its receipt."""
        receipt = self.try_send(call, sender=sender, value=value, gas=gas)
        assert receipt["status"] == 1, f"{call} reverted"
        return receipt

    def try_send(self, call: Any, *, sender: str | None = None, value: int = 0, gas: int = GAS) -> Any:
        """Send a transaction that may revert; returns its receipt."""
        terms = {"from": sender or self.accounts[0], "value": value, "gas": gas, "gasPrice": 2 * 10**9}
        return self.w3.eth.wait_for_transaction_receipt(call.transact(terms), poll_latency=0.002)

    def pay(self, address: str, value: int) -> Any:
        """A plain transfer from an account of the chain."""
        terms = {"from": self.accounts[9], "to": address, "value": value, "gas": 100_000, "gasPrice": 2 * 10**9}
        return self.w3.eth.wait_for_transaction_receipt(self.w3.eth.send_transaction(terms), poll_latency=0.002)

    def refusal(self, call: Any, *, sender: str | None = None, value: int = 0) -> tuple[Any, ...]:
        """The error that a call is refused with, as (name, *arguments)."""
        with pytest.raises(ContractLogicError) as caught:
            call.call({"from": sender or self.accounts[0], "value": value, "gas": GAS})
        return self._decode(str(caught.value.data))

    def refusal_to_deploy(self, name: str, *args: Any) -> tuple[Any, ...]:
        """The error that a constructor refuses its arguments with, as (name, *arguments)."""
        artifact = self._artifacts[name]
        constructor = self.w3.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"]).constructor(*args)
        with pytest.raises(ContractLogicError) as caught:
            self.w3.eth.call({"data": constructor.data_in_transaction, "gas": GAS})
        return self._decode(str(caught.value.data))

    def refusal_of_raw(self, **transaction: Any) -> tuple[Any, ...]:
        """The error that a transaction, given as JSON-RPC takes it, is refused with, as (name, *arguments)."""
        answer = self.w3.provider.make_request("eth_call", [transaction, "latest"])
        return self._decode(answer["error"]["data"])

    def _decode(self, error: str) -> tuple[Any, ...]:
        data = bytes.fromhex(error[2:])
        assert data[:4] in self._errors, f"an error without a name: {error}"
        name, types = self._errors[data[:4]]
        values = zip(types, decode(types, data[4:]), strict=True)
        return (name, *(Web3.to_checksum_address(value) if kind == "address" else value for kind, value in values))

    @staticmethod
    def events(event: Any, receipt: Any) -> list[dict[str, Any]]:
        """The arguments of each such event in a receipt."""
        return [dict(log["args"]) for log in event().process_receipt(receipt, errors=DISCARD)]

    def payments(self, receipt: Any) -> list[tuple[str, int]]:
        """Every call of a transaction that moved wei, as (to, amount)."""
        found = []
        pending = [self.raw("debug_traceTransaction", receipt["transactionHash"].to_0x_hex(), {"tracer": "callTracer"})]
        while pending:
            call = pending.pop()
            pending.extend(call.get("calls", []))
            if int(call.get("value", "0x0"), 16) > 0:
                found.append((Web3.to_checksum_address(call["to"]), int(call["value"], 16)))
        return found

    def selector(self, error: str) -> bytes:
        """The first four bytes of an error's data."""
        return next(selector for selector, (name, _) in self._errors.items() if name == error)

    def balance(self, address: str) -> int:
        """Wei."""
        return self.w3.eth.get_balance(address)

    def credit(self, address: str, value: int) -> None:
        """Let money appear as a coinbase reward does: no call, no code run."""
        self.raw("anvil_setBalance", address, hex(self.balance(address) + value))

    def set_code(self, address: str, code: bytes) -> None:
        """Put runtime code at an address."""
        self.raw("anvil_setCode", address, "0x" + code.hex())

    @property
    def now(self) -> int:
        """The time of the latest block."""
        return self.w3.eth.get_block("latest")["timestamp"]

    def next_block_at(self, timestamp: int) -> None:
        """The next transaction's block has this time."""
        self.raw("evm_setNextBlockTimestamp", timestamp)


class Pool:
    """A distributor with three miners in its genesis tree, and short words for what tests do with it."""

    def __init__(self, chain: Chain, *, leaves: dict[bytes, int] | None = None, **settings: Any) -> None:
        self.chain = chain
        self.operator, self.stranger, self.relayer = chain.accounts[1:4]
        self.fee_recipient = account(b"fee recipient")
        self.miners = [account(b"miner %d" % i) for i in range(3)]
        self.payees = [payee_of(m) for m in self.miners]
        self.tree = SumTree((leaves or dict(zip(self.payees, (5, 3, 2), strict=True))).items())
        self.settings = {
            "operator": self.operator,
            "feeRecipient": self.fee_recipient,
            "feeBps": 0,
            "feeCapBps": 500,
            "activationDelay": 0,
            "minPayout": 0,
            "genesisRoot": self.tree.root,
            "genesisManifestHash": MANIFEST,
        } | settings
        self.contract = chain.deploy("NativeDistributor", tuple(self.settings.values()))
        self.address = self.contract.address
        self.call = self.contract.functions

    def commit(self, tree: SumTree) -> Any:
        """The operator commits a tree."""
        return self.chain.send(self.call.commit(tree.root, MANIFEST), sender=self.operator)

    def reward(self, value: int) -> None:
        """A block reward arrives, and nobody has told the contract yet."""
        self.chain.credit(self.address, value)

    def payout(self, value: int) -> int:
        """A block reward arrives and is attributed; returns the payout's id."""
        self.reward(value)
        self.chain.send(self.call.sync())
        return self.call.payoutCount().call() - 1

    def fund(self, tree: SumTree, value: int) -> int:
        """Somebody funds a payout with a root of its own; returns its id."""
        self.chain.send(self.call.fund(tree.root, MANIFEST), value=value, sender=self.stranger)
        return self.call.payoutCount().call() - 1

    def claim(self, payee: bytes, *payout_ids: int, tree: SumTree | None = None) -> Any:
        """The call that claims these payouts for a payee."""
        return self.call.claim(payee, [claim_of(tree or self.tree, payee, i) for i in payout_ids])

    def claim_many(self, payout_id: int, payees: Sequence[bytes], tree: SumTree | None = None) -> Any:
        """The call that claims one payout for many payees."""
        return self.call.claimMany(payout_id, [payee_claim_of(tree or self.tree, p) for p in payees])

    def unattributed(self) -> int:
        """What has arrived and is in no payout yet."""
        return self.chain.balance(self.address) - self.call.totalAccounted().call()


class ForgeProject:
    """A project of some of our sources, compiled as ours are, for an analyser of `.venv-analysis`."""

    ANALYSERS = ROOT / ".venv-analysis"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        self._home = folder / "home"  # all of them write there
        self._home.mkdir()
        shutil.copytree(ROOT / "scripts" / "solc", self.folder / "scripts" / "solc")
        shutil.copyfile(ROOT / "foundry.toml", self.folder / "foundry.toml")
        (self.folder / "node_modules").symlink_to(ROOT / "node_modules")

    def add(self, *names: str) -> None:
        """Copy sources, and those that they import by a relative path."""
        for name in names:
            copy = self.folder / name
            if copy.exists():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = (ROOT / name).read_text(encoding="utf-8")
            copy.write_text(text, encoding="utf-8")
            imported = [line.split('"')[1] for line in text.splitlines() if line.startswith("import ") and '"' in line]
            self.add(*(os.path.normpath(Path(name).parent / path) for path in imported if path.startswith(".")))

    def replace(self, name: str, old: str, new: str) -> None:
        """Change what stands in one place of a source; that it stands there no more is a failure."""
        text = (self.folder / name).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} does not say once: {old!r}; adapt this test to the source"
        (self.folder / name).write_text(text.replace(old, new), encoding="utf-8")

    def run(self, program: str, *arguments: str, timeout: int) -> subprocess.CompletedProcess[str]:
        """Run a program of the analysers' environment in the project; it sees nothing of the user's settings."""
        programs, packages = self.ANALYSERS / "bin", ROOT / "node_modules" / ".bin"
        assert (self.ANALYSERS / ".ready").exists(), "the analysers are not installed: run 'make analysers'"
        assert (packages / "forge").exists(), "forge is not installed: run 'make setup'"
        return subprocess.run(
            [str(programs / program), *arguments],
            cwd=self.folder,
            env={"HOME": str(self._home), "PATH": f"{packages}:{programs}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


class BitcoinKey:
    """A Bitcoin key that signs messages (BIP-137) in any of the four forms."""

    FIRST_HEADER = {"uncompressed": 27, "compressed": 31, "nested": 35, "segwit": 39}  # noqa: RUF012 a constant

    def __init__(self, secret: bytes) -> None:
        self._key = PrivateKey(keccak256(secret))
        point = self._key.public_key.format(compressed=False)
        self.x, self.y = int.from_bytes(point[1:33], "big"), int.from_bytes(point[33:], "big")
        key_hash = hash160(self._key.public_key.format())
        self.payees = {
            "uncompressed": b"\x01" + hash160(point),
            "compressed": b"\x01" + key_hash,
            "nested": b"\x02" + hash160(b"\x00\x14" + key_hash),
            "segwit": b"\x01" + key_hash,
        }

    def sign(self, message: str, form: str = "segwit") -> tuple[int, bytes, bytes, int, int]:
        """The signature as the contract takes it: header, r, s, x, y."""
        text = message.encode()
        digest = sha256d(b"\x18Bitcoin Signed Message:\n" + compact_size(len(text)) + text)
        raw = self._key.sign_recoverable(digest, hasher=None)
        return (self.FIRST_HEADER[form] + raw[64], raw[:32], raw[32:64], self.x, self.y)


def account(name: bytes) -> str:
    """An address that nobody has used."""
    return Web3.to_checksum_address(keccak256(name)[12:])


def payee_of(address: str) -> bytes:
    return b"\x00" + bytes.fromhex(address[2:])


def claim_of(tree: SumTree, payee: bytes, payout_id: int) -> tuple[int, int, int, list[bytes]]:
    proof = tree.proof(payee)
    return (payout_id, proof.index, proof.weight, list(proof.siblings))


def payee_claim_of(tree: SumTree, payee: bytes) -> tuple[bytes, int, int, list[bytes]]:
    proof = tree.proof(payee)
    return (payee, proof.index, proof.weight, list(proof.siblings))


def flip_s(signature: tuple[int, bytes, bytes, int, int]) -> tuple[int, bytes, bytes, int, int]:
    """The other form of the same signature: n - s, with the other recovery id."""
    header, r, s, x, y = signature
    other = 1 if (header - 27) & 1 == 0 else -1
    return (header + other, r, (SECP256K1_ORDER - int.from_bytes(s, "big")).to_bytes(32, "big"), x, y)


@pytest.fixture(scope="session")
def local_chain() -> Iterator[Chain]:
    """The one chain of the session. Tests that change it ask for `chain`."""
    with Anvil(ROOT) as anvil:
        yield Chain(anvil.url)


@pytest.fixture
def chain(local_chain: Chain) -> Iterator[Chain]:
    """The chain, set back after the test to what it was before."""
    snapshot = local_chain.raw("evm_snapshot")
    yield local_chain
    assert local_chain.raw("evm_revert", snapshot)


@pytest.fixture(scope="session")
def harness(local_chain: Chain) -> Any:
    """The functions of FormatsHarness, which has no state."""
    return local_chain.deploy("FormatsHarness").functions


@pytest.fixture
def make_pool(chain: Chain) -> Any:
    """Makes a Pool: `make_pool(leaves=..., feeBps=...)`."""
    return lambda **settings: Pool(chain, **settings)


@pytest.fixture
def pool(chain: Chain) -> Pool:
    """A pool without fee, delay and minimum."""
    return Pool(chain)


@pytest.fixture(scope="session")
def make_project(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a ForgeProject with nothing in it yet."""
    return lambda: ForgeProject(tmp_path_factory.mktemp("forge"))


@pytest.fixture(scope="session")
def make_key() -> Any:
    """Makes a BitcoinKey from a secret."""
    return BitcoinKey


@pytest.fixture(scope="session")
def other_form() -> Any:
    """Turns a signature into its other form, n - s."""
    return flip_s


@pytest.fixture(scope="session")
def make_account() -> Any:
    """Makes an address that nobody has used, from a name."""
    return account


@pytest.fixture(scope="session")
def make_payee() -> Any:
    """Makes the payee of an address."""
    return payee_of


@pytest.fixture(scope="session")
def make_claim() -> Any:
    """Makes one item of `claim` from a tree, a payee and a payout id."""
    return claim_of


@pytest.fixture(scope="session")
def vectors() -> Any:
    """Reads a file of test vectors by name."""
    return lambda name: json.loads((ROOT / "tests" / "vectors" / f"{name}.json").read_text())
