"""The command line of the formats: every vector goes through it, and no input makes it show a traceback."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from pool_oracle import cli

ANY_TARGET = "0x" + "ff" * 32
PAYEE = "0x01" + "11" * 20
OTHER = "0x01" + "22" * 20
ROOT, PROOF, VERIFY = ("tree", "root"), ("tree", "proof", "--payee", PAYEE), ("tree", "verify")
WINDOW, CHECK, NAME = ("window",), ("share", "check"), ("payee",)
COMMANDS = [ROOT, PROOF, VERIFY, WINDOW, CHECK, NAME]


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The one JSON value of a run that was right."""
        assert (self.code, self.err) == (0, ""), self
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    def values(self, count: int) -> list[Any]:
        """The JSON values of a run with --lines, as many as lines went in."""
        assert (self.code, self.err) == (0, ""), self
        values = [json.loads(line) for line in self.out.splitlines()]
        assert len(values) == count == self.out.count("\n")
        return values

    def refusal(self, code: int) -> str:
        """The one line on standard error of a run that was refused."""
        assert (self.code, self.out) == (code, ""), self
        assert self.err.startswith("pool-oracle: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1
        assert "Traceback" not in self.err
        assert "internal error" not in self.err
        return self.err


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line in this process."""

    def call(*arguments: str, stdin: bytes | Any = b"") -> Outcome:
        data = stdin if isinstance(stdin, bytes) else json.dumps(stdin).encode()
        monkeypatch.setattr(sys, "argv", ["pool-oracle", *arguments])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(caught.value.code, captured.out, captured.err)

    return call


def run_process(*arguments: str, stdin: bytes = b"", **environment: str) -> Outcome:
    """Runs the command line as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "pool_oracle.cli", *arguments],
        input=stdin,
        capture_output=True,
        env=os.environ | environment,
        check=False,
    )
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    return Outcome(done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding))


def lines_of(values: list[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def tree_answer(case: dict[str, Any]) -> dict[str, Any]:
    return {name: case[name] for name in ("root", "total", "leaves", "depth")}


def assert_errors(values: list[Any]) -> None:
    for value in values:
        assert list(value) == ["error"]
        assert value["error"]
        assert "\n" not in value["error"]


# Every vector, with --lines and alone


def test_every_tree_has_its_root(run, vectors):
    trees = vectors("sumtree")["trees"]
    answers = run(*ROOT, "--lines", stdin=lines_of([case["input"] for case in trees])).values(len(trees))
    assert answers == [tree_answer(case) for case in trees]


def test_every_invalid_tree_is_an_error_in_its_place(run, vectors):
    good = vectors("sumtree")["trees"][3]
    invalid = vectors("sumtree")["invalid_trees"]
    mixed = [value for case in invalid for value in (case["input"], good["input"])]
    answers = run(*ROOT, "--lines", stdin=lines_of(mixed)).values(len(mixed))
    assert_errors(answers[::2])
    assert answers[1::2] == [tree_answer(good)] * len(invalid)


@pytest.mark.cases("sumtree", "invalid_trees")
def test_an_invalid_tree_alone_is_exit_code_2(run, case):
    run(*ROOT, stdin=case["input"]).refusal(2)


@pytest.mark.cases("sumtree", "trees")
def test_every_tree_gives_its_proofs(run, case):
    for proof in case["proofs"]:
        answer = run("tree", "proof", "--payee", proof["payee"], stdin=case["input"]).value
        assert answer == {name: proof[name] for name in ("payee", "weight", "index", "proof")} | {"root": case["root"]}
        assert run(*VERIFY, stdin=answer).value == {"valid": True}


def test_a_payees_proofs_come_in_the_lines_of_the_trees_that_hold_it(run, vectors):
    trees = vectors("sumtree")["trees"]
    payee = trees[3]["proofs"][0]["payee"]
    answers = run("tree", "proof", "--payee", payee, "--lines", stdin=lines_of([case["input"] for case in trees]))
    for case, answer in zip(trees, answers.values(len(trees)), strict=True):
        if any(leaf["payee"] == payee for leaf in case["input"]):
            assert (answer["payee"], answer["root"]) == (payee, case["root"])
        else:
            assert "has no leaf" in answer["error"]


def test_every_proof_verifies_and_every_wrong_one_is_an_error_in_its_place(run, vectors):
    file = vectors("sumtree")
    good = [proof | {"root": case["root"]} for case in file["trees"] for proof in case["proofs"]]
    good += file["verifies_but_not_canonical"]
    assert run(*VERIFY, "--lines", stdin=lines_of(good)).values(len(good)) == [{"valid": True}] * len(good)
    wrong = file["invalid_proofs"]
    assert_errors(run(*VERIFY, "--lines", stdin=lines_of(wrong)).values(len(wrong)))


@pytest.mark.cases("sumtree", "invalid_proofs")
def test_a_proof_that_does_not_verify_is_exit_code_1(run, case):
    run(*VERIFY, stdin=case).refusal(1)


def test_every_log_of_shares_has_its_weights(run, vectors):
    cases = vectors("pplns")["cases"]
    questions = [{"window": case["window"], "shares": case["shares"]} for case in cases]
    expected = [{"total": case["total"], "weights": case["weights"]} for case in cases]
    for case in cases:
        for closing in case.get("closings", []):
            questions.append({"window": case["window"], "shares": case["shares"][: closing["shares"]]})
            expected.append({"total": closing["total"], "weights": closing["weights"]})
    assert run(*WINDOW, "--lines", stdin=lines_of(questions)).values(len(questions)) == expected


def test_every_invalid_window_is_an_error_in_its_place(run, vectors):
    cases = vectors("pplns")["invalid"]
    assert_errors(run(*WINDOW, "--lines", stdin=lines_of(cases)).values(len(cases)))


@pytest.mark.cases("pplns", "invalid")
def test_an_invalid_window_alone_is_exit_code_2(run, case):
    run(*WINDOW, stdin=case).refusal(2)


def test_every_share_is_checked(run, vectors):
    cases = vectors("stratum_share")["shares"]
    names = ("header", "hash", "meetsShareTarget", "meetsNetworkTarget")
    answers = run(*CHECK, "--lines", stdin=lines_of(cases)).values(len(cases))
    assert answers == [{name: case[name] for name in names} for case in cases]


def test_every_malformed_share_is_an_error_in_its_place(run, vectors):
    cases = [case | {"shareTarget": ANY_TARGET} for case in vectors("stratum_share")["invalid"]]
    assert_errors(run(*CHECK, "--lines", stdin=lines_of(cases)).values(len(cases)))


@pytest.mark.cases("stratum_share", "invalid")
def test_a_malformed_share_alone_is_exit_code_2(run, case):
    run(*CHECK, stdin=case | {"shareTarget": ANY_TARGET}).refusal(2)


def test_every_address_has_its_payee(run, vectors):
    cases = vectors("payee")["valid"]
    answers = run(*NAME, "--lines", stdin=lines_of(cases)).values(len(cases))
    assert answers == [{"payee": case["payee"]} for case in cases]


def test_every_refused_address_is_an_error_in_its_place(run, vectors):
    cases = vectors("payee")["invalid"]
    assert_errors(run(*NAME, "--lines", stdin=lines_of(cases)).values(len(cases)))


@pytest.mark.cases("payee", "invalid")
def test_a_refused_address_alone_is_exit_code_2(run, case):
    run(*NAME, stdin=case).refusal(2)


# What is fine


def test_leaves_may_come_in_any_order(run, vectors):
    case = vectors("sumtree")["trees"][5]
    shuffled = list(case["input"])
    random.Random(3).shuffle(shuffled)
    assert shuffled != sorted(shuffled, key=lambda leaf: leaf["payee"])
    assert run(*ROOT, stdin=shuffled).value == tree_answer(case)


def test_weights_may_be_numbers_or_decimal_strings(run):
    numbers = [{"payee": PAYEE, "weight": 5}, {"payee": OTHER, "weight": 2**64 - 6}]
    texts = [{"payee": leaf["payee"], "weight": str(leaf["weight"])} for leaf in numbers]
    assert run(*ROOT, stdin=numbers).value == run(*ROOT, stdin=texts).value
    assert run(*ROOT, stdin=numbers).value["total"] == str(2**64 - 1)


def test_with_a_network_its_addresses_stand_for_payees(run, vectors):
    key = vectors("payee")["keys"][0]
    leaves = [{"payee": key["addresses"]["test"]["p2wpkh"], "weight": 1}, {"payee": key["evmAddress"], "weight": 2}]
    words = [{"payee": key["payeeKey"], "weight": 1}, {"payee": key["payeeEvm"], "weight": 2}]
    assert run(*ROOT, "--network", "test", stdin=leaves).value == run(*ROOT, stdin=words).value
    address = key["addresses"]["test"]["p2pkh"]
    answer = run("tree", "proof", "--payee", address, "--network", "test", stdin=leaves).value
    assert (answer["payee"], answer["weight"]) == (key["payeeKey"], "1")


def test_white_space_around_the_json_does_not_matter(run):
    assert run(*ROOT, stdin=b'\r\n [ {"payee":\t"%s", "weight": 1} ] \n' % PAYEE.encode()).value["leaves"] == 1


def test_answers_are_json_with_or_without_the_option_that_says_so(run):
    leaves = [{"payee": PAYEE, "weight": 1}]
    assert run(*ROOT, "--json", stdin=leaves) == run(*ROOT, stdin=leaves)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_lines_give_no_lines(run, command):
    assert run(*command, "--lines") == Outcome(0, "", "")


def test_the_last_line_needs_no_end_and_an_empty_line_has_its_answer(run):
    leaf = b'[{"payee":"%s","weight":1}]' % PAYEE.encode()
    first, empty, last = run(*ROOT, "--lines", stdin=leaf + b"\n\n" + leaf).values(3)
    assert first == last
    assert_errors([empty])


# What is not


BAD_LEAVES = {
    "a payee twice": [{"payee": PAYEE, "weight": 1}, {"payee": PAYEE, "weight": 2}],
    "weight zero": [{"payee": PAYEE, "weight": 0}],
    "weight zero as text": [{"payee": PAYEE, "weight": "0"}],
    "a negative weight": [{"payee": PAYEE, "weight": -1}],
    "a negative weight as text": [{"payee": PAYEE, "weight": "-1"}],
    "a weight of 2^64": [{"payee": PAYEE, "weight": str(2**64)}],
    "a weight of 2^64 as a number": [{"payee": PAYEE, "weight": 2**64}],
    "a weight of a thousand digits": [{"payee": PAYEE, "weight": 10**999}],
    "a weight of a hundred digits as text": [{"payee": PAYEE, "weight": "9" * 101}],
    "a sum of 2^64": [{"payee": PAYEE, "weight": 2**63}, {"payee": OTHER, "weight": 2**63}],
    "a weight with a fraction": [{"payee": PAYEE, "weight": 1.0}],
    "an infinite weight": b'[{"payee":"%s","weight":1e999}]' % PAYEE.encode(),
    "a true weight": [{"payee": PAYEE, "weight": True}],
    "a weight of null": [{"payee": PAYEE, "weight": None}],
    "a weight of odd text": [{"payee": PAYEE, "weight": "1_0"}],
    "a weight of digits of another script": [{"payee": PAYEE, "weight": "\u0661"}],
    "a weight with two signs": [{"payee": PAYEE, "weight": "--1"}],
    "a weight of nothing": [{"payee": PAYEE, "weight": ""}],
    "no weight": [{"payee": PAYEE}],
    "no payee": [{"weight": 1}],
    "a payee of null": [{"payee": None, "weight": 1}],
    "a payee of 20 bytes": [{"payee": "0x" + "11" * 20, "weight": 1}],
    "a payee of 22 bytes": [{"payee": "0x01" + "11" * 21, "weight": 1}],
    "a payee of an unknown kind": [{"payee": "0x03" + "11" * 20, "weight": 1}],
    "a payee of the zero address": [{"payee": "0x" + "00" * 21, "weight": 1}],
    "a payee that is not hex": [{"payee": "0x01" + "zz" * 20, "weight": 1}],
    "an unknown address": [{"payee": "nobody", "weight": 1}],
    "a payee of half a character": b'[{"payee":"\\ud800","weight":1}]',
    "a payee with a line end": [{"payee": "a\nb", "weight": 1}],
    "a long payee": [{"payee": "x" * 100_000, "weight": 1}],
    "no leaf": [],
    "an object": {"payee": PAYEE, "weight": 1},
    "a list of numbers": [1, 2],
    "a list of lists": [[PAYEE, 1]],
}

BAD_JSON = {
    "nothing": b"",
    "white space": b" \n\t\n",
    "an open list": b"[",
    "an open string": b'"',
    "half a number": b"-",
    "a comma too many": b"[1,]",
    "two values": b"[] []",
    "single quotes": b"{'a': 1}",
    "a line end inside a string": b'"a\nb"',
    "NaN": b"NaN",
    "NaN inside": b'[{"payee": NaN, "weight": NaN}]',
    "Infinity": b"[-Infinity]",
    "a number of 5,000 digits": b"9" * 5000,
    "a number of 5,000 digits inside": b'{"window": ' + b"9" * 5000 + b"}",
    "a number of 4,000 digits": b"9" * 4000,
    "bytes that are not UTF-8": b"\xff\xfe\x00",
    "a string that is not UTF-8": b'"\xc3\x28"',
    "a byte order mark": b"\xef\xbb\xbf[]",
    "UTF-16": "[]".encode("utf-16"),
    "zeros": bytes(100),
    "a deep list": b"[" * 100_000 + b"]" * 100_000,
    "a deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "an open deep list": b"[" * 100_000,
    "null": b"null",
    "true": b"true",
    "a number": b"7",
    "a float": b"1.5",
    "a string": b'"text"',
    "an empty object": b"{}",
    "an empty list": b"[]",
    "a list of null": b"[null]",
}


@pytest.mark.parametrize("name", BAD_LEAVES)
@pytest.mark.parametrize("command", [ROOT, PROOF])
def test_bad_leaves_are_one_line_and_exit_code_2(run, command, name):
    text = run(*command, stdin=BAD_LEAVES[name]).refusal(2)
    assert len(text) < 2000


@pytest.mark.parametrize("name", BAD_JSON)
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_json_is_one_line_and_exit_code_2(run, command, name):
    run(*command, stdin=BAD_JSON[name]).refusal(2)


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_json_with_lines_is_an_error_in_each_place(run, command):
    rows = [data.replace(b"\n", b" ").replace(b"\r", b" ") for data in BAD_JSON.values()]
    assert_errors(run(*command, "--lines", stdin=b"\n".join(rows) + b"\n").values(len(rows)))


@pytest.mark.parametrize(
    ("command", "frame"),
    [
        (ROOT, '[{"payee":"PAYEE","weight":@}]'),
        (ROOT, '[{"payee":@,"weight":1}]'),
        (ROOT, "[@]"),
        (VERIFY, '{"payee":"PAYEE","weight":1,"index":@,"proof":[],"root":"ZERO"}'),
        (VERIFY, '{"payee":"PAYEE","weight":1,"index":0,"proof":@,"root":"ZERO"}'),
        (VERIFY, '{"payee":"PAYEE","weight":1,"index":0,"proof":[],"root":@}'),
        (WINDOW, '{"window":@,"shares":[]}'),
        (WINDOW, '{"window":1,"shares":@}'),
        (WINDOW, '{"window":1,"shares":[@]}'),
        (WINDOW, '{"window":1,"shares":[{"payee":"PAYEE","nbits":@,"shareTarget":@}]}'),
        (CHECK, '{"job":@}'),
        (CHECK, '{"job":{"merkleBranch":[@]}}'),
        (NAME, '{"address":@,"network":"main"}'),
        (NAME, '{"address":"1","network":@}'),
    ],
)
def test_a_value_of_any_other_kind_is_an_error_in_its_place(run, command, frame):
    junk = ["null", "true", "-1", "1.5", "1e999", '""', '"x"', "[]", "[[]]", "{}", '{"a":{}}', '"\\ud800"', '"\\u0000"']
    junk += ["9" * 4000, "-" + "9" * 4000, '"' + "9" * 4000 + '"', '"' + "é" * 5000 + '"']
    # Up to where the reader itself gives up, whatever names the value in a message must be able to.
    junk += ["[" * depth + "]" * depth for depth in range(850, 1000)]
    frame = frame.replace("PAYEE", PAYEE).replace("ZERO", "0x" + "00" * 32)
    rows = [frame.replace("@", item).encode() for item in junk]
    answers = run(*command, "--lines", stdin=b"\n".join(rows)).values(len(rows))
    taken = [item for item, answer in zip(junk, answers, strict=True) if "error" not in answer]
    # No shares at all are a window, too.
    assert taken == (["[]"] if frame == '{"window":1,"shares":@}' else [])
    assert_errors([answer for answer in answers if "total" not in answer])


@pytest.mark.parametrize("missing", ["payee", "weight", "index", "proof", "root"])
def test_a_proof_without_one_of_its_fields_is_exit_code_2_and_names_it(run, vectors, missing):
    case = vectors("sumtree")["trees"][3]
    whole = case["proofs"][0] | {"root": case["root"]}
    assert missing in run(*VERIFY, stdin={k: v for k, v in whole.items() if k != missing}).refusal(2)


@pytest.mark.parametrize("missing", ["address", "network"])
def test_an_address_without_one_of_its_fields_is_exit_code_2_and_names_it(run, missing):
    value = {"address": "x", "network": "main"}
    del value[missing]
    assert missing in run(*NAME, stdin=value).refusal(2)


def test_an_address_of_another_network_is_refused_in_a_leaf(run, vectors):
    address = vectors("payee")["keys"][0]["addresses"]["test"]["p2wpkh"]
    text = run(*ROOT, "--network", "main", stdin=[{"payee": address, "weight": 1}]).refusal(2)
    assert "is an address of test; this is main" in text


def test_an_unknown_network_is_refused_with_the_known_ones(run):
    leaves = [{"payee": PAYEE, "weight": 1}]
    assert "regtest" in run(*ROOT, "--network", "mainnet", stdin=leaves).refusal(2)
    assert "regtest" in run(*NAME, stdin={"address": "x", "network": "mainnet"}).refusal(2)


@pytest.mark.parametrize("payee", ["", "x", "0x", "0x03" + "11" * 20, "\udcff", "a\nb", OTHER])
def test_a_payee_that_has_no_proof_is_refused(run, payee):
    run("tree", "proof", "--payee", payee, stdin=[{"payee": PAYEE, "weight": 1}]).refusal(2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tree", "proof"),
        ("tree", "root", "--colour"),
        ("tree", "root", "leaves.json"),
        ("tree", "plant"),
        ("share", "chekc"),
        ("window", "--network"),
        ("nothing",),
        ("--nothing",),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run, arguments):
    run(*arguments).refusal(2)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("tree", "--help"), ("tree", "root", "--help")])
def test_help_and_version_go_to_standard_output(run, arguments):
    outcome = run(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out


# As a user runs it


def test_a_process_answers_a_tree_and_its_proof(vectors):
    case = vectors("sumtree")["trees"][3]
    leaves = json.dumps(case["input"]).encode()
    assert run_process(*ROOT, stdin=leaves).value == tree_answer(case)
    payee = case["proofs"][0]["payee"]
    proof = run_process("tree", "proof", "--payee", payee, stdin=leaves)
    assert run_process(*VERIFY, stdin=proof.out.encode()).value == {"valid": True}


def test_a_process_says_in_one_line_what_is_wrong(vectors):
    proof = vectors("sumtree")["invalid_proofs"][0]
    run_process(*VERIFY, stdin=json.dumps(proof).encode()).refusal(1)
    run_process(*ROOT, stdin=b'[{"payee": 1').refusal(2)
    run_process(*ROOT, stdin=b"[" * 1_000_000).refusal(2)
    run_process(*NAME, stdin=b'{"address":"\xff\xfe","network":"main"}').refusal(2)


def test_a_process_answers_thousands_of_lines(vectors):
    cases = vectors("payee")["valid"] * 50
    answers = run_process(*NAME, "--lines", stdin=lines_of(cases)).values(len(cases))
    assert answers == [{"payee": case["payee"]} for case in cases]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf_8_still_gets_its_line(encoding):
    data = json.dumps({"address": "x", "network": "東京"}, ensure_ascii=False).encode()
    assert_errors(run_process(*NAME, "--lines", stdin=data, PYTHONIOENCODING=encoding).values(1))
    run_process(*NAME, stdin=data, PYTHONIOENCODING=encoding).refusal(2)
