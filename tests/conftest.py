"""What all tests share: the test vectors, each of them a test of its own, and how hypothesis runs here."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

VECTORS = Path(__file__).parent / "vectors"

settings.register_profile("pool_oracle", deadline=None)
settings.load_profile("pool_oracle")


@cache
def load_vectors(name: str) -> Any:
    """A file of test vectors."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker `cases` known."""
    config.addinivalue_line(
        "markers", "cases(file, path): run the test with each item of a list in a file of test vectors as `case`"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Turn `@pytest.mark.cases("payee", "valid")` into one test for each item of that list."""
    marker = metafunc.definition.get_closest_marker("cases")
    if marker is None:
        return
    name, path = marker.args
    cases = load_vectors(name)
    for key in path.split("."):
        cases = cases[key]
    assert cases, f"{name}.json has no {path}"
    ids = [f"{i} {case.get('name', '')}".strip() for i, case in enumerate(cases)]
    metafunc.parametrize("case", cases, ids=ids)


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], Any]:
    """Reads a file of test vectors by name."""
    return load_vectors


@pytest.fixture(scope="session")
def unhex() -> Callable[[str], bytes]:
    """Turns the 0x hex of the vectors into bytes."""

    def convert(text: str) -> bytes:
        assert text.startswith("0x"), text
        return bytes.fromhex(text[2:])

    return convert


@pytest.fixture(scope="session")
def bitcoinlib_encoding(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bitcoinlib's encodings, with its database and log kept out of the user's home."""
    os.environ.setdefault("BCL_DATA_DIR", str(tmp_path_factory.mktemp("bitcoinlib")))
    with warnings.catch_warnings():
        # It leaves a file open and calls a deprecated function of SQLAlchemy while it is imported.
        warnings.simplefilter("ignore")
        from bitcoinlib import encoding, keys

    assert keys
    return encoding
