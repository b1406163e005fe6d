"""Canonical JSON, content identifiers and manifests, against cid.json."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from pool_oracle.errors import ManifestError
from pool_oracle.hashes import sha256
from pool_oracle.payout.manifest import (
    MAX_JSON_INTEGER,
    MAX_MANIFEST_SIZE,
    Manifest,
    Policy,
    SegmentRef,
    canonical_json,
    cid,
    manifest_hash,
    parse_canonical,
)

POLICY = Policy(
    scheme="pplns",
    window=8,
    fee_bps=0,
    unit=str(1 << 56),
    genesis_payee="0x01" + "11" * 20,
    emulated_network_target="0x0000" + "1" + "0" * 59,
)
SEGMENT = SegmentRef(name="shares-00000003.log", sha256="0x" + "ab" * 32, length=6400, first=17)
MANIFEST = Manifest(
    version=1,
    pool="Zürich → 東京",
    network="regtest",
    chain_id=31337,
    distributor="0x" + "22" * 20,
    route="flyover",
    epoch=7,
    previous="0x" + "33" * 32,
    policy=POLICY,
    closing_share=99,
    closing_t=str(1 << 60),
    first_share=20,
    segments=(SEGMENT, replace(SEGMENT, name="shares-00000004.log", first=80)),
    leaves=2,
    total=str(1 << 59),
    root="0x" + "44" * 32,
    tip="55" * 32,
    tip_height=123,
)
GENESIS = replace(
    MANIFEST, epoch=0, previous=None, closing_share=None, closing_t="0", first_share=None, segments=(), tip="", leaves=1
)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


# Canonical JSON


@pytest.mark.cases("cid", "cases")
def test_a_file_has_the_hash_and_the_name_of_the_vectors(case, unhex):
    data = unhex(case["repeat"]["bytes"]) * case["repeat"]["times"] if "repeat" in case else unhex(case["bytes"])
    assert manifest_hash(data) == unhex(case["sha256"])
    assert cid(manifest_hash(data)) == case["cid"]


@pytest.mark.cases("cid", "canonical_json")
def test_a_value_has_one_canonical_text(case, unhex):
    data = canonical_json(case["value"])
    assert data == unhex(case["bytes"]) == case["text"].encode()
    assert parse_canonical(data) == case["value"]
    assert manifest_hash(data) == unhex(case["manifestHash"])
    assert cid(manifest_hash(data)) == case["cid"]


@pytest.mark.cases("cid", "not_canonical")
def test_any_other_text_of_a_value_is_refused(case, unhex):
    with pytest.raises(ManifestError):
        parse_canonical(unhex(case["bytes"]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"{}\n",
        b"\xef\xbb\xbf{}",
        b'"\xff"',
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b'"\\u00e9"',
        b'"\\/"',
        b'{"a":1,"a":1}',
        b"1.0",
        b"1e3",
        b"-0",
        b"-0.0",
        b"01",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"9007199254740993",
        b"-9007199254740993",
        b"9" * 5000,
        b"nul",
        b'"\t"',
        b"{}{}",
        "{}".encode("utf-16"),
    ],
)
def test_bytes_that_are_not_canonical_json_are_refused(data):
    with pytest.raises(ManifestError):
        parse_canonical(data)


def test_nesting_is_either_read_or_refused():
    read = refused = 0
    depths = [1, 100, *range(300, 1100), 100_000]
    for depth in depths:
        try:
            value = parse_canonical(nested(depth))
        except ManifestError as error:
            refused += "nested too deeply" in str(error)
        else:
            read += 1
            assert canonical_json(value) == nested(depth)
    assert read + refused == len(depths)
    assert min(read, refused) > 100


def test_a_value_nested_too_deeply_has_no_canonical_text():
    value = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(ManifestError, match="nested too deeply"):
        canonical_json(value)


@pytest.mark.parametrize("value", [1.5, 1.0, float("nan"), b"bytes", {1: 2}, {None: 1}, {1, 2}, object()])
def test_a_value_that_has_no_canonical_text_is_refused(value):
    with pytest.raises(ManifestError):
        canonical_json(value)
    with pytest.raises(ManifestError, match=r"\$\.a\[1\]"):
        canonical_json({"a": [0, value]})


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_half_a_surrogate_pair_has_no_canonical_text(text):
    with pytest.raises(ManifestError):
        canonical_json({"pool": text})
    with pytest.raises(ManifestError):
        canonical_json({text: 1})


def test_integers_go_up_to_2_to_the_53():
    for value in (MAX_JSON_INTEGER, -MAX_JSON_INTEGER, 0):
        assert parse_canonical(canonical_json(value)) == value
    for value in (MAX_JSON_INTEGER + 1, -MAX_JSON_INTEGER - 1):
        with pytest.raises(ManifestError, match="decimal string"):
            canonical_json(value)


def test_keys_are_sorted_by_code_point_and_text_is_not_escaped():
    value = {"\U0001f600": 1, "\uffff": 2, "é": "\u2028\x7f", "a": '"\\\n\x01'}
    expected = '{"a":"\\"\\\\\\n\\u0001","é":"\u2028\x7f","\uffff":2,"\U0001f600":1}'
    assert canonical_json(value) == expected.encode()


# Manifests


@pytest.mark.parametrize("manifest", [MANIFEST, GENESIS], ids=["later", "genesis"])
def test_a_manifest_survives_the_way_to_the_file_and_back(manifest):
    data = manifest.to_bytes()
    assert Manifest.from_bytes(data) == manifest
    assert parse_canonical(data) == json.loads(data)
    assert manifest.hash() == sha256(data) == manifest_hash(data)


def test_each_field_of_a_manifest_changes_its_hash():
    changes = {
        "pool": "other",
        "network": "main",
        "chain_id": 1,
        "distributor": "0x" + "00" * 20,
        "route": "tbtc",
        "epoch": 8,
        "previous": None,
        "policy": replace(POLICY, window=9),
        "closing_share": 98,
        "closing_t": "1",
        "first_share": None,
        "segments": (SEGMENT,),
        "leaves": 3,
        "total": "2",
        "root": "0x" + "00" * 32,
        "tip": "",
        "tip_height": 0,
    }
    assert {"version", *changes} == set(asdict(MANIFEST))
    hashes = {replace(MANIFEST, **{name: value}).hash() for name, value in changes.items()}
    assert len(hashes | {MANIFEST.hash()}) == len(changes) + 1


def changed(**changes) -> bytes:
    value = json.loads(MANIFEST.to_bytes()) | changes
    return canonical_json({name: item for name, item in value.items() if item != "absent"})


@pytest.mark.parametrize("name", list(asdict(MANIFEST)))
def test_a_manifest_without_one_of_its_fields_is_refused(name):
    with pytest.raises(ManifestError, match=name):
        Manifest.from_bytes(changed(**{name: "absent"}))


def test_a_manifest_with_an_unknown_field_is_refused():
    with pytest.raises(ManifestError, match="extra"):
        Manifest.from_bytes(changed(extra=1))


@pytest.mark.parametrize("junk", [None, True, 7, "seven", [], {}, [1], {"a": 1}])
@pytest.mark.parametrize("name", list(asdict(MANIFEST)))
def test_a_field_of_a_manifest_is_of_its_type_or_refused(name, junk):
    own = getattr(MANIFEST, name)
    optional = name in ("previous", "closing_share", "first_share")
    same_type = type(junk) is type(own) or (name == "segments" and junk == [])
    # Of these, no junk of the right type is right.
    is_fixed = name in ("distributor", "root", "previous", "version", "policy")
    if (same_type and not is_fixed) or (optional and junk is None):
        assert Manifest.from_bytes(changed(**{name: junk})).to_bytes() == changed(**{name: junk})
    else:
        with pytest.raises(ManifestError):
            Manifest.from_bytes(changed(**{name: junk}))


@pytest.mark.parametrize("junk", [None, True, 7, "seven", [], {}])
@pytest.mark.parametrize("name", list(asdict(POLICY)))
def test_a_field_of_the_policy_is_of_its_type_or_refused(name, junk):
    own = getattr(POLICY, name)
    policy = asdict(POLICY) | {name: junk}
    is_hex = name in ("emulated_network_target", "payee")
    good = junk is None if is_hex else type(junk) is type(own)
    if good:
        assert getattr(Manifest.from_bytes(changed(policy=policy)).policy, name) == junk
    else:
        with pytest.raises(ManifestError, match=name):
            Manifest.from_bytes(changed(policy=policy))


@pytest.mark.parametrize("segment", [None, 1, "shares", [], {}, {"name": "x"}, asdict(SEGMENT) | {"length": "6400"}])
def test_a_segment_that_is_not_one_is_refused(segment):
    with pytest.raises(ManifestError, match="SegmentRef"):
        Manifest.from_bytes(changed(segments=[segment]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("distributor", ""),
        ("distributor", "22" * 20),
        ("distributor", "0x" + "22" * 19),
        ("distributor", "0x" + "zz" * 20),
        ("root", "0x" + "44" * 31),
        ("root", "0x" + "zz" * 32),
        ("previous", "0x"),
        ("previous", "0x" + "zz" * 32),
    ],
)
def test_a_hash_or_address_that_is_not_hex_of_its_size_is_refused_by_name(name, text):
    with pytest.raises(ManifestError, match=name):
        Manifest.from_bytes(changed(**{name: text}))


@pytest.mark.parametrize("text", ["", "0x", "0xzz", "1" * 64, "0x" + "g" * 64])
def test_an_emulated_network_target_that_is_none_is_refused_by_name(text):
    with pytest.raises(ManifestError, match="emulated_network_target"):
        Manifest.from_bytes(changed(policy=asdict(POLICY) | {"emulated_network_target": text}))


@pytest.mark.parametrize("version", [0, 2, 1 << 53])
def test_a_manifest_of_another_protocol_version_is_refused(version):
    with pytest.raises(ManifestError, match="protocol version"):
        Manifest.from_bytes(changed(version=version))


@pytest.mark.parametrize("data", [b"null", b"[]", b"1", b'"x"', b"{}"])
def test_another_json_value_is_no_manifest(data):
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data)


def test_a_manifest_stays_under_1_mib():
    with pytest.raises(ManifestError, match="must stay under"):
        replace(MANIFEST, pool="x" * MAX_MANIFEST_SIZE).to_bytes()
    room = MAX_MANIFEST_SIZE - 1 - len(replace(MANIFEST, pool="").to_bytes())
    assert len(replace(MANIFEST, pool="x" * room).to_bytes()) == MAX_MANIFEST_SIZE - 1
