"""JSON from outside: canonical files, stratum's lines, and the values of the command line."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_oracle import formats
from pool_oracle.errors import InputError, ManifestError, ProofError
from pool_oracle.networks import NETWORKS
from pool_oracle.payout.manifest import MAX_JSON_INTEGER, Manifest, canonical_json, parse_canonical
from pool_oracle.stratum.messages import parse_request
from pool_oracle.stratum.users import parse_user

safe_integers = st.integers(-MAX_JSON_INTEGER, MAX_JSON_INTEGER)
canonical_values = st.recursive(
    st.one_of(st.none(), st.booleans(), safe_integers, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=8), inner, max_size=5)),
    max_leaves=15,
)
any_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=20),
        st.text("0123456789abcdefx", max_size=70).map(lambda text: f"0x{text}"),
        st.integers(0, 2**256 - 1).map(lambda number: f"0x{number:064x}"),
        st.binary(min_size=20, max_size=20).map(lambda digest: f"0x01{digest.hex()}"),
        st.sampled_from([*NETWORKS, "sha256d", "1d00ffff", "20000000"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
        st.fixed_dictionaries({}, optional={"payee": inner, "weight": inner}),
        st.fixed_dictionaries({"payee": inner, "weight": inner, "index": inner, "proof": inner, "root": inner}),
        st.fixed_dictionaries({"window": inner, "shares": inner}),
        st.fixed_dictionaries({"payee": inner, "nbits": inner, "shareTarget": inner}),
        st.fixed_dictionaries({"address": inner, "network": inner}),
        st.fixed_dictionaries({"job": inner}, optional={"ntime": inner, "versionBits": inner, "pow": inner}),
    ),
    max_leaves=12,
)
texts_near_json = st.one_of(
    st.text(max_size=80),
    st.text('{}[]",:0123456789.eE+-\\ \n\tnulltruefalseNaN', max_size=80),
    any_values.map(json.dumps),
)


@given(canonical_values)
@settings(max_examples=300)
def test_a_canonical_value_survives_the_way_to_its_bytes_and_back(value):
    data = canonical_json(value)
    assert parse_canonical(data) == value
    assert canonical_json(parse_canonical(data)) == data


@given(canonical_values)
@settings(max_examples=200)
def test_any_other_text_of_a_value_is_refused(value):
    data = canonical_json(value)
    for options in ({"indent": 1}, {"separators": (", ", ": ")}, {"ensure_ascii": True}, {"sort_keys": False}):
        other = json.dumps(value, **({"ensure_ascii": False, "sort_keys": True, "separators": (",", ":")} | options))
        if other.encode() == data:
            continue
        with pytest.raises(ManifestError):
            parse_canonical(other.encode())


@given(st.one_of(st.binary(max_size=100), texts_near_json.map(lambda text: text.encode("utf-8", "surrogatepass"))))
@settings(max_examples=400)
def test_random_bytes_are_canonical_json_or_refused(data):
    with suppress(ManifestError):
        assert canonical_json(parse_canonical(data)) == data
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data)


@given(st.one_of(st.binary(max_size=200), texts_near_json.map(lambda text: text.encode("utf-8", "surrogatepass"))))
@settings(max_examples=400)
def test_a_line_is_a_stratum_request_or_refused(line):
    with suppress(InputError):
        assert isinstance(parse_request(line).method, str)


@given(st.binary(max_size=20), st.binary(max_size=20))
@settings(max_examples=300)
def test_a_request_with_any_bytes_in_its_strings_is_read_or_refused(method, argument):
    with suppress(InputError):
        request = parse_request(b'{"id":1,"method":"' + method + b'","params":["' + argument + b'"]}')
        assert isinstance(request.method, str)


@given(st.one_of(any_values, st.text(max_size=300)), st.sampled_from(list(NETWORKS.values())))
@settings(max_examples=200)
def test_a_user_name_is_a_payee_and_a_worker_or_refused(value, network):
    problem = ""
    try:
        payee, worker = parse_user(value, network)
    except InputError as error:
        problem = str(error)
    else:
        assert len(payee) == 21
        assert worker.isprintable()
    assert "\n" not in problem


@pytest.mark.parametrize(
    "convert",
    [formats.tree_root, formats.tree_verify, formats.window_weights, formats.share_check, formats.payee_of],
    ids=lambda convert: convert.__name__,
)
def test_any_line_has_one_line_for_an_answer(convert):
    @given(texts_near_json)
    @settings(max_examples=300)
    def holds(line):
        answer = formats.answer_line(convert, line)
        assert "\n" not in answer
        assert isinstance(json.loads(answer), dict)

    holds()


@given(texts_near_json)
@settings(max_examples=300)
def test_any_text_is_json_or_refused_in_one_line(text):
    problem = ""
    try:
        formats.read_json(text)
    except InputError as error:
        problem = str(error)
    assert "\n" not in problem


@given(any_values)
@settings(max_examples=300)
def test_any_value_is_an_answer_or_refused(value):
    for convert in (formats.tree_root, formats.tree_verify, formats.window_weights, formats.share_check):
        with suppress(InputError, ProofError):
            json.dumps(convert(value))
