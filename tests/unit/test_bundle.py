"""An epoch's bundle on disk: written whole or not at all, read with every difference named."""

from __future__ import annotations

import pytest

from pool_oracle.errors import ManifestError
from pool_oracle.hashes import sha256
from pool_oracle.ledger.bundle import (
    LEAVES_FILE,
    MANIFEST_FILE,
    bundle_folder,
    bundle_folders,
    read_leaves,
    read_manifest,
    read_segment,
    write_bundle,
)
from pool_oracle.payout.manifest import Manifest, Policy, canonical_json

LEAVES = [(b"\x00" + b"\x11" * 20, 5), (b"\x01" + b"\x22" * 20, (1 << 64) - 6)]
MANIFEST = Manifest(
    version=1,
    pool="pool",
    network="regtest",
    chain_id=31337,
    distributor="0x" + "22" * 20,
    route="flyover",
    epoch=7,
    previous=None,
    policy=Policy("pplns", 8, 0, str(1 << 56), "0x01" + "11" * 20, None),
    closing_share=None,
    closing_t="0",
    first_share=None,
    segments=(),
    leaves=2,
    total="1",
    root="0x" + "44" * 32,
    tip="",
    tip_height=0,
)


@pytest.fixture
def segment(tmp_path):
    path = tmp_path / "shares-00000004.log"
    path.write_bytes(b"records" * 100)
    return path


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "bundles"
    folder.mkdir()
    return folder


@pytest.fixture
def bundle(root, segment):
    return write_bundle(root, 7, MANIFEST.to_bytes(), LEAVES, [segment])


def test_a_bundle_holds_manifest_leaves_and_segments(bundle, root, segment):
    assert bundle == bundle_folder(root, 7) == root / "epoch-000007"
    assert sorted(path.name for path in bundle.iterdir()) == [LEAVES_FILE, MANIFEST_FILE, segment.name]
    assert [path.name for path in root.iterdir()] == ["epoch-000007"]
    assert read_manifest(bundle) == (MANIFEST, sha256(MANIFEST.to_bytes()))
    assert read_leaves(bundle) == LEAVES
    digest = f"0x{sha256(segment.read_bytes()).hex()}"
    assert read_segment(bundle, segment.name, digest, 700) == segment.read_bytes()


def test_leaves_are_canonical_json_with_weights_as_strings(bundle):
    expected = [["0x00" + "11" * 20, "5"], ["0x01" + "22" * 20, str((1 << 64) - 6)]]
    assert (bundle / LEAVES_FILE).read_bytes() == canonical_json(expected)


def test_the_same_bundle_written_again_stays_as_it_is(bundle, root, segment):
    before = {path.name: path.stat().st_ino for path in bundle.iterdir()}
    assert write_bundle(root, 7, MANIFEST.to_bytes(), LEAVES, [segment]) == bundle
    assert {path.name: path.stat().st_ino for path in bundle.iterdir()} == before


def test_two_manifests_for_one_epoch_are_never_published(bundle, root):
    with pytest.raises(ManifestError, match="another manifest for epoch 7"):
        write_bundle(root, 7, b"{}", LEAVES, [])
    assert read_manifest(bundle)[0] == MANIFEST


def test_what_a_crash_left_half_written_is_replaced(root, segment):
    draft = root / ".draft-000007"
    draft.mkdir()
    (draft / "shares-00000001.log").write_bytes(b"old")
    bundle = write_bundle(root, 7, MANIFEST.to_bytes(), LEAVES, [segment])
    assert not draft.exists()
    assert not (bundle / "shares-00000001.log").exists()


def test_a_draft_is_no_bundle(root, segment):
    for epoch in (2, 10, 1):
        write_bundle(root, epoch, MANIFEST.to_bytes(), LEAVES, [segment])
    (root / ".draft-000003").mkdir()
    (root / "epoch-notes").mkdir()
    assert [path.name for path in bundle_folders(root)] == ["epoch-000001", "epoch-000002", "epoch-000010"]
    assert bundle_folders(root / "nowhere") == []


@pytest.mark.parametrize("name", [MANIFEST_FILE, LEAVES_FILE])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    read = read_manifest if name == MANIFEST_FILE else read_leaves
    with pytest.raises(ManifestError, match=f"{name} cannot be read"):
        read(bundle)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"null",
        b"[1]",
        b"[[]]",
        b'[["0x00"]]',
        b'[[1,"5"]]',
        b'[["0x00","5"]]',
        b'[["0x001111111111111111111111111111111111111111","x"]]',
        b'[["0x001111111111111111111111111111111111111111",null]]',
        b'[ ["0x001111111111111111111111111111111111111111","5"]]',
        b'[["\\ud800","5"]]',
        b"\xff",
    ],
)
def test_leaves_that_are_none_are_refused(bundle, text):
    (bundle / LEAVES_FILE).write_bytes(text)
    with pytest.raises(ManifestError):
        read_leaves(bundle)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"pool":"\\ud800"}'])
def test_a_manifest_file_that_is_none_is_refused(bundle, text):
    (bundle / MANIFEST_FILE).write_bytes(text)
    with pytest.raises(ManifestError):
        read_manifest(bundle)


def test_a_segment_that_was_changed_cut_or_lengthened_is_refused(bundle, segment):
    data = segment.read_bytes()
    digest = f"0x{sha256(data).hex()}"
    copy = bundle / segment.name
    for changed in (b"R" + data[1:], data[:-1], data + b"\x00", b""):
        copy.unlink()
        copy.write_bytes(changed)
        with pytest.raises(ManifestError, match="not the segment"):
            read_segment(bundle, segment.name, digest, len(data))
    copy.write_bytes(data)
    with pytest.raises(ManifestError, match="not the segment"):
        read_segment(bundle, segment.name, digest, len(data) + 1)
    assert read_segment(bundle, segment.name, digest, len(data)) == data


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/b", "..", ".", "", "shares\x00.log", "\x00", "missing.log", "x" * 5000]
)
def test_a_segment_outside_the_bundle_or_missing_is_refused(bundle, name, tmp_path):
    (tmp_path / "bundles" / "secret").write_bytes(b"")
    with pytest.raises(ManifestError):
        read_segment(bundle, name, f"0x{sha256(b'').hex()}", 0)
