"""The hash functions of the two chains."""

from __future__ import annotations

import hashlib

import sha3
from Crypto.Hash import RIPEMD160


def sha256(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def sha256d(data: bytes) -> bytes:
    """SHA-256 of SHA-256: Bitcoin's hash of headers, transactions and messages. Internal byte order."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def hash160(data: bytes) -> bytes:
    """RIPEMD-160 of SHA-256, 20 bytes: Bitcoin's hash of keys and scripts."""
    return RIPEMD160.new(hashlib.sha256(data).digest()).digest()


def keccak256(data: bytes) -> bytes:
    """Keccak-256 as in Ethereum (not SHA3-256)."""
    digest: bytes = sha3.keccak_256(data).digest()
    return digest


def scrypt_pow(header: bytes) -> bytes:
    """Litecoin's proof-of-work hash: scrypt with N 1024, r 1, p 1, the header as password and as salt."""
    return hashlib.scrypt(header, salt=header, n=1024, r=1, p=1, dklen=32)
