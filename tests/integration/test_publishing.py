"""Bundles beyond the pool's disk: what arrives whole, what is sent once, and what servers do that delays a commit."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pool_oracle.check import run_checks
from pool_oracle.config import KEY_FILE_VARIABLE, Config, PublishSection
from pool_oracle.epoch.kubo import KuboPublisher, Link, cid_bytes, directory_block, directory_cid
from pool_oracle.epoch.publishing import (
    Bundle,
    Publisher,
    Publishing,
    PublishSettings,
    PutPublisher,
    open_bundle,
    open_publishing,
)
from pool_oracle.epoch.remote import Credentials, Patience
from pool_oracle.errors import PublishError
from pool_oracle.ledger.bundle import bundle_folder, read_manifest, read_segment
from pool_oracle.ledger.sharelog import segment_files
from pool_oracle.payout.manifest import cid
from tests.integration.publish_servers import Blocks, FileServer, KuboServer
from tests.integration.synthetic_log import publish_segments, write_log

HASTY = Patience(
    attempts=3,
    wait_seconds=0.01,
    max_wait_seconds=0.02,
    silence_seconds=0.5,
    bytes_per_second=1 << 20,
    start_seconds=1.0,
)
SERVERS = Path(__file__).with_name("publish_servers.py")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs over the segments of one log, which they share."""
    folder = tmp_path_factory.mktemp("published")
    write_log(folder / "shares", ("s" * 60 + "c") * 3)
    segments = segment_files(folder / "shares")[:3]
    for epoch in range(1, 4):
        publish_segments(folder / "bundles", epoch, segments[:epoch])
    return folder / "bundles"


def bundle(root: Path, epoch: int) -> Bundle:
    folder = bundle_folder(root, epoch)
    return open_bundle(folder, read_manifest(folder)[1])


async def done(publisher: Publisher, *wanted: Bundle) -> None:
    """Publish and fetch back, as before a commit."""
    try:
        for each in wanted:
            await publisher.publish(each)
            await publisher.fetch_back(each)
    finally:
        await publisher.close()


def put(url: str, credentials: Credentials | None = None) -> PutPublisher:
    return PutPublisher(url, credentials or Credentials(), HASTY)


def kubo(url: str, credentials: Credentials | None = None) -> KuboPublisher:
    return KuboPublisher(url, credentials or Credentials(), HASTY)


def run(server: Any, work: Callable[[str], Awaitable[None]]) -> None:
    async def served() -> None:
        async with server.serve() as url:
            await work(url)

    asyncio.run(served())


# A server that takes files


def test_a_server_becomes_a_mirror_of_the_bundles_with_each_segment_once(bundles: Path, tmp_path: Path) -> None:
    server = FileServer(tmp_path)

    async def work(url: str) -> None:
        await done(put(url), *(bundle(bundles, epoch) for epoch in range(1, 4)))

    run(server, work)
    for epoch in range(1, 4):
        for name in ("manifest.json", "leaves.json"):
            place = f"epoch-{epoch:06d}/{name}"
            assert (tmp_path / place).read_bytes() == (bundles / place).read_bytes()
    for reference in read_manifest(tmp_path / "epoch-000003")[0].segments:
        read_segment(tmp_path / "epoch-000003", reference.name, reference.sha256, reference.length)
    for packed in (bundles / "segments").iterdir():
        assert (tmp_path / "segments" / packed.name).read_bytes() == packed.read_bytes()
    sent = Counter(path for method, path in server.requests if method == "PUT" and (tmp_path / path).exists())
    assert len(sent) == 9
    assert max(sent.values()) <= 2, "only what met a missing folder is sent twice"


def test_the_manifest_is_sent_last(bundles: Path, tmp_path: Path) -> None:
    server = FileServer(tmp_path)
    run(server, lambda url: done(put(url), bundle(bundles, 2)))
    sent = [path for method, path in server.requests if method == "PUT"]
    assert sent[-1] == "epoch-000002/manifest.json"


def test_what_is_there_is_not_sent_again_and_what_is_damaged_is(bundles: Path, tmp_path: Path) -> None:
    wanted = bundle(bundles, 3)
    run(FileServer(tmp_path), lambda url: done(put(url), wanted))
    segment = next((tmp_path / "segments").iterdir())
    segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    (tmp_path / "epoch-000003" / "leaves.json").unlink()
    server = FileServer(tmp_path)
    run(server, lambda url: done(put(url), wanted))
    again = [path for method, path in server.requests if method == "PUT"]
    assert sorted(again) == ["epoch-000003/leaves.json", f"segments/{segment.name}"]


def test_what_a_server_lost_since_it_gave_it_back_is_sent_again(bundles: Path, tmp_path: Path) -> None:
    server = FileServer(tmp_path)

    async def work(url: str) -> None:
        publisher = put(url)
        await publisher.publish(bundle(bundles, 1))
        await publisher.fetch_back(bundle(bundles, 1))
        shutil.rmtree(tmp_path / "segments")
        await done(publisher, bundle(bundles, 2))

    run(server, work)
    assert len(list((tmp_path / "segments").iterdir())) == 2


@pytest.mark.parametrize(
    ("credentials", "sent"),
    [
        (lambda folder: Credentials(token_file=folder / "secret"), "Bearer opensesame"),
        (
            lambda folder: Credentials(user="pool", password_file=folder / "secret"),
            "Basic " + base64.b64encode(b"pool:opensesame").decode(),
        ),
    ],
)
def test_credentials_come_from_a_file_and_stand_in_no_error(
    bundles: Path, tmp_path: Path, credentials: Callable[[Path], Credentials], sent: str
) -> None:
    (tmp_path / "secret").write_text("opensesame\n")
    (tmp_path / "site").mkdir()
    server = FileServer(tmp_path / "site")
    server.authorization = sent

    async def work(url: str) -> None:
        await done(put(url, credentials(tmp_path)), bundle(bundles, 1))
        (tmp_path / "secret").write_text("guessed")
        with pytest.raises(PublishError, match=r"user, password or token is wrong \(HTTP 401\)") as caught:
            await done(put(url, credentials(tmp_path)), bundle(bundles, 1))
        assert "guessed" not in str(caught.value)
        (tmp_path / "secret").unlink()
        with pytest.raises(PublishError, match="secret cannot be read"):
            await done(put(url, credentials(tmp_path)), bundle(bundles, 1))

    run(server, work)


# What both kinds of servers do

MAKE: dict[str, tuple[Callable[[Path], Any], Callable[[str], Publisher]]] = {
    "put": (FileServer, put),
    "kubo": (lambda _: KuboServer(), kubo),
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("fault", ["500", "503", "429", "cut", "silent", "chatty"])
def test_a_fault_that_passes_is_waited_out(bundles: Path, tmp_path: Path, kind: str, fault: str) -> None:
    server, publisher = MAKE[kind][0](tmp_path), MAKE[kind][1]
    tries: Counter[tuple[str, str]] = Counter()

    def first_time(method: str, path: str) -> str | None:
        tries[method, path] += 1
        is_long = fault not in ("silent", "chatty") or len(tries) == 3
        return fault if is_long and tries[method, path] == 1 and method != "HEAD" else None

    server.fault = first_time
    run(server, lambda url: done(publisher(url), bundle(bundles, 2)))
    assert max(tries.values()) > 1


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "the server fails (HTTP 500: out of order)"),
        ("507", "the server's disk is full (HTTP 507: out of order)"),
        ("413", "the file is too long for the server"),
        ("401", "user, password or token is wrong"),
        ("silent", "the server fell silent"),
        ("chatty", "the server is too slow"),
        ("cut", "the answer was cut short"),
    ],
)
def test_a_fault_that_stays_is_an_error_with_host_file_and_what_would_help(
    bundles: Path, tmp_path: Path, kind: str, fault: str, words: str
) -> None:
    server, publisher = MAKE[kind][0](tmp_path), MAKE[kind][1]
    spoiled = {"put": "GET", "kubo": "POST"}[kind]
    server.fault = lambda method, path: fault if method == spoiled and "segments" not in path else None

    async def work(url: str) -> None:
        if kind == "put":  # so that there is something to be cut
            server.fault, fail = (lambda _method, _path: None), server.fault
            await done(publisher(url), bundle(bundles, 1))
            server.fault = fail
        began = time.monotonic()
        with pytest.raises(PublishError) as caught:
            await done(publisher(url), bundle(bundles, 1))
        assert time.monotonic() - began < 20
        text = str(caught.value)
        assert words in text
        assert text.startswith(f"{kind} 127.0.0.1:")
        assert ".json" in text or ".zst" in text
        assert "http://" not in text
        assert "\n" not in text
        server.fault = lambda _method, _path: None
        await done(publisher(url), bundle(bundles, 1))

    run(server, work)


@pytest.mark.parametrize("kind", MAKE)
def test_bytes_that_come_back_wrong_are_never_taken_for_a_bundle(bundles: Path, tmp_path: Path, kind: str) -> None:
    server, publisher = MAKE[kind][0](tmp_path), MAKE[kind][1]
    server.fault = lambda method, path: "flip" if method == "GET" or path.endswith("cat") else None

    async def work(url: str) -> None:
        with pytest.raises(PublishError, match="cannot be fetched back as it was"):
            await done(publisher(url), bundle(bundles, 1))

    run(server, work)


@pytest.mark.parametrize("kind", MAKE)
def test_a_server_that_is_down_is_named_and_used_as_soon_as_it_is_up(bundles: Path, tmp_path: Path, kind: str) -> None:
    async def work() -> None:
        async with MAKE[kind][0](tmp_path).serve() as url:
            pass
        publisher = MAKE[kind][1](url)
        with pytest.raises(PublishError, match=r"no connection; is the server running, and are host and port right\?"):
            await publisher.publish(bundle(bundles, 1))
        async with MAKE[kind][0](tmp_path).serve(int(url.rpartition(":")[2])):
            await done(publisher, bundle(bundles, 1))

    asyncio.run(work())


def test_a_certificate_that_nobody_vouches_for_is_named(bundles: Path, tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = tmp_path / "certificate.pem", tmp_path / "key.pem"
    files = ["-out", str(names[0]), "-keyout", str(names[1])]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*names)

    async def work() -> None:
        async with FileServer(tmp_path).serve(tls=tls) as url:
            with pytest.raises(PublishError, match="its certificate is not accepted"):
                await done(PutPublisher(url, Credentials(), Patience(attempts=1)), bundle(bundles, 1))

    asyncio.run(work())


@pytest.mark.parametrize("kind", MAKE)
def test_check_tries_a_publisher_before_it_is_needed(
    deployed: Config, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(deployed.chain.operator_key_file))
    server = MAKE[kind][0](tmp_path)

    async def work(url: str) -> None:
        config = msgspec.structs.replace(deployed, publish=(PublishSection(kind, url),))
        *_, check = await asyncio.to_thread(run_checks, config)
        assert (check.name, check.ok) == (f"publish {kind} {url.removeprefix('http://')}", True), check
        server.authorization = "another"
        *_, check = await asyncio.to_thread(run_checks, config)
        assert not check.ok
        assert "user, password or token is wrong" in check.detail

    run(server, work)


@contextlib.contextmanager
def server_on_a_small_disk(folder: Path, kibibytes: int) -> Iterator[tuple[str, int]]:
    """The URL of a file server whose FOLDER/disk is a mount that nobody else sees, and its process id."""
    (folder / "disk").mkdir()
    script = f"mount -t tmpfs -o size={kibibytes}k tmpfs {folder}/disk && exec {sys.executable} {SERVERS} {folder}/disk"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url, "a small disk needs user namespaces ('unshare', of util-linux)"
            yield url, process.pid
        finally:
            process.stdin.close()


def test_a_servers_full_disk_delays_and_ends_well_when_there_is_room(bundles: Path, tmp_path: Path) -> None:
    wanted = bundle(bundles, 3)
    size = sum(file.size for file in wanted.files)
    with server_on_a_small_disk(tmp_path, 64 + size // 1024) as (url, pid):
        disk = Path(f"/proc/{pid}/root{tmp_path}/disk")
        filler = disk / "filler"
        filler.write_bytes(bytes(56 << 10))

        async def work() -> None:
            with pytest.raises(PublishError, match="the server's disk is full"):
                await done(put(url), wanted)
            assert not (disk / "epoch-000003" / "manifest.json").exists() or os.statvfs(disk).f_bavail == 0
            filler.unlink()
            await done(put(url), wanted)

        asyncio.run(work())
        assert (disk / "epoch-000003" / "manifest.json").read_bytes() == wanted.files[-1].path.read_bytes()


# IPFS


def counted(size: int) -> bytes:
    """Bytes that anybody can make again."""
    blocks = (hashlib.sha256(i.to_bytes(8, "big")).digest() for i in range(-(-size // 32)))
    return b"".join(blocks)[:size]


REFERENCE = {
    0: ("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", 0),
    5: ("bafkreidbmqosjpbdkybc7iocea2yckxiq52edt7seopp2ng3qsyy3ijgpy", 5),
    700: ("bafkreigjv2ktutcjpvoxbn4kz5xbq2jtjrgehnxviewake6olpbtwuqljy", 700),
    1000: ("bafkreicstujskuoa2637cn6dt7hgd5qi3ytqg3ysdwmwppfkjakt45vsnu", 1000),
    (1 << 20): ("bafkreideeyd2kwgjzezoiwhuyouepeupk4xficfzqshba3txc2ee4o27bi", 1 << 20),
    (1 << 20) + 1: ("bafybeiaexsalcsoug7gc4g3igi4ly6f4hiyrvlxgraph7oxye3zqduuuli", 1048681),
    3 * (1 << 20) + 5: ("bafybeib55gwktfwvumw7nghd3opvxs56ro2d3xvnrzdxru5cr6vjn5n7fy", 3145938),
}
"""CID and size of all blocks by ipfs-unixfs-importer 15 (JavaScript), with raw leaves of 1 MiB."""


@pytest.mark.parametrize("size", REFERENCE)
def test_the_stand_in_for_kubo_computes_the_cids_that_ipfs_computes(size: int) -> None:
    store = Blocks()
    assert store.add(counted(size), 1 << 20) == REFERENCE[size]
    assert store.read(REFERENCE[size][0]) == counted(size)


def test_a_directory_is_the_block_that_ipfs_makes() -> None:
    sizes = {
        "manifest.json": 700,
        "leaves.json": 1000,
        "shares-00000004.log.zst": (1 << 20) + 1,
        "shares-00000003.log.zst": 5,
    }
    block = directory_block([Link(name, *REFERENCE[size]) for name, size in sizes.items()])
    # ipfs-unixfs-importer 15, wrapWithDirectory
    assert directory_cid(block) == "bafybeiboch2glcx7wkiz3uchpeqnztvnzpx3jd544bnwd7sejcteu7ee5e"


@pytest.mark.parametrize("text", ["", "b", "Qm" + "a" * 44, "bafkrei", "b" + "a" * 58, "zb2rhcc1wJn2GHDLT2YkmPq5b69"])
def test_what_is_no_cid_is_refused(text: str) -> None:
    with pytest.raises(PublishError, match="is no CIDv1"):
        cid_bytes(text)


def test_the_manifest_is_pinned_by_the_hash_in_the_commitment_and_all_files_below_a_directory(bundles: Path) -> None:
    server = KuboServer()
    wanted = bundle(bundles, 3)
    places: list[str] = []

    async def work(url: str) -> None:
        publisher = kubo(url)
        places.append(await publisher.publish(wanted))
        await done(publisher, wanted)

    run(server, work)
    store = server.store
    assert store.read(cid(wanted.manifest_hash)) == wanted.files[-1].path.read_bytes()
    directory = places[0].removeprefix("/ipfs/")
    names = dict(store.links(directory))
    assert {name: store.read(below) for name, below in names.items()} == {
        file.name: file.path.read_bytes() for file in wanted.files
    }
    assert store.pins == {directory, *names.values()}
    added = [path for _, path in server.requests if path.endswith("add") and "pin" not in path]
    assert len(added) == len(wanted.files), "what was added is not added again"


def test_a_manifest_of_nearly_a_mebibyte_is_one_block(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(counted((1 << 20) - 1))
    digest = hashlib.sha256(path.read_bytes()).digest()
    server = KuboServer()
    file = dataclasses.replace(_file_of(path, digest), place="epoch-000001/manifest.json")
    run(server, lambda url: done(kubo(url), Bundle("epoch-000001", digest, (file,))))
    assert cid(digest) in server.store.pins


def _file_of(path: Path, digest: bytes) -> Any:
    from pool_oracle.epoch.publishing import BundleFile

    return BundleFile(path.name, path, path.stat().st_size, digest, path.name)


def test_a_node_that_gives_the_manifest_another_cid_is_refused(bundles: Path) -> None:
    server = KuboServer()
    add = server.store.add
    server.store.add = lambda data, _chunk: add(data + b" ", 1 << 20)  # type: ignore[method-assign]

    async def work(url: str) -> None:
        with pytest.raises(PublishError, match="the manifest's CID must be bafkrei"):
            await done(kubo(url), bundle(bundles, 1))

    run(server, work)


def test_a_node_that_lost_its_blocks_says_so_and_gets_them_the_next_time(bundles: Path) -> None:
    server = KuboServer()

    async def work(url: str) -> None:
        publisher = kubo(url)
        await publisher.publish(bundle(bundles, 2))
        await publisher.fetch_back(bundle(bundles, 2))
        server.store.blocks.clear()
        with pytest.raises(PublishError, match="not found locally"):
            await publisher.publish(bundle(bundles, 2))
        await done(publisher, bundle(bundles, 2))

    run(server, work)


def test_a_server_that_is_no_kubo_node_is_named(bundles: Path, tmp_path: Path) -> None:
    class Website(FileServer):
        async def _answer(self, request: Any) -> Any:
            from aiohttp import web

            return web.Response(text="<html>\nwelcome")

    async def work(url: str) -> None:
        with pytest.raises(PublishError, match="the answer is not a Kubo node's: 'welcome'"):
            await done(kubo(url), bundle(bundles, 1))

    run(Website(tmp_path), work)


# All publishers together


def all_of(*publishers: tuple[str, str, bool]) -> Publishing:
    return open_publishing(PublishSettings(kind, url, optional=optional) for kind, url, optional in publishers)


async def publish(publishing: Publishing, bundles: Path, epoch: int) -> None:
    folder = bundle_folder(bundles, epoch)
    await publishing.publish(folder, read_manifest(folder)[1])


def test_a_commit_waits_for_all_that_are_required_and_the_error_names_those_that_failed(
    bundles: Path, tmp_path: Path
) -> None:
    files, node = FileServer(tmp_path), KuboServer()

    async def work() -> None:
        async with files.serve() as files_url, node.serve() as node_url:
            publishing = all_of(("put", files_url, False), ("kubo", node_url, False))
            files.authorization = "other"
            with pytest.raises(PublishError, match=r"epoch-000001 is not published: put 127\.0\.0\.1") as caught:
                await publish(publishing, bundles, 1)
            assert "kubo" not in str(caught.value)
            files.authorization = None
            await publish(publishing, bundles, 1)
            assert (tmp_path / "epoch-000001" / "manifest.json").exists()
            assert node.store.pins
            await publishing.close()

    asyncio.run(work())


def test_an_optional_publisher_delays_nothing_and_makes_up_for_what_it_missed(bundles: Path, tmp_path: Path) -> None:
    server = FileServer(tmp_path)

    async def work() -> None:
        async with server.serve() as url:
            publishing = all_of(("put", url, True))
            server.authorization = "other"
            for epoch in (1, 2):
                await publish(publishing, bundles, epoch)
                await publishing.settle()
            assert not server.count("PUT")
            server.authorization = None
            await publish(publishing, bundles, 3)
            await publishing.settle()
            await publishing.close()

    asyncio.run(work())
    assert len(list(tmp_path.glob("epoch-*/manifest.json"))) == 3


def test_closing_gives_up_what_an_optional_publisher_is_at(bundles: Path, tmp_path: Path) -> None:
    server = FileServer(tmp_path)
    server.fault = lambda _method, _path: "silent"

    async def work() -> None:
        async with server.serve() as url:
            publishing = all_of(("put", url, True))
            await publish(publishing, bundles, 1)
            await asyncio.sleep(0.1)
            began = time.monotonic()
            await publishing.close()
            assert time.monotonic() - began < 1

    asyncio.run(work())


def test_a_folder_that_does_not_hold_the_epochs_bundle_is_never_published(bundles: Path, tmp_path: Path) -> None:
    folder = tmp_path / "epoch-000001"
    shutil.copytree(bundles / "epoch-000001", folder)
    digest = read_manifest(folder)[1]
    with pytest.raises(PublishError, match="its manifest is not that of the epoch to be committed"):
        open_bundle(folder, bytes(32))
    (folder / "leaves.json").unlink()
    with pytest.raises(PublishError, match=r"it has no leaves\.json"):
        open_bundle(folder, digest)
    shutil.rmtree(folder)
    with pytest.raises(PublishError, match="epoch-000001 cannot be published"):
        open_bundle(folder, digest)
