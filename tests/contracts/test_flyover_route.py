"""FlyoverRoute, on a bridge that checks real Bitcoin data: derivation, registration, and every refusal by name."""

from __future__ import annotations

import itertools
import struct

import pytest

from pool_oracle.hashes import sha256d
from pool_oracle.payout.sumtree import SumTree
from pool_oracle.work.merkle import coinbase_partial_tree, merkle_root
from pool_oracle.work.scripts import FlyoverTerms, flyover_script
from pool_oracle.work.serialize import compact_size, push_height

BRIDGE = "0x0000000000000000000000000000000001000006"
ZERO_ADDRESS = "0x" + "00" * 20
LOCAL_CHAIN_ID = 31_337
USER_REFUND = b"\x6f" + b"\x0a" * 20
PROVIDER_REFUND = b"\x6f" + b"\x0b" * 20
POWPEG = bytes.fromhex("51") + b"\x21" + b"\x02" * 33 + bytes.fromhex("51ae")
MANIFEST = bytes.fromhex("5e" * 32)
EASY_NBITS = 0x207FFFFF
ANCHOR = b"\xaa" * 32
ANCHOR_HEIGHT = 1000
HEIGHT = ANCHOR_HEIGHT + 1
CONFIRMATIONS = 100
REWARD = 312_500_000
WEI_PER_SATOSHI = 10**10


def transaction(outputs, *, script_sig=b"\x00"):
    """A coinbase transaction without witness data that pays (satoshis, script) outputs."""
    parts = [struct.pack("<i", 2), b"\x01", bytes(32), b"\xff" * 4, compact_size(len(script_sig)), script_sig]
    parts += [b"\xff" * 4, compact_size(len(outputs))]
    for value, script in outputs:
        parts += [struct.pack("<q", value), compact_size(len(script)), script]
    return b"".join([*parts, bytes(4)])


def mine(previous, root, nbits=EASY_NBITS):
    """An 80-byte header on `previous` with enough work for regtest."""
    for nonce in itertools.count():
        header = struct.pack("<i32s32sIII", 0x20000000, previous, root, 1_700_000_000, nbits, nonce)
        if int.from_bytes(sha256d(header), "little") <= 0x7FFFFF << 8 * 29:
            return header
    raise AssertionError


def partial_tree(txids, matches):
    """The partial merkle tree (BIP-37) that proves the transactions at `matches`."""
    bits, hashes = [], []

    def walk(level, position):
        first, last = position << level, (position + 1) << level
        is_parent = any(first <= m < last for m in matches)
        bits.append(is_parent)
        if level == 0 or not is_parent:
            hashes.append(node(txids, level, position))
            return
        walk(level - 1, 2 * position)
        if (2 * position + 1) << (level - 1) < len(txids):
            walk(level - 1, 2 * position + 1)

    walk((len(txids) - 1).bit_length(), 0)
    flags = bytearray((len(bits) + 7) // 8)
    for i, bit in enumerate(bits):
        flags[i // 8] |= bit << (i % 8)
    head = struct.pack("<I", len(txids)) + compact_size(len(hashes))
    return head + b"".join(hashes) + compact_size(len(flags)) + bytes(flags)


def node(txids, level, position):
    """A node of Bitcoin's merkle tree."""
    if level == 0:
        return txids[position]
    left = node(txids, level - 1, 2 * position)
    has_right = (2 * position + 1) << (level - 1) < len(txids)
    return sha256d(left + (node(txids, level - 1, 2 * position + 1) if has_right else left))


class Bitcoin:
    """A route on a DevBridge, and a Bitcoin chain whose first block after the anchor holds the reward."""

    def __init__(self, pool, *, nested=False, outputs=lambda script: [(0, b"\x6a\x01\x00"), (REWARD, script)]):
        self.pool, self.chain = pool, pool.chain
        self.chain.set_code(BRIDGE, bytes.fromhex(self.chain.artifact("DevBridge")["deployedBytecode"][2:]))
        self.chain.credit(BRIDGE, 10**24)
        self.bridge = self.chain.at("DevBridge", BRIDGE)
        self.chain.send(self.bridge.functions.setUp(POWPEG, nested, ANCHOR, ANCHOR_HEIGHT))
        self.route = self.chain.deploy("FlyoverRoute", BRIDGE, pool.address, USER_REFUND, PROVIDER_REFUND)
        self.tree = SumTree(zip(pool.payees, (1, 2, 3), strict=True))
        commitment = self.route.functions.commitmentOf(self.tree.root, MANIFEST).call()
        terms = FlyoverTerms(USER_REFUND, bytes.fromhex(self.route.address[2:]), PROVIDER_REFUND, POWPEG, nested)
        self.script = flyover_script(commitment, terms)
        self.coinbase = transaction(outputs(self.script), script_sig=push_height(HEIGHT))
        others = [sha256d(b"transaction %d" % i) for i in range(4)]
        self.txids = [sha256d(self.coinbase), *others]
        self.headers = [mine(ANCHOR, merkle_root(self.txids))]

    def confirm(self, confirmations=CONFIRMATIONS):
        """Give the bridge the reward's block and those on top of it."""
        while len(self.headers) < confirmations:
            self.headers.append(mine(sha256d(self.headers[-1]), bytes(32)))
        self.chain.send(self.bridge.functions.receiveHeaders(self.headers), gas=25_000_000)
        return self

    def register(self, *, tx=None, height=HEIGHT, pmt=None, root=None, manifest=MANIFEST):
        """The call that registers the reward, or what the keywords make of it."""
        proof = partial_tree(self.txids, {0}) if pmt is None else pmt
        return self.route.functions.register(tx or self.coinbase, height, proof, root or self.tree.root, manifest)


@pytest.fixture
def make_bitcoin(pool):
    """Makes a Bitcoin: `make_bitcoin(nested=True)`."""
    return lambda **choices: Bitcoin(pool, **choices)


@pytest.fixture
def bitcoin(pool):
    """A reward with 100 confirmations."""
    return Bitcoin(pool).confirm()


@pytest.fixture
def stub(pool):
    """Puts a bridge that always gives one answer under a new route; returns the route."""

    def place(answer):
        # PUSH32 answer, MSTORE at 0, RETURN 32 bytes
        code = b"\x7f" + answer.to_bytes(32, "big", signed=True) + bytes.fromhex("5f5260205ff3")
        pool.chain.set_code(BRIDGE, code)
        return pool.chain.deploy("FlyoverRoute", BRIDGE, pool.address, USER_REFUND, PROVIDER_REFUND)

    return place


def place_route(chain, item):
    """The route with a vector's terms, at a vector's address."""
    refunds = [bytes.fromhex(item[name][2:]) for name in ("userRefund", "lp")]
    deployed = chain.deploy("FlyoverRoute", BRIDGE, BRIDGE, *refunds)
    lbc = chain.w3.to_checksum_address(item["lbc"])
    chain.set_code(lbc, bytes(chain.w3.eth.get_code(deployed.address)))
    return chain.at("FlyoverRoute", lbc)


# --- derivation ---


def test_derivation_hashes_are_those_of_the_vectors(chain, vectors):
    cases = vectors("flyover")
    for item in [*cases["derivation"], *cases["wrong_layouts"]]:
        route = place_route(chain, item)
        derived = "0x" + route.functions.derivationHash(bytes.fromhex(item["args"][2:])).call().hex()
        assert derived == item["hash"] != item.get("wrongHash"), item["name"]


def test_deposit_scripts_are_those_of_the_vectors(chain, vectors):
    devbridge = bytes.fromhex(chain.artifact("DevBridge")["deployedBytecode"][2:])
    for item in vectors("flyover")["addresses"]:
        snapshot = chain.raw("evm_snapshot")
        chain.set_code(BRIDGE, devbridge)
        powpeg = bytes.fromhex(item["powpegRedeem"][2:])
        chain.send(chain.at("DevBridge", BRIDGE).functions.setUp(powpeg, False, ANCHOR, 0))
        route = place_route(chain, item)
        hashes = route.functions.depositScriptHashes(bytes.fromhex(item["args"][2:])).call()
        script_hash = hashes[0 if item["type"] == "p2sh" else 1]
        assert f"0xa914{script_hash.hex()}87" == item["outputScript"], item["name"]
        chain.raw("evm_revert", snapshot)


def test_commitments_are_those_of_the_vectors(chain, vectors):
    cases = [c for c in vectors("commitment")["commitments"] if int(c["chainId"]) < 2**64]  # the local chain's limit
    assert len(cases) > 3
    try:
        for item in cases:
            chain.raw("anvil_setChainId", LOCAL_CHAIN_ID)
            route = chain.deploy("FlyoverRoute", BRIDGE, item["distributor"], USER_REFUND, PROVIDER_REFUND)
            chain.raw("anvil_setChainId", int(item["chainId"]))
            root, manifest = bytes.fromhex(item["root"][2:]), bytes.fromhex(item["manifestHash"][2:])
            commitment = route.functions.commitmentOf(root, manifest).call()
            assert "0x" + commitment.hex() == item["commitment"]
    finally:
        chain.raw("anvil_setChainId", LOCAL_CHAIN_ID)


def test_a_route_needs_a_bridge_and_a_distributor(chain, pool):
    for bridge, distributor in [(ZERO_ADDRESS, pool.address), (BRIDGE, ZERO_ADDRESS)]:
        arguments = (bridge, distributor, USER_REFUND, PROVIDER_REFUND)
        assert chain.refusal_to_deploy("FlyoverRoute", *arguments) == ("ZeroAddress",)


# --- the bridge's headers ---


def test_the_bridge_takes_headers_with_work_on_its_tip_only(make_bitcoin):
    bitcoin = make_bitcoin()
    receive, good = bitcoin.bridge.functions.receiveHeaders, bitcoin.headers[0]
    refusal = bitcoin.chain.refusal
    assert refusal(receive([good + b"\x00"])) == ("HeaderLength", 81)
    assert refusal(receive([good[:79]])) == ("HeaderLength", 79)
    assert refusal(receive([good, good])) == ("HeaderNotOnTip", ANCHOR, sha256d(good))
    hard = good[:72] + struct.pack("<I", 0x1D00FFFF) + good[76:]
    assert refusal(receive([hard])) == ("HeaderWithoutWork", sha256d(hard), 0xFFFF << 208)
    bitcoin.chain.send(receive([good]))
    assert bitcoin.bridge.functions.getBtcBlockchainBestChainHeight().call() == HEIGHT


def test_a_target_beyond_256_bits_or_of_nothing_is_no_way_around_the_work(make_bitcoin):
    bitcoin = make_bitcoin()
    for nbits in (0xFF7FFFFF, 0x23000000, 0x00000000, 0x01003456, 0x02000080):
        header = bitcoin.headers[0][:72] + struct.pack("<I", nbits) + bitcoin.headers[0][76:]
        refused = bitcoin.chain.refusal(bitcoin.bridge.functions.receiveHeaders([header]))
        assert refused[0] == "HeaderWithoutWork"
        assert refused[2] < 2**16


def test_the_bridge_is_set_up_once(bitcoin):
    again = bitcoin.bridge.functions.setUp(b"\x51", True, bytes(32), 0)
    assert bitcoin.chain.refusal(again) == ("AlreadySetUp",)


# --- a reward that arrives ---


@pytest.mark.parametrize("nested", [False, True], ids=["P2SH", "P2SH-P2WSH"])
def test_anybody_registers_a_reward_and_it_becomes_a_payout_of_the_root_it_was_committed_to(make_bitcoin, nested):
    bitcoin = make_bitcoin(nested=nested).confirm()
    pool, amount = bitcoin.pool, REWARD * WEI_PER_SATOSHI
    receipt = bitcoin.chain.send(bitcoin.register(), sender=pool.stranger)
    (event,) = bitcoin.chain.events(bitcoin.route.events.Registered, receipt)
    assert event == {
        "txid": bitcoin.txids[0],
        "commitment": bitcoin.route.functions.commitmentOf(bitcoin.tree.root, MANIFEST).call(),
        "payoutId": 0,
        "root": bitcoin.tree.root,
        "manifestHash": MANIFEST,
        "amount": amount,
    }
    assert tuple(pool.call.payout(0).call()[:3]) == (bitcoin.tree.root, amount, 2**64 - 1)
    assert bitcoin.chain.balance(bitcoin.route.address) == 0
    assert bitcoin.chain.balance(pool.address) == pool.call.totalAccounted().call() == amount
    bitcoin.chain.send(pool.claim_many(0, pool.payees, bitcoin.tree))
    assert [bitcoin.chain.balance(m) for m in pool.miners] == [amount * w // 6 for w in (1, 2, 3)]


def test_the_script_that_the_package_pays_is_the_one_that_the_route_derives(make_bitcoin):
    bitcoin = make_bitcoin()
    commitment = bitcoin.route.functions.commitmentOf(bitcoin.tree.root, MANIFEST).call()
    p2sh, _ = bitcoin.route.functions.depositScriptHashes(commitment).call()
    assert bitcoin.script == b"\xa9\x14" + p2sh + b"\x87"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 17])
def test_the_packages_proof_of_a_coinbase_is_one_that_the_bridge_takes(make_bitcoin, count):
    bitcoin = make_bitcoin()
    bitcoin.txids = [bitcoin.txids[0], *(sha256d(b"other %d" % i) for i in range(count - 1))]
    bitcoin.headers = [mine(ANCHOR, merkle_root(bitcoin.txids))]
    bitcoin.confirm()
    proof = coinbase_partial_tree(bitcoin.txids)
    assert proof == partial_tree(bitcoin.txids, {0})
    bitcoin.chain.send(bitcoin.register(pmt=proof))


def test_all_outputs_to_the_deposit_script_count_and_no_others(make_bitcoin):
    def outputs(script):
        elsewhere = b"\xa9\x14" + bytes(20) + b"\x87"
        return [(5, script), (7, elsewhere), (11, script), (13, script + b"\x00"), (17, b""), (19, b"\x51" * 300)]

    bitcoin = make_bitcoin(outputs=outputs).confirm()
    bitcoin.chain.send(bitcoin.register())
    assert bitcoin.pool.call.payout(0).call()[1] == 16 * WEI_PER_SATOSHI


def test_a_reward_is_registered_once(bitcoin):
    bitcoin.chain.send(bitcoin.register())
    assert bitcoin.chain.refusal(bitcoin.register()) == ("BridgeAlreadyProcessed",)


def test_only_the_bridge_pays_the_route(bitcoin):
    stranger = bitcoin.pool.stranger
    payment = {"from": stranger, "to": bitcoin.route.address, "value": "0x1"}
    assert bitcoin.chain.refusal_of_raw(**payment) == ("OnlyBridge", stranger)


# --- what the bridge refuses, by name ---


def test_another_root_or_manifest_has_another_address_to_which_nothing_was_paid(bitcoin):
    for wrong in [{"root": bitcoin.pool.tree.root}, {"manifest": bytes(32)}]:
        assert bitcoin.chain.refusal(bitcoin.register(**wrong)) == ("BridgeNothingPaid",)


def test_a_reward_needs_100_confirmations(make_bitcoin):
    bitcoin = make_bitcoin().confirm(CONFIRMATIONS - 1)
    assert bitcoin.chain.refusal(bitcoin.register()) == ("BridgeInvalidTransaction",)
    last = mine(sha256d(bitcoin.headers[-1]), bytes(32))
    bitcoin.chain.send(bitcoin.bridge.functions.receiveHeaders([last]))
    bitcoin.chain.send(bitcoin.register())


@pytest.mark.parametrize("height", [0, ANCHOR_HEIGHT, HEIGHT + 1, HEIGHT + CONFIRMATIONS, 2**255, 2**256 - 1])
def test_a_reward_is_in_the_block_of_its_height_and_nowhere_else(bitcoin, height):
    assert bitcoin.chain.refusal(bitcoin.register(height=height)) == ("BridgeInvalidTransaction",)


def test_a_proof_must_prove_exactly_the_registered_transaction(bitcoin):
    txids = bitcoin.txids
    right = partial_tree(txids, {0})
    wrong = {
        "another transaction": partial_tree(txids, {1}),
        "two transactions": partial_tree(txids, {0, 3}),
        "none": partial_tree(txids, set()),
        "another block": partial_tree([txids[0], bytes(32)], {0}),
        "a count of another depth": struct.pack("<I", 9) + right[4:],
        "a count of zero": bytes(4) + right[4:],
        "a hash too many": right[:4] + bytes([right[4] + 1]) + bytes(32) + right[5:],
        "a byte too many": right + b"\x00",
        "a byte of flags too many": right[:-2] + b"\x02" + right[-1:] + b"\x00",
    }
    for name, pmt in wrong.items():
        error = bitcoin.chain.refusal(bitcoin.register(pmt=pmt))[0]
        assert error in ("BridgeInvalidTransaction", "Malformed"), name
    bitcoin.chain.send(bitcoin.register(pmt=right))


def test_a_proof_of_the_reward_and_of_another_transaction_before_it_is_refused(make_bitcoin):
    bitcoin = make_bitcoin()
    bitcoin.txids.reverse()
    bitcoin.headers = [mine(ANCHOR, merkle_root(bitcoin.txids))]
    bitcoin.confirm()
    both = partial_tree(bitcoin.txids, {1, 4})
    assert bitcoin.chain.refusal(bitcoin.register(pmt=both)) == ("BridgeInvalidTransaction",)
    bitcoin.chain.send(bitcoin.register(pmt=partial_tree(bitcoin.txids, {4})))


def test_a_proof_with_a_repeated_branch_is_malformed(make_bitcoin):
    """CVE-2012-2459: an odd level's last node, given once more as if it were another."""
    bitcoin = make_bitcoin()
    bitcoin.txids = bitcoin.txids[:3]
    bitcoin.headers = [mine(ANCHOR, merkle_root(bitcoin.txids))]
    bitcoin.confirm()
    doubled = partial_tree([*bitcoin.txids, bitcoin.txids[2]], {0, 2})
    assert bitcoin.chain.refusal(bitcoin.register(pmt=doubled))[0] == "Malformed"


@pytest.mark.parametrize("size", [0, 3, 4, 5, 40])
def test_a_proof_that_ends_too_early_is_malformed(bitcoin, size):
    pmt = partial_tree(bitcoin.txids, {0})[:size]
    assert bitcoin.chain.refusal(bitcoin.register(pmt=pmt)) == ("Malformed", pmt)


def test_a_transaction_is_registered_in_the_form_whose_hash_is_its_txid(bitcoin):
    witness = bitcoin.coinbase[:4] + b"\x00\x01" + bitcoin.coinbase[4:-4] + b"\x01\x20" + bytes(32) + bytes(4)
    for tx in (witness, bitcoin.coinbase + b"\x00", bitcoin.coinbase[:-1]):
        assert bitcoin.chain.refusal(bitcoin.register(tx=tx)) == ("BridgeInvalidTransaction",)


@pytest.mark.parametrize(
    "broken",
    [
        lambda tx: tx[:-1],
        lambda tx: tx + b"\x00",
        lambda tx: tx[:41] + b"\xfe\xff\xff\xff\xff" + tx[42:],
        lambda tx: tx[:4] + b"\xff" + b"\xff" * 8 + tx[5:],
        lambda tx: tx[:3],
    ],
    ids=["ends early", "ends late", "long script", "many inputs", "no count"],
)
def test_bytes_that_are_no_transaction_are_malformed_even_when_a_block_commits_to_them(make_bitcoin, broken):
    bitcoin = make_bitcoin()
    bitcoin.coinbase = broken(bitcoin.coinbase)
    bitcoin.txids[0] = sha256d(bitcoin.coinbase)
    bitcoin.headers = [mine(ANCHOR, merkle_root(bitcoin.txids))]
    bitcoin.confirm()
    assert bitcoin.chain.refusal(bitcoin.register()) == ("Malformed", bitcoin.coinbase)


def test_a_bridge_without_money_fails_and_the_reward_can_be_registered_later(bitcoin):
    bitcoin.chain.raw("anvil_setBalance", BRIDGE, "0x0")
    assert bitcoin.chain.refusal(bitcoin.register()) == ("BridgeFailed", -900)
    assert bitcoin.chain.try_send(bitcoin.register())["status"] == 0
    bitcoin.chain.credit(BRIDGE, 10**24)
    bitcoin.chain.send(bitcoin.register())


def test_a_reward_below_the_distributors_minimum_is_registered_all_the_same(make_pool):
    """Otherwise it would stay at the bridge for ever."""
    pool = make_pool(minPayout=REWARD * WEI_PER_SATOSHI + 1)
    bitcoin = Bitcoin(pool).confirm()
    bitcoin.chain.send(bitcoin.register())
    assert pool.call.payout(0).call()[1] == REWARD * WEI_PER_SATOSHI


def test_the_bridge_answers_callers_who_are_not_the_route_with_its_codes(bitcoin):
    route, stranger = bitcoin.route.address, bitcoin.pool.stranger
    commitment = bitcoin.route.functions.commitmentOf(bitcoin.tree.root, MANIFEST).call()
    proof = partial_tree(bitcoin.txids, {0})

    def answer(sender, *, refund=USER_REFUND, lbc=route, lp=PROVIDER_REFUND, to_contract=True):
        arguments = (bitcoin.coinbase, HEIGHT, proof, commitment, refund, lbc, lp, to_contract)
        return bitcoin.bridge.functions.registerFastBridgeBtcTransaction(*arguments).call({"from": sender})

    assert answer(route) == REWARD * WEI_PER_SATOSHI
    assert answer(stranger) == -300
    assert answer(stranger, lbc=stranger) == -300
    assert answer(bitcoin.pool.address) == -301
    assert answer(route, to_contract=False) == -301
    assert answer(route, refund=USER_REFUND[1:]) == -303
    assert answer(route, lp=PROVIDER_REFUND + b"\x00") == -303
    assert answer(bitcoin.pool.address, lbc=bitcoin.pool.address) == -304


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (-100, ("BridgeRefundsUser",)),
        (-200, ("BridgeRefundsProvider",)),
        (-300, ("BridgeCallerNotContract",)),
        (-301, ("BridgeWrongSender",)),
        (-302, ("BridgeAlreadyProcessed",)),
        (-303, ("BridgeInvalidTransaction",)),
        (-304, ("BridgeNothingPaid",)),
        (-305, ("BridgeBelowMinimum",)),
        (-900, ("BridgeFailed", -900)),
        (-1, ("BridgeFailed", -1)),
        (0, ("BridgeFailed", 0)),
        (-(2**255), ("BridgeFailed", -(2**255))),
        (1, ("BridgeAmountMismatch", 1, 0)),
        (2**255 - 1, ("BridgeAmountMismatch", 2**255 - 1, 0)),
    ],
)
def test_each_answer_of_a_bridge_that_pays_nothing_has_its_name(pool, stub, code, error):
    route = stub(code)
    assert pool.chain.refusal(route.functions.register(b"", 0, b"", pool.tree.root, MANIFEST)) == error


def test_money_that_lies_in_the_route_is_not_taken_for_the_bridges(pool, stub):
    route = stub(7)
    pool.chain.credit(route.address, 7)
    call = route.functions.register(b"", 0, b"", pool.tree.root, MANIFEST)
    assert pool.chain.refusal(call) == ("BridgeAmountMismatch", 7, 0)
