"""Where proofs come from: the pool's API, or published bundles alone. Nothing of either is believed.

Every proof that a source hands out has been checked against the payout's root, which is the contract's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import httpx

from pool_oracle.chain.distributor import Payout
from pool_oracle.claims.reading import Progress
from pool_oracle.errors import InputError, ManifestError, ProofError, SourceError, TreeError
from pool_oracle.ledger.bundle import LEAVES_FILE, MANIFEST_FILE, bundle_folder, bundle_folders, read_leaves
from pool_oracle.ledger.bundle import read_manifest as read_bundle_manifest
from pool_oracle.ledger.disk import make_folder, write_file
from pool_oracle.payout.commitment import epoch_commitment
from pool_oracle.payout.payee import format_payee
from pool_oracle.payout.sumtree import SumProof, SumTree, verify_proof
from pool_oracle.units import Payee
from pool_oracle.wire import hex_bytes, integer, member

TIMEOUT_SECONDS = 30
MAX_PROOF_BYTES = 64 << 10
"""A proof of ten million payees has 24 words."""
MAX_LIST_BYTES = 64 << 20
MAX_FILE_BYTES = 1 << 30
KEPT_TREES = 4

_PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a source says of a payee's part of a payout.

    `epochs` are those whose root it is, as far as the source tells. `proof` is None where there is no part; then `note`
    is the source's reason.
    """

    epochs: tuple[int, ...]
    proof: SumProof | None
    note: str = ""


class ProofSource(Protocol):
    """Somebody who knows trees."""

    def find(self, payout: Payout, payee: Payee) -> Answer:
        """The payee's part of a payout. Raises ProofError for a wrong one, SourceError, ManifestError."""


class PoolProofs:
    """A pool's API."""

    def __init__(self, url: str) -> None:
        """`url` is the page's address. Raises InputError if it is none."""
        self._http = PoolHttp(url)

    def find(self, payout: Payout, payee: Payee) -> Answer:
        """Ask the pool, and check what it says."""
        path = f"/api/v1/proof/{payout.id}/{format_payee(payee)}"
        where = f"the pool's proof for payout {payout.id}"
        try:
            value = self._http.json(path, MAX_PROOF_BYTES)
        except _NotThereError as refusal:
            return Answer((), None, str(refusal))
        try:
            proof = _proof_from_wire(value, payee)
            epoch = integer(member(value, "epoch"), "epoch")
        except InputError as error:
            raise SourceError(f"{where} cannot be read: {error}") from None
        try:
            verify_proof(payout.root, proof)
        except ProofError as error:
            raise ProofError(f"{where} is wrong: {error}; --bundle makes proofs without the pool") from None
        return Answer((epoch,), proof)

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()


class _NotThereError(Exception):
    """The pool says, in its own form, that there is no such thing."""


class PoolHttp:
    """Reads a pool's API; what is not an answer of one is an error that says what came instead."""

    def __init__(self, url: str) -> None:
        """Raises InputError if `url` is none."""
        if not url.startswith(("http://", "https://")):
            raise InputError(f"--pool must be the address of the pool's page, http://... or https://..., not {url!r}")
        self._url = url.rstrip("/")
        self._client = httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False)

    def __enter__(self) -> PoolHttp:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def json(self, path: str, limit: int) -> Any:
        """A JSON answer. Raises _NotThereError, SourceError."""
        try:
            return json.loads(self.get(path, limit))
        except (ValueError, RecursionError):
            raise SourceError(f"{self._url}{path} answers with something that is not JSON") from None

    def get(self, path: str, limit: int) -> bytes:
        """The body of an answer, `limit` bytes at the most. Raises _NotThereError, SourceError."""
        where = f"{self._url}{path}"
        try:
            with self._client.stream("GET", where) as answer:
                body = bytearray()
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > limit:
                        raise SourceError(f"{where} answers with more than {limit} bytes")
        except httpx.InvalidURL as error:
            raise InputError(f"{self._url!r} is no address: {error}") from None
        except httpx.HTTPError as error:
            raise SourceError(f"{where} does not answer: {str(error) or type(error).__name__}") from None
        if answer.status_code == httpx.codes.OK:
            return bytes(body)
        detail = _detail(answer, bytes(body))
        if answer.status_code == httpx.codes.NOT_FOUND and detail:
            raise _NotThereError(detail)
        hint = detail or "is it a pool's page?"
        raise SourceError(f"{where} answers with status {answer.status_code}: {hint}")

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def _detail(answer: httpx.Response, body: bytes) -> str:
    """What a problem says (RFC 9457); empty where it is none."""
    if not answer.headers.get("content-type", "").startswith(_PROBLEM):
        return ""
    try:
        text = str(json.loads(body)["detail"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def _proof_from_wire(value: Any, payee: Payee) -> SumProof:
    """{weight, index, proof} as the payee's proof. Raises InputError."""
    words = member(value, "proof")
    if not isinstance(words, list) or len(words) > 64:
        raise InputError("proof must be a list of 32-byte words, 64 at the most")
    return SumProof(
        payee=payee,
        weight=integer(member(value, "weight"), "weight"),
        index=integer(member(value, "index"), "index"),
        siblings=tuple(hex_bytes(word, f"proof[{i}]", size=32, prefixed=True) for i, word in enumerate(words)),
    )


@dataclass(frozen=True, slots=True)
class PublishedEpoch:
    """An epoch as its bundle tells. `manifest_hash` is that of the file."""

    number: int
    root: bytes
    manifest_hash: bytes
    commitment: bytes
    folder: Path


class BundleProofs:
    """A folder of bundles (epoch-NNNNNN). Several epochs may have one root: then any of them has the tree."""

    def __init__(self, folder: Path, chain_id: int, distributor: bytes, progress: Progress) -> None:
        """Reads every manifest. Raises ManifestError, InputError where none is of this chain's distributor."""
        folders = bundle_folders(folder)
        if not folders:
            raise InputError(f"{folder} holds no bundle: there is no folder epoch-000000 in it")
        self.epochs: list[PublishedEpoch] = []
        others: set[str] = set()
        with progress("manifests read", len(folders)) as advance:
            for place in folders:
                manifest, digest = read_bundle_manifest(place)
                named = (manifest.chain_id, bytes.fromhex(manifest.distributor[2:]))
                if named == (chain_id, distributor):
                    root = bytes.fromhex(manifest.root[2:])
                    commitment = epoch_commitment(chain_id, distributor, root, digest)
                    self.epochs.append(PublishedEpoch(manifest.epoch, root, digest, commitment, place))
                else:
                    others.add(f"{manifest.distributor} on chain {manifest.chain_id}")
                advance(1)
        if not self.epochs:
            raise InputError(
                f"the bundles in {folder} are of distributor {', '.join(sorted(others))}, not of "
                f"0x{distributor.hex()} on chain {chain_id}"
            )
        self._trees: dict[bytes, SumTree] = {}

    def find(self, payout: Payout, payee: Payee) -> Answer:
        """Look the payee up in the tree of the payout's root."""
        tree = self.tree(payout.root)
        if tree is None:
            return Answer((), None, "its root is not that of a bundle here")
        try:
            proof = tree.proof(payee)
        except TreeError as error:
            return Answer(self.epochs_of(payout.root), None, str(error))
        verify_proof(payout.root, proof)
        return Answer(self.epochs_of(payout.root), proof)

    def epochs_of(self, root: bytes) -> tuple[int, ...]:
        """The epochs that have a root."""
        return tuple(epoch.number for epoch in self.epochs if epoch.root == root)

    def epoch_of(self, commitment: bytes) -> PublishedEpoch | None:
        """The epoch with a commitment."""
        return next((epoch for epoch in self.epochs if epoch.commitment == commitment), None)

    def tree(self, root: bytes) -> SumTree | None:
        """The tree with a root, made from leaves; None where no bundle has it.

        Raises ManifestError where leaves do not make the root that their manifest names.
        """
        if root in self._trees:
            return self._trees[root]
        refusal = None
        for epoch in self.epochs:
            if epoch.root != root:
                continue
            try:
                tree = SumTree(read_leaves(epoch.folder))
            except (ManifestError, TreeError) as error:
                refusal = refusal or ManifestError(f"epoch {epoch.number}: {error}")
                continue
            if tree.root == root:
                while len(self._trees) >= KEPT_TREES:
                    self._trees.pop(next(iter(self._trees)))
                self._trees[root] = tree
                return tree
            refusal = refusal or ManifestError(
                f"the leaves of epoch {epoch.number} make root 0x{tree.root.hex()}, and its manifest names "
                f"0x{root.hex()}"
            )
        if refusal is not None:
            raise refusal
        return None

    def close(self) -> None:
        """There is nothing to let go of."""


def download_bundles(url: str, folder: Path, roots: set[bytes] | None, progress: Progress) -> None:
    """Manifests of the epochs with one of `roots` (of all, if None) into a folder of bundles; with roots, leaves, too.

    They are as little believed there as anybody's. Raises SourceError, InputError.
    """
    with PoolHttp(url) as http:
        try:
            rows = http.json("/api/v1/epochs", MAX_LIST_BYTES)
            if not isinstance(rows, list):
                raise SourceError(f"{url} does not answer with a list of epochs")
            numbers = [
                integer(member(row, "epoch"), "epoch")
                for row in rows
                if roots is None or hex_bytes(member(row, "root"), "root", size=32, prefixed=True) in roots
            ]
            with progress("epochs fetched", len(numbers)) as advance:
                for number in numbers:
                    place = bundle_folder(folder, number)
                    make_folder(place)
                    for name in (MANIFEST_FILE, LEAVES_FILE) if roots is not None else (MANIFEST_FILE,):
                        write_file(place / name, http.get(f"/api/v1/epochs/{number}/{name}", MAX_FILE_BYTES))
                    advance(1)
        except _NotThereError as error:
            raise SourceError(f"{url} names an epoch and does not have it: {error}") from None
        except InputError as error:
            raise SourceError(f"{url}: the list of epochs cannot be read: {error}") from None


@contextmanager
def open_source(
    pool: str | None, bundle: Path | None, chain_id: int, distributor: bytes, progress: Progress
) -> Iterator[ProofSource]:
    """The source that the user named: one of the two. Raises InputError, ManifestError."""
    if (pool is None) == (bundle is None):
        raise InputError("proofs come from --pool URL or from --bundle FOLDER; give one of them")
    source = BundleProofs(bundle, chain_id, distributor, progress) if bundle is not None else PoolProofs(pool or "")
    try:
        yield source
    finally:
        source.close()
