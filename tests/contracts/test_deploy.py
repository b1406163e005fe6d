"""`brownie run deploy` on a real chain: once, twice, changed, interrupted, and as somebody who makes mistakes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from pool_oracle.chain.anvil import Anvil
from pool_oracle.chain.client import Chain, Sender
from pool_oracle.chain.deploy import place_dev_bridge
from pool_oracle.chain.flyover import BRIDGE_ADDRESS
from pool_oracle.demo.scenario import POWPEG_REDEEM_SCRIPT, PROVIDER_REFUND, USER_REFUND, demo_accounts
from pool_oracle.hashes import hash160
from pool_oracle.node.embedded import REGTEST_GENESIS_HASH
from pool_oracle.payout.addresses import encode_base58check
from pool_oracle.payout.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
CHAIN_ID = 31_337
OPERATOR, FEE_RECIPIENT, GENESIS, DEPLOYER = demo_accounts(4)
PASSWORD = "correct horse battery staple"  # noqa: S105 - of a key that everybody knows
POOR = Account.from_key(hash160(b"has nothing").rjust(32, b"\x01"))


def base58(digest: bytes) -> str:
    """A P2PKH address of regtest."""
    return encode_base58check(0x6F, digest)


def secret_file(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


class Project:
    """A copy of what `brownie run` needs, with a home folder of its own, and a chain to deploy to."""

    def __init__(self, folder: Path, chain: Chain) -> None:
        self.root, self.home, self.chain = folder / "project", folder / "home", chain
        self.home.mkdir()
        # Without sources there is nothing to compile: the script takes its code from build/artifacts.
        (self.root / "contracts" / "interfaces").mkdir(parents=True)
        (self.root / "tests").mkdir()
        shutil.copytree(ROOT / "scripts", self.root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(ROOT / "brownie-config.yaml", self.root / "brownie-config.yaml")
        shutil.copytree(ROOT / "build" / "artifacts", self.root / "build" / "artifacts")
        shutil.copyfile(ROOT / "build" / "solc-input.json", self.root / "build" / "solc-input.json")
        done = self.brownie("networks", "import", "scripts/deployment/network.yaml")
        assert done.returncode == 0, done.stdout + done.stderr

    def command(self, *arguments: str, settings: Path | None = None) -> dict[str, Any]:
        """The arguments of a subprocess that runs brownie."""
        environment = os.environ | {"HOME": str(self.home), "POOL_ORACLE_DEPLOY": str(settings)}
        program = str(Path(sys.executable).with_name("brownie"))
        return {"args": [program, *arguments], "cwd": self.root, "env": environment, "text": True}

    def brownie(self, *arguments: str, settings: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, settings=settings)
        return subprocess.run(**command, capture_output=True, timeout=120, check=False)


class Deployment:
    """A settings file of its own, and what running the script with it gives."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.chain, self.folder = project, project.chain, folder
        self.settings = folder / "deploy.toml"
        self.output = folder / "deployments"
        text = (ROOT / "deploy.example.toml").read_text()
        for field, value in (
            ("rpc", self.chain.url),
            ("genesis_payee", GENESIS.address),
            ("operator", OPERATOR.address),
            ("fee_recipient", FEE_RECIPIENT.address),
            ("user_refund", base58(USER_REFUND[1:])),
            ("provider_refund", base58(PROVIDER_REFUND[1:])),
        ):
            text, count = re.subn(rf'^{field} = ".*"$', f'{field} = "{value}"', text, flags=re.M)
            assert count == 1, field
        self.settings.write_text(text.replace("# window = 8", "window = 2").replace("# fee_bps = 0", "fee_bps = 100"))
        keystore = Account.encrypt(DEPLOYER.key, PASSWORD, kdf="pbkdf2", iterations=1000)
        secret_file(folder / "deployer.json", json.dumps(keystore))
        secret_file(folder / "deployer.password", PASSWORD + "\n")

    def change(self, old: str, new: str) -> None:
        text = self.settings.read_text()
        assert text.count(old) == 1, old
        self.settings.write_text(text.replace(old, new))

    def run(self, *function: str) -> subprocess.CompletedProcess[str]:
        done = self.project.brownie("run", "deploy", *function, "--network", "pool-oracle", settings=self.settings)
        for secret in (bytes(DEPLOYER.key).hex(), PASSWORD):
            assert secret not in done.stdout + done.stderr
        return done

    def succeed(self, *function: str) -> str:
        done = self.run(*function)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refusal(self, code: int) -> str:
        """The one line that a run ends with."""
        done = self.run()
        assert "Traceback" not in done.stderr
        assert "File" not in done.stdout, done.stdout
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stdout + done.stderr
        return done.stderr

    @property
    def record_path(self) -> Path:
        return self.output / f"{CHAIN_ID}.json"

    @property
    def record(self) -> Any:
        return json.loads(self.record_path.read_text())

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.output.iterdir()}

    def nonce(self) -> int:
        return self.chain.web3.eth.get_transaction_count(DEPLOYER.address)

    def contract(self, name: str) -> Any:
        """The deployed contract, with the ABI that the package ships."""
        entry = self.record["contracts"][name]
        return self.chain.contract(entry["contract"], entry["address"]).functions


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with Anvil(ROOT, chain_id=CHAIN_ID) as anvil:
        yield Project(tmp_path_factory.mktemp("brownie"), Chain(anvil.url))


@pytest.fixture
def deployment(project: Project, tmp_path: Path) -> Iterator[Deployment]:
    """Settings for a chain with the bridge, which afterwards is set back to what it was."""
    snapshot = project.chain.rpc("evm_snapshot")
    sender = Sender(project.chain, OPERATOR)
    place_dev_bridge(
        project.chain, sender, ROOT, POWPEG_REDEEM_SCRIPT, nested=True, anchor=REGTEST_GENESIS_HASH, height=0
    )
    yield Deployment(project, tmp_path)
    assert project.chain.rpc("evm_revert", snapshot)


def test_the_first_run_deploys_and_writes_what_a_pool_and_an_auditor_need(deployment: Deployment) -> None:
    out = deployment.succeed()
    record, files = deployment.record, deployment.files()
    assert files.keys() == {f"{CHAIN_ID}{end}.json" for end in ("", "-genesis-manifest", "-solc-input")}
    for name, entry in record["contracts"].items():
        assert f'{name} = "{entry["address"]}"' in out
        receipt = deployment.chain.web3.eth.get_transaction_receipt(entry["transaction"])
        assert (receipt["contractAddress"], receipt["blockNumber"]) == (entry["address"], entry["block"])
        artifact = json.loads((deployment.project.root / f"build/artifacts/{entry['contract']}.json").read_text())
        sent = deployment.chain.web3.eth.get_transaction(entry["transaction"])["input"].to_0x_hex()
        assert sent == artifact["bytecode"] + entry["encoded_arguments"][2:]
        assert artifact["compiler"]["inputHash"] == record["compiler"]["input_hash"]
    assert hashlib.sha256(files[f"{CHAIN_ID}-solc-input.json"]).hexdigest() == record["compiler"]["input_hash"]

    manifest = Manifest.from_bytes(files[f"{CHAIN_ID}-genesis-manifest.json"])
    root, digest, number, _ = deployment.contract("distributor").activeEpoch().call()
    assert (manifest.hash(), bytes.fromhex(manifest.root[2:]), 0) == (digest, root, number)
    assert record["genesis"] == {"manifest_hash": f"0x{digest.hex()}", "root": manifest.root}
    assert manifest.distributor == record["contracts"]["distributor"]["address"].lower()
    assert deployment.contract("distributor").operator().call() == OPERATOR.address
    assert deployment.contract("distributor").feeBps().call() == 100
    assert deployment.contract("flyover_route").distributor().call() == record["contracts"]["distributor"]["address"]
    assert deployment.contract("flyover_route").userRefund().call() == USER_REFUND


def test_a_second_run_changes_nothing_and_needs_no_key(deployment: Deployment) -> None:
    deployment.succeed()
    files, nonce = deployment.files(), deployment.nonce()
    (deployment.folder / "deployer.json").unlink()
    # What the operator may change afterwards is no difference.
    Sender(deployment.chain, OPERATOR).send(deployment.contract("distributor").lowerFee(50))
    assert "nothing to do" in deployment.succeed()
    assert (deployment.files(), deployment.nonce()) == (files, nonce)


def test_changed_settings_are_refused_until_another_folder_is_named(deployment: Deployment) -> None:
    deployment.succeed()
    files, nonce = deployment.files(), deployment.nonce()
    deployment.change("window = 2", "window = 3")
    deployment.change("fee_cap_bps = 200", "fee_cap_bps = 300")
    refusal = deployment.refusal(2)
    assert "distributor.fee_cap_bps was 200 and is 300; policy.window was 2 and is 3;" in refusal
    assert (deployment.files(), deployment.nonce()) == (files, nonce)
    deployment.change('# output = "deployments"', 'output = "again"')
    deployment.succeed()
    assert (deployment.files(), deployment.nonce()) == (files, nonce + 2)
    assert (deployment.folder / "again" / f"{CHAIN_ID}.json").exists()


def test_a_run_that_was_killed_while_it_waited_is_taken_up(deployment: Deployment) -> None:
    eth, nonce = deployment.chain.web3.eth, deployment.nonce()
    deployment.chain.rpc("evm_setAutomine", False)
    command = deployment.project.command("run", "deploy", "--network", "pool-oracle", settings=deployment.settings)
    process = subprocess.Popen(**command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while eth.get_transaction_count(DEPLOYER.address, "pending") == nonce:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        deployment.chain.rpc("evm_setAutomine", True)
    planned = deployment.record["contracts"]["distributor"]
    assert "transaction" not in planned
    deployment.chain.rpc("evm_mine")
    deployment.succeed()
    assert deployment.nonce() == nonce + 2
    entry = deployment.record["contracts"]["distributor"]
    assert entry["address"] == planned["address"]
    assert eth.get_transaction_receipt(entry["transaction"])["blockNumber"] == entry["block"]


def test_a_run_goes_on_after_the_first_contract(deployment: Deployment) -> None:
    deployment.succeed()
    record, nonce = deployment.record, deployment.nonce()
    del record["contracts"]["flyover_route"]
    # As it is left by a run that planned the route and could not send it.
    planned = dict(record["contracts"]["distributor"], nonce=nonce, address=POOR.address, since_block=0)
    del planned["block"], planned["transaction"]
    record["contracts"]["flyover_route"] = planned
    deployment.record_path.write_text(json.dumps(record))
    deployment.succeed()
    assert deployment.nonce() == nonce + 1
    assert deployment.record["contracts"]["distributor"] == record["contracts"]["distributor"]
    assert deployment.contract("flyover_route").distributor().call() == planned_distributor(deployment)


def planned_distributor(deployment: Deployment) -> str:
    return str(deployment.record["contracts"]["distributor"]["address"])


def test_a_chain_that_does_not_have_the_contracts_is_noticed(deployment: Deployment) -> None:
    deployment.succeed()
    address = planned_distributor(deployment)
    code = deployment.chain.web3.eth.get_code(address)
    deployment.chain.rpc("anvil_setCode", address, f"0x{code[:-1].hex()}00")
    assert f"the code at {address} is not that of NativeDistributor" in deployment.refusal(3)
    deployment.chain.rpc("anvil_setCode", address, "0x")
    assert f"has no NativeDistributor at {address}" in deployment.refusal(3)


def test_a_token_distributor_has_no_route(deployment: Deployment) -> None:
    text = deployment.settings.read_text()
    deployment.settings.write_text(text[: text.index("# The route by Rootstock's bridge")])
    deployment.change('# asset = "native"', 'asset = "token"')
    deployment.change('# token = "0x..."', f'token = "{FEE_RECIPIENT.address}"')
    assert f"there is no contract at {FEE_RECIPIENT.address}" in deployment.refusal(3)
    # Any contract will do: the constructor wants code, and nothing else of the token.
    deployment.change(f'token = "{FEE_RECIPIENT.address}"', f'token = "{BRIDGE_ADDRESS}"')
    deployment.succeed()
    assert deployment.record["contracts"].keys() == {"distributor"}
    assert deployment.contract("distributor").token().call() == BRIDGE_ADDRESS
    assert json.loads(deployment.files()[f"{CHAIN_ID}-genesis-manifest.json"])["route"] == "deposit"


def test_the_development_bridge_can_be_placed_by_the_script(deployment: Deployment) -> None:
    deployment.chain.rpc("anvil_setCode", BRIDGE_ADDRESS, "0x")
    for slot in range(8):
        deployment.chain.rpc("anvil_setStorageAt", BRIDGE_ADDRESS, hex(slot), f"0x{0:064x}")
    assert "dev_bridge" in deployment.refusal(3)
    assert not deployment.output.exists()
    assert "placed" in deployment.succeed("dev_bridge")
    assert "nothing to do" in deployment.succeed("dev_bridge")
    deployment.succeed()


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("fee_bps = 100", "fee_bps = 201", 2, "policy.fee_bps 201 is above distributor.fee_cap_bps 200"),
        (f"id = {CHAIN_ID}", "id = 30", 2, f"the node at chain.rpc is on chain {CHAIN_ID}, and chain.id is 30"),
        ("window = 2", "windows = 2", 2, "`windows`"),
        ('asset = "native"', 'asset = "cash"', 2, "asset"),
        ("http://127.0.0.1:", "http://$NOT_SET_ANYWHERE:", 2, "environment variable that is not set"),
        ('keystore = "deployer.json"', 'keystore = "other.json"', 3, "other.json cannot be read"),
        ('"deployer.password"', '"deployer.json"', 3, "the password is wrong"),
        (base58(USER_REFUND[1:]), base58(bytes.fromhex(OPERATOR.address[2:])), 2, "user_refund is the operator's own"),
        (base58(USER_REFUND[1:]), base58(bytes.fromhex(GENESIS.address[2:])), 2, "user_refund is the operator's own"),
        (
            base58(PROVIDER_REFUND[1:]),
            base58(hash160(DEPLOYER._key_obj.public_key.to_compressed_bytes())),
            2,
            "provider_refund is the operator's own",
        ),
        (base58(USER_REFUND[1:]), encode_base58check(0x00, USER_REFUND[1:]), 2, "no base58 address of regtest"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_sent(
    deployment: Deployment, old: str, new: str, code: int, words: str
) -> None:
    deployment.change(("# " + old) if old.startswith("asset") else old, new)
    nonce = deployment.nonce()
    assert words in deployment.refusal(code)
    assert deployment.nonce() == nonce
    assert not deployment.output.exists()


def test_what_the_environment_puts_into_the_url_is_not_shown(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "s3cret")
    deployment.change(f'"{deployment.chain.url}"', '"http://127.0.0.1:9/$PROVIDER_KEY"')
    refusal = deployment.refusal(3)
    assert "the chain node at http://127.0.0.1:9 does not answer: Connection refused" in refusal
    assert "s3cret" not in refusal


def test_keys_are_refused_that_others_can_read_or_that_have_no_money(deployment: Deployment) -> None:
    deployment.change('keystore = "deployer.json"\npassword_file = "deployer.password"', 'key_file = "raw.key"')
    key = deployment.folder / "raw.key"
    secret_file(key, f"0x{bytes(POOR.key).hex()}\n")
    assert f"the deployer {POOR.address} has no money on chain {CHAIN_ID}" in deployment.refusal(3)
    deployment.chain.rpc("anvil_setBalance", POOR.address, hex(10**12))
    assert "NativeDistributor may cost" in deployment.refusal(3)
    key.chmod(0o644)
    assert "chmod 600" in deployment.refusal(2)
    key.chmod(0o600)
    key.write_text("0x" + "12" * 31)
    assert "does not hold a private key" in deployment.refusal(3)
    # A plan that could not be sent binds nobody: the settings may change.
    deployment.change("fee_cap_bps = 200", "fee_cap_bps = 300")
    key.write_text(f"0x{bytes(DEPLOYER.key).hex()}")
    assert "a keystore with a password is safer" in deployment.succeed()
    assert deployment.record["settings"]["distributor"]["fee_cap_bps"] == 300


def test_a_pool_configured_from_the_record_passes_its_check(deployment: Deployment) -> None:
    deployment.succeed()
    folder, record = deployment.folder, deployment.record

    def pool_oracle(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pool_oracle.cli", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)

    assert pool_oracle("init").returncode == 0
    path = folder / "pool-oracle.toml"
    text = path.read_text()
    values = {name: entry["address"] for name, entry in record["contracts"].items()}
    values |= {"name": record["settings"]["pool"]["name"], "rpc": deployment.chain.url}
    values |= {"genesis_payee": record["settings"]["policy"]["genesis_payee"]}
    for field, value in values.items():
        text = re.sub(rf'^{field} = ".*"$', f'{field} = "{value}"', text, flags=re.M)
    path.write_text(text.replace("# window = 8", "window = 2").replace("# fee_bps = 0", "fee_bps = 100"))
    secret_file(folder / "operator.key", f"0x{bytes(OPERATOR.key).hex()}")
    done = pool_oracle("check", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(check["ok"] for check in json.loads(done.stdout))
