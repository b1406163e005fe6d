"""An epoch's bundle on disk: written whole or not at all, read with every difference named."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from pool_oracle.errors import CorruptLog, ManifestError, PublishError
from pool_oracle.hashes import sha256
from pool_oracle.ledger.bundle import (
    LEAVES_FILE,
    MANIFEST_FILE,
    SEGMENTS_FOLDER,
    bundle_file,
    bundle_folder,
    bundle_folders,
    read_leaves,
    read_manifest,
    read_segment,
    write_bundle,
)
from pool_oracle.payout.manifest import Manifest, Policy, SegmentRef, canonical_json

SEGMENT = b"records" * 100
DIGEST = f"0x{sha256(SEGMENT).hex()}"
NAME = "shares-00000004.log"
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
    segments=(SegmentRef(NAME, DIGEST, 700, 3),),
    leaves=2,
    total="1",
    root="0x" + "44" * 32,
    tip="",
    tip_height=0,
)


@pytest.fixture
def segment(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(SEGMENT)
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
    assert sorted(path.name for path in bundle.iterdir()) == [LEAVES_FILE, MANIFEST_FILE, f"{NAME}.zst"]
    assert sorted(path.name for path in root.iterdir()) == ["epoch-000007", SEGMENTS_FOLDER]
    assert read_manifest(bundle) == (MANIFEST, sha256(MANIFEST.to_bytes()))
    assert read_leaves(bundle) == LEAVES
    assert read_segment(bundle, NAME, DIGEST, 700) == SEGMENT
    assert segment.read_bytes() == SEGMENT


def test_bundles_share_a_segment_that_is_packed_once(root, segment):
    bundles = [write_bundle(root, epoch, MANIFEST.to_bytes(), LEAVES, [segment]) for epoch in (7, 8, 9)]
    (packed,) = (root / SEGMENTS_FOLDER).iterdir()
    assert packed.name == f"{DIGEST[2:]}.zst"
    for bundle in bundles:
        assert (bundle / f"{NAME}.zst").samefile(packed)
        assert not (bundle / f"{NAME}.zst").is_symlink()


def test_a_segment_that_is_published_already_is_not_read_again(bundle, root, segment):
    segment.unlink()
    again = write_bundle(root, 8, MANIFEST.to_bytes(), LEAVES, [segment])
    assert read_segment(again, NAME, DIGEST, 700) == SEGMENT


def test_a_bundle_is_complete_by_itself_wherever_it_is_copied(bundle, tmp_path):
    copied = Path(shutil.copytree(bundle, tmp_path / "copied"))
    with tarfile.open(tmp_path / "bundle.tar", "w") as archive:
        archive.add(bundle, "packed")
    with tarfile.open(tmp_path / "bundle.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    for folder in (copied, tmp_path / "packed"):
        assert read_manifest(folder)[0] == MANIFEST
        assert read_leaves(folder) == LEAVES
        assert read_segment(folder, NAME, DIGEST, 700) == SEGMENT


def test_a_mirror_of_the_whole_folder_needs_each_segment_once(bundle, root):
    manifest, _ = read_manifest(bundle)
    (reference,) = manifest.segments
    (bundle / f"{NAME}.zst").unlink()
    assert read_segment(bundle, NAME, reference.sha256, reference.length) == SEGMENT
    with pytest.raises(ManifestError, match="cannot be read"):
        read_segment(bundle, NAME, "0x" + "00" * 32, reference.length)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_segment(bundle, NAME, "0x../../secret", reference.length)


def test_where_there_are_no_hard_links_segments_are_copied(root, segment, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    bundle = write_bundle(root, 7, MANIFEST.to_bytes(), LEAVES, [segment])
    assert read_segment(bundle, NAME, DIGEST, 700) == SEGMENT


def test_a_segment_that_changed_since_it_was_sealed_is_not_published(root, segment):
    segment.write_bytes(SEGMENT[:-1] + b"x")
    with pytest.raises(CorruptLog, match=r"shares-00000004\.log: has changed since it was sealed"):
        write_bundle(root, 7, MANIFEST.to_bytes(), LEAVES, [segment])
    assert bundle_folders(root) == []
    segment.write_bytes(SEGMENT)
    bundle = write_bundle(root, 7, MANIFEST.to_bytes(), LEAVES, [segment])
    assert read_segment(bundle, NAME, DIGEST, 700) == SEGMENT


def test_a_packed_segment_that_was_damaged_since_is_not_published_again(bundle, root, segment):
    (packed,) = (root / SEGMENTS_FOLDER).iterdir()
    good = packed.read_bytes()
    packed.write_bytes(good[:-1] + bytes((good[-1] ^ 1,)))
    with pytest.raises(CorruptLog, match=rf"{packed.name}: cannot be unpacked"):
        write_bundle(root, 8, MANIFEST.to_bytes(), LEAVES, [segment])
    assert bundle_folders(root) == [bundle]
    packed.write_bytes(good)
    again = write_bundle(root, 8, MANIFEST.to_bytes(), LEAVES, [segment])
    assert read_segment(again, NAME, DIGEST, 700) == SEGMENT


def test_a_segment_that_the_manifest_does_not_name_is_not_published(root, segment):
    with pytest.raises(ManifestError, match="does not name the segment shares"):
        write_bundle(root, 7, replace(MANIFEST, segments=()).to_bytes(), LEAVES, [segment])


@pytest.mark.parametrize(("name", "steps", "calls"), [("fsync", 8, i) for i in range(9)] + [("rename", 2, 0)])
def test_a_disk_that_fails_at_any_step_publishes_nothing_and_the_next_try_does(
    root, segment, monkeypatch, name, steps, calls
):
    left = iter(range(calls))
    original = getattr(os, name)

    def failing(*arguments: object) -> object:
        if next(left, None) is None:
            raise OSError(errno.EIO, "Input/output error")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing)
        with contextlib.suppress(PublishError):
            write_bundle(root, 7, MANIFEST.to_bytes(), LEAVES, [segment])
            assert next(left, None) is not None or calls == steps
    for folder in bundle_folders(root):  # the very last step had failed
        assert read_segment(folder, NAME, DIGEST, 700) == SEGMENT
    bundle = write_bundle(root, 7, MANIFEST.to_bytes(), LEAVES, [segment])
    assert read_manifest(bundle)[0] == MANIFEST
    assert read_leaves(bundle) == LEAVES
    assert read_segment(bundle, NAME, DIGEST, 700) == SEGMENT


def test_a_full_disk_is_an_error_that_says_so(root, segment, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PublishError, match=r"the bundle of epoch 7 could not be written to .*No space left on device"):
        write_bundle(root, 7, MANIFEST.to_bytes(), LEAVES, [segment])


def test_everything_is_on_the_disk_before_a_bundle_appears(root, segment, monkeypatch):
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", watched)
    write_bundle(root, 7, MANIFEST.to_bytes(), LEAVES, [segment])
    draft = ".draft-000007"
    parts = [f"{DIGEST[2:]}.part", SEGMENTS_FOLDER, LEAVES_FILE, MANIFEST_FILE, draft, root.name]
    assert [name for name in synced if name in parts][-6:] == parts


def test_only_files_of_the_bundle_are_handed_out(bundle, root):
    for name in (MANIFEST_FILE, LEAVES_FILE, f"{NAME}.zst"):
        assert bundle_file(bundle, MANIFEST, name) == bundle / name
    (bundle / "secret").write_text("")
    for name in ("secret", NAME, f"../{SEGMENTS_FOLDER}/{DIGEST[2:]}.zst", "", ".", "..", f"{NAME}.zst.zst"):
        assert bundle_file(bundle, MANIFEST, name) is None
    (bundle / NAME).write_bytes(SEGMENT)
    assert bundle_file(bundle, MANIFEST, NAME) == bundle / NAME
    hostile = replace(MANIFEST, segments=(SegmentRef("../secret", DIGEST, 1, 0),))
    (root / "secret").write_text("")
    assert bundle_file(bundle, hostile, "../secret") is None


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


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_segment_that_was_changed_cut_or_lengthened_is_refused(bundle, is_packed):
    (bundle / f"{NAME}.zst").unlink()
    copy = bundle / (f"{NAME}.zst" if is_packed else NAME)

    def put(data: bytes) -> None:
        copy.write_bytes(zstandard.compress(data) if is_packed else data)

    for changed in (b"R" + SEGMENT[1:], SEGMENT[:-1], SEGMENT + b"\x00", b"", SEGMENT * 1000):
        put(changed)
        with pytest.raises(ManifestError, match=r"not the segment|holds more than 700 bytes|more than 700 bytes can"):
            read_segment(bundle, NAME, DIGEST, 700)
    put(SEGMENT)
    with pytest.raises(ManifestError, match="not the segment"):
        read_segment(bundle, NAME, DIGEST, 701)
    assert read_segment(bundle, NAME, DIGEST, 700) == SEGMENT


def test_a_packed_segment_that_is_none_is_named(bundle):
    packed = bundle / f"{NAME}.zst"
    packed.unlink()
    shutil.rmtree(bundle.parent / SEGMENTS_FOLDER)
    packed.write_bytes(b"nothing of the kind")
    with pytest.raises(ManifestError, match=r"epoch-000007/shares-00000004\.log\.zst: cannot be unpacked"):
        read_segment(bundle, NAME, DIGEST, 700)
    packed.unlink()
    with pytest.raises(
        ManifestError, match=r"shares-00000004\.log cannot be read: .* nor is shares-00000004\.log\.zst"
    ):
        read_segment(bundle, NAME, DIGEST, 700)


@pytest.mark.parametrize("length", [-1, (1 << 30) + 1, 1 << 60])
def test_a_manifest_that_names_a_segment_of_impossible_length_is_refused(bundle, length):
    with pytest.raises(ManifestError, match=f"a segment of {length} bytes"):
        read_segment(bundle, NAME, DIGEST, length)


@pytest.mark.parametrize("name", [MANIFEST_FILE, LEAVES_FILE, NAME, f"{NAME}.zst"])
def test_a_pipe_or_a_device_is_no_file_of_a_bundle(bundle, name):
    read = {MANIFEST_FILE: read_manifest, LEAVES_FILE: read_leaves}.get(
        name, lambda folder: read_segment(folder, NAME, DIGEST, 700)
    )
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir):
        path = bundle / name
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        make(path)
        with pytest.raises(ManifestError, match=r"cannot be read: (is no regular file|Is a directory)"):
            read(bundle)


def test_a_manifest_of_more_than_a_mebibyte_is_not_read(bundle):
    with (bundle / MANIFEST_FILE).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ManifestError, match="more than 1048576 bytes"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/b", "..", ".", "", "shares\x00.log", "\x00", "missing.log", "x" * 5000]
)
def test_a_segment_outside_the_bundle_or_missing_is_refused(bundle, name, tmp_path):
    (tmp_path / "bundles" / "secret").write_bytes(b"")
    with pytest.raises(ManifestError):
        read_segment(bundle, name, f"0x{sha256(b'').hex()}", 0)
