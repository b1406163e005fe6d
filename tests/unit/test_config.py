"""The configuration file: what is right is read exactly, what is wrong is named with the file and the field."""

from __future__ import annotations

import tomllib
from fractions import Fraction
from pathlib import Path

import pytest

from pool_oracle.config import EXAMPLE, KEY_FILE_VARIABLE, PASSWORD_FILE_VARIABLE, load_config
from pool_oracle.errors import ConfigError
from pool_oracle.networks import NETWORKS
from pool_oracle.opening import open_signer, operator_address

PAYEE = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
FILLED = EXAMPLE.replace('"0x..."', f'"{PAYEE}"')
GENESIS, DISTRIBUTOR, ROUTE = (f'{field} = "{PAYEE}"' for field in ("genesis_payee", "distributor", "flyover_route"))


@pytest.fixture
def load(tmp_path):
    """Reads a configuration given as text."""

    def convert(text):
        path = tmp_path / "pool-oracle.toml"
        path.write_text(text, encoding="utf-8")
        return load_config(path)

    return convert


def test_the_example_is_a_configuration_as_soon_as_it_is_filled_in(load):
    config = load(FILLED)
    assert config.network is NETWORKS["regtest"]
    assert config.pool.name == "my pool"
    assert config.data == Path("data")
    assert config.share_difficulty == Fraction(1, 1_000_000)
    assert config.genesis_payee == b"\x00" + bytes.fromhex(PAYEE[2:])
    assert config.emulated_target == 1 << 236
    assert config.chain.rpc == "http://127.0.0.1:8545"


def test_the_lines_that_the_example_comments_out_show_the_defaults(load):
    shown = []
    for line in FILLED.splitlines():
        name, separator, _ = line.removeprefix("# ").partition(" = ")
        shown.append(line.removeprefix("# ") if separator and name.isidentifier() else line)
    text = "\n".join(shown)
    assert len(tomllib.loads(text)["policy"]) == 9
    assert load(text) == load(FILLED)


def test_the_example_itself_says_what_is_missing(load):
    with pytest.raises(ConfigError, match=r"0x\.\.\."):
        load(EXAMPLE)


def test_the_policy_of_the_manifests_is_the_configurations(load):
    policy = load(
        FILLED.replace("# window = 8", "window = 127").replace("# fee_bps = 0", "fee_bps = 250")
    ).manifest_policy
    assert (policy.scheme, policy.window, policy.fee_bps, policy.unit) == ("pplns", 127, 250, str(1 << 56))
    assert policy.genesis_payee == "0x00" + PAYEE[2:].lower()
    assert policy.emulated_network_target == f"0x{1 << 236:064x}"


@pytest.mark.parametrize("text", ["1/3", "0.25", "1e-6", "7"])
def test_the_share_difficulty_is_exact(load, text):
    config = load(FILLED.replace('share_difficulty = "0.000001"', f'share_difficulty = "{text}"'))
    assert config.share_difficulty == Fraction(text)


def test_the_emulated_network_target_may_be_left_out(load):
    lines = [line for line in FILLED.splitlines() if not line.startswith("emulated_network_target")]
    config = load("\n".join(lines))
    assert config.emulated_target is None
    assert config.manifest_policy.emulated_network_target is None


def test_the_key_file_may_come_from_the_environment(load, monkeypatch):
    monkeypatch.delenv(KEY_FILE_VARIABLE, raising=False)
    assert load(FILLED).key_file == Path("operator.key")
    monkeypatch.setenv(KEY_FILE_VARIABLE, "/run/secrets/operator")
    assert load(FILLED).key_file == Path("/run/secrets/operator")


def test_a_key_file_that_nobody_names_is_an_error(load, monkeypatch):
    monkeypatch.delenv(KEY_FILE_VARIABLE, raising=False)
    config = load(FILLED.replace('operator_key_file = "operator.key"', ""))
    assert config.key_file is None
    with pytest.raises(ConfigError, match=KEY_FILE_VARIABLE):
        open_signer(config)


OPERATOR = "0x" + "33" * 20


def with_operator(lines):
    return FILLED.replace('operator_key_file = "operator.key"', lines)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('operator_keystore = "k.json"\nsafe = "0x..."', "one key is enough"),
        (f'operator_key_file = "operator.key"\nsafe = "{OPERATOR}"', "one key is enough"),
        ('remote_signer = "http://127.0.0.1:9000"', "belong together"),
        (f'operator = "{OPERATOR}"', "belong together"),
        ('safe = "0x33"', "chain.safe"),
        ("max_fee_gwei = 0", "chain.max_fee_gwei must be 1 to"),
        ("max_fee_gwei = 5\nmax_tip_gwei = 6", "chain.max_tip_gwei must be 0 to 5"),
        ("confirmations = 31", "chain.final_depth must be 31 to"),
    ],
)
def test_an_operator_that_cannot_be_is_refused(load, lines, words):
    with pytest.raises(ConfigError) as refused:
        load(with_operator(lines))
    assert words in str(refused.value)


def test_a_keystore_needs_its_password(load, monkeypatch):
    monkeypatch.delenv(PASSWORD_FILE_VARIABLE, raising=False)
    config = load(with_operator('operator_keystore = "operator.json"'))
    with pytest.raises(ConfigError, match=PASSWORD_FILE_VARIABLE):
        open_signer(config)
    monkeypatch.setenv(PASSWORD_FILE_VARIABLE, "/run/secrets/password")
    assert config.password_file == Path("/run/secrets/password")


def test_a_remote_signer_and_a_safe_have_addresses(load):
    remote = load(with_operator(f'remote_signer = "http://127.0.0.1:9000"\noperator = "{OPERATOR}"'))
    assert operator_address(remote).lower() == OPERATOR
    assert operator_address(load(with_operator(f'safe = "{OPERATOR}"'))).lower() == OPERATOR


def test_several_nodes_of_the_chain_are_asked_in_their_order(load):
    text = FILLED.replace('rpc = "http://127.0.0.1:8545"', 'rpc = ["http://127.0.0.1:8545", "https://node.example/x"]')
    assert load(text).rpc_urls == ("http://127.0.0.1:8545", "https://node.example/x")
    for wrong in ('rpc = ""', "rpc = []", 'rpc = ["ws://127.0.0.1:8546"]'):
        with pytest.raises(ConfigError, match=r"chain\.rpc"):
            load(FILLED.replace('rpc = "http://127.0.0.1:8545"', wrong))


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('name = "my pool"', "", "name"),
        ('name = "my pool"', "name = 5", "name"),
        ('name = "my pool"', 'nmae = "my pool"', "nmae"),
        ("[pool]", "[pools]", "pool"),
        ('network = "regtest"', 'network = "mainnet"', "mainnet"),
        ('network = "regtest"', 'network = "main"', "floor of main"),
        ('emulated_network_target = "0x0000', 'emulated_network_target = "0x00', "emulated_network_target"),
        ('emulated_network_target = "0x0000', 'emulated_network_target = "zz', "emulated_network_target"),
        ('emulated_network_target = "0x00001', 'emulated_network_target = "0x00000', "emulated_network_target"),
        ('share_difficulty = "0.000001"', 'share_difficulty = "easy"', "easy"),
        ('share_difficulty = "0.000001"', 'share_difficulty = "1/0"', "1/0"),
        ('share_difficulty = "0.000001"', 'share_difficulty = "nan"', "nan"),
        ('share_difficulty = "0.000001"', 'share_difficulty = "0"', "floor of regtest"),
        ('share_difficulty = "0.000001"', 'share_difficulty = "-1"', "decimal number"),
        ('share_difficulty = "0.000001"', 'share_difficulty = "1e999999999"', "decimal number"),
        ("# stale_grace_seconds = 1", "stale_grace_seconds = 61", "0 to 60"),
        ('share_difficulty = "0.000001"', "share_difficulty = 0.000001", "share_difficulty"),
        ('share_difficulty = "0.000001"', 'share_difficulty = "1e80"', "share_difficulty"),
        ("# window = 8", "window = 0", "1 to 127"),
        ("# window = 8", "window = 128", "1 to 127"),
        ("# window = 8", "window = true", "window"),
        ("# window = 8", "window = 8.0", "window"),
        ("# fee_bps = 0", "fee_bps = -1", "fee_bps"),
        ("# fee_bps = 0", "fee_bps = 10001", "fee_bps"),
        ("# epoch_seconds = 600", "epoch_seconds = 0", "epoch_seconds"),
        ("# port = 3333", "port = 65536", "stratum.port"),
        ("# port = 8080", "port = -1", "api.port"),
        (GENESIS, GENESIS.replace("5aAe", "5aae"), "policy.genesis_payee"),
        (GENESIS, GENESIS.replace("5aAe", "5aae"), "EIP-55"),
        (GENESIS, 'genesis_payee = "0x0000000000000000000000000000000000000000"', "zero address"),
        (GENESIS, 'genesis_payee = ""', "empty"),
        (GENESIS, 'genesis_payee = "bc1q6dw2a7qrdqm75dkjmcxvd2tt23d6wxlkagtlat"', "is an address of main"),
        (DISTRIBUTOR, 'distributor = "0x..."', "chain.distributor"),
        (DISTRIBUTOR, 'distributor = "0x0000000000000000000000000000000000000000"', "chain.distributor"),
        (DISTRIBUTOR, 'distributor = "mznXuHpNvkjYaoAxxHFrPv2KzuXY5jw5fM"', "chain.distributor"),
        (ROUTE, 'flyover_route = "0x..."', "chain.flyover_route"),
        (ROUTE, 'flyover_route = "0x005aaeb6053f3e94c9b9a09f33669435e7ef1beaed"', "chain.flyover_route"),
        ("[pool]", "[pool", "not TOML"),
        ("[pool]", "x = " + "[" * 5000, "not TOML"),
        ("[pool]", "\x00", "not TOML"),
    ],
    ids=lambda text: text[:60],
)
def test_a_wrong_setting_is_named_with_the_file(load, old, new, word):
    assert old in FILLED
    with pytest.raises(ConfigError) as caught:
        load(FILLED.replace(old, new))
    text = str(caught.value)
    assert "pool-oracle.toml" in text
    assert word in text


def test_only_regtest_may_emulate_a_network_target(load):
    text = FILLED.replace('network = "regtest"', 'network = "test"').replace("0.000001", "1")
    with pytest.raises(ConfigError, match="regtest only"):
        load(text)


def on(network: str, *, route: str = f'flyover_route = "{PAYEE}"') -> str:
    """The example for another network, with one node."""
    lines = [line for line in FILLED.splitlines() if not line.startswith("emulated_network_target")]
    text = "\n".join(lines).replace('network = "regtest"', f'network = "{network}"').replace("0.000001", "8")
    return text.replace(ROUTE, route)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "regtest"])
def test_a_network_without_a_node_built_in_needs_one(load, name):
    with pytest.raises(ConfigError, match=r"needs at least one \[\[node\]\]"):
        load(on(name))


def test_nodes_are_read_in_their_order(load):
    nodes = load(
        on("main")
        + """
[[node]]
url = "http://127.0.0.1:8332"
cookie_file = "~/.bitcoin/.cookie"
zmq_hashblock = "tcp://127.0.0.1:28332"
[[node]]
url = "https://node.example:443/"
name = "far"
user = "pool"
password_file = "/run/secrets/node"
"""
    ).nodes
    assert [node.shown_name for node in nodes] == ["127.0.0.1:8332", "far"]
    assert nodes[0].login.cookie_file == Path.home() / ".bitcoin" / ".cookie"
    assert (nodes[0].login.user, nodes[0].zmq_hashblock) == (None, "tcp://127.0.0.1:28332")
    assert (nodes[1].login.user, nodes[1].login.password_file) == ("pool", Path("/run/secrets/node"))


@pytest.mark.parametrize(
    ("section", "word"),
    [
        ('url = "127.0.0.1:8332"', "http://HOST:PORT"),
        ('url = "http://"', "http://HOST:PORT"),
        ('url = "http://host:99999"', "http://HOST:PORT"),
        ('url = "http://user:secret@host:8332"', "no password"),
        ('url = "http://h:1"\nuser = "pool"', "password_file"),
        ('url = "http://h:1"\npassword_file = "x"', "belong together"),
        ('url = "http://h:1"\ncookie_file = "c"\nuser = "pool"\npassword_file = "x"', "not both"),
        ('url = "http://h:1"\nzmq_hashblock = "28332"', "zmq_hashblock"),
        ('url = "http://h:1"\npassword = "secret"', "password"),
        ('url = "http://h:1"\n[[node]]\nurl = "http://h:1"', "two nodes"),
        ('name = "x"', "url"),
    ],
)
def test_a_wrong_node_is_named_and_no_password_shown(load, section, word):
    with pytest.raises(ConfigError) as caught:
        load(f"{on('main')}\n[[node]]\n{section}\n")
    assert word in str(caught.value)
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "address", "script"),
    [
        ("main", "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "76a91477bff20c60e522dfaa3350c39b030a5d004e839a88ac"),
        ("litecoin", "ltc1qw508d6qejxtdg4y5r3zarvary0c5xw7kgmn4n9", "0014751e76e8199196d454941c45d1b3a323f1433bd6"),
    ],
)
def test_a_deposit_may_go_to_any_address_of_the_network(load, network, address, script):
    route = f'route = "deposit"\ndeposit_address = "{address}"'
    config = load(on(network, route=route) + '\n[[node]]\nurl = "http://127.0.0.1:8332"\n')
    assert config.deposit_script.hex() == script


@pytest.mark.parametrize(
    ("network", "route", "word"),
    [
        ("main", 'route = "bridge"', "flyover, deposit"),
        ("main", 'route = "deposit"', "chain.deposit_address"),
        (
            "main",
            'route = "deposit"\ndeposit_address = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"',
            "deposit_address",
        ),
        ("main", "", "chain.flyover_route"),
        ("litecoin", ROUTE, "litecoin has none"),
    ],
)
def test_a_route_that_cannot_be_is_refused(load, network, route, word):
    with pytest.raises(ConfigError, match=word):
        load(f'{on(network, route=route)}\n[[node]]\nurl = "http://127.0.0.1:8332"\n')


def test_a_file_that_cannot_be_read_is_named_with_the_way_to_one(tmp_path):
    with pytest.raises(ConfigError, match="pool-oracle init"):
        load_config(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'[pool]\nname = "Z\xfcrich"\n')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin.toml")


# Publishers


def test_a_publisher_logs_in_by_files_and_is_required_unless_it_says_otherwise(load):
    put = '[[publish]]\nkind = "put"\nurl = "https://files.example.org/my-pool"\ntoken_file = "~/publish.token"'
    kubo = '[[publish]]\nkind = "kubo"\nurl = "http://127.0.0.1:5001"\nuser = "u"\npassword_file = "p"\noptional = true'
    first, second = load(f"{FILLED}\n{put}\n{kubo}\n").publishers
    assert (first.kind, first.url, first.optional) == ("put", "https://files.example.org/my-pool", False)
    assert first.credentials.token_file == Path.home() / "publish.token"
    assert (second.kind, second.optional, second.credentials.user) == ("kubo", True, "u")
    assert load(FILLED).publishers == ()


@pytest.mark.parametrize(
    ("section", "word"),
    [
        ('kind = "ftp"\nurl = "https://h/p"', "kubo, put"),
        ('url = "https://h/p"', "kind"),
        ('kind = "put"', "url"),
        ('kind = "put"\nurl = "files.example.org"', "https://HOST/PATH"),
        ('kind = "put"\nurl = "https://h:99999/"', "https://HOST/PATH"),
        ('kind = "put"\nurl = "https://user:secret@h/p"', "no password"),
        ('kind = "put"\nurl = "https://h/p?sig=secret"', "no query"),
        ('kind = "put"\nurl = "https://h/p"\ntoken_file = "t"\nuser = "u"\npassword_file = "p"', "not both"),
        ('kind = "put"\nurl = "https://h/p"\nuser = "u"', "belong together"),
        ('kind = "put"\nurl = "https://h/p"\npassword = "secret"', "password"),
        ('kind = "put"\nurl = "http://files.example.org/p"\ntoken_file = "t"', "use https"),
        ('kind = "put"\nurl = "https://h/p/"\n[[publish]]\nkind = "put"\nurl = "https://h/p"', "two [[publish]]"),
    ],
)
def test_a_wrong_publisher_is_named_and_no_secret_shown(load, section, word):
    with pytest.raises(ConfigError) as caught:
        load(f"{FILLED}\n[[publish]]\n{section}\n")
    assert word in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "10.0.0.7"])
def test_a_token_may_go_unencrypted_within_a_private_network(load, host):
    section = f'[[publish]]\nkind = "kubo"\nurl = "http://{host}:5001"\ntoken_file = "t"'
    assert len(load(f"{FILLED}\n{section}\n").publishers) == 1


# Schemes

PAYS = f'treasury = "{PAYEE}"\ngenesis_payee = "{PAYEE}"\nfee_bps = 100'
OTHER = "0x" + "22" * 20


def with_policy(lines):
    """The example with other lines about the scheme."""
    names = {line.partition(" = ")[0] for line in lines.splitlines()}
    kept = [line for line in FILLED.splitlines() if line.partition(" = ")[0] not in names]
    place = kept.index("[policy]") + 1
    return "\n".join([*kept[:place], *lines.splitlines(), *kept[place:]])


@pytest.mark.parametrize("scheme", ["pplns", "prop"])
def test_a_scheme_that_blocks_pay_needs_nothing_more(load, scheme):
    config = load(with_policy(f'scheme = "{scheme}"'))
    assert (config.log_rules.scheme, config.needs_treasury) == (scheme, False)


@pytest.mark.parametrize("scheme", ["pps", "fpps", "pps+"])
def test_a_scheme_that_a_treasury_pays_names_it_and_blocks_pay_it(load, scheme):
    config = load(with_policy(f'scheme = "{scheme}"\n{PAYS}\nruin_odds = 500'))
    assert config.needs_treasury
    assert config.treasury == config.genesis_payee
    assert config.log_rules.fee_bps == 100
    assert config.manifest_policy.scheme == scheme


def test_a_solo_pool_names_its_payee(load):
    config = load(with_policy(f'scheme = "solo"\nsolo_payee = "{OTHER}"'))
    assert config.log_rules.payee == b"\0" + b"\x22" * 20
    assert config.manifest_policy.payee == "0x00" + "22" * 20


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('scheme = "ppplns"', "policy.scheme must be one of pplns, pps"),
        ('scheme = "solo"', "policy.solo_payee and policy.scheme 'solo' belong together"),
        (f'solo_payee = "{OTHER}"', "policy.solo_payee and policy.scheme 'solo' belong together"),
        ('scheme = "solo"\nsolo_payee = "bc1nothing"', "policy.solo_payee: "),
        (f'treasury = "{PAYEE}"', "policy.treasury has no use with policy.scheme 'pplns'"),
        ('scheme = "pps"', "policy.treasury must be an EVM address"),
        (f'scheme = "pps"\n{PAYS}\nfee_bps = 0'.replace("fee_bps = 100\n", ""), "policy.fee_bps must be 1 or more"),
        (
            f'scheme = "pps+"\n{PAYS}'.replace(f'treasury = "{PAYEE}"', f'treasury = "{OTHER}"'),
            "must be policy.treasury",
        ),
        (f'scheme = "fpps"\n{PAYS}\nruin_odds = 1', "policy.ruin_odds must be 2 to"),
    ],
)
def test_a_scheme_that_lacks_something_or_has_too_much_is_refused(load, lines, words):
    with pytest.raises(ConfigError) as refused:
        load(with_policy(lines))
    assert words in str(refused.value)
