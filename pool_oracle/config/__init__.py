"""The configuration: one TOML file, parsed once into frozen values.

Secrets never stand in it: the operator's key is in a file of its own, whose path may also come from the environment
(POOL_ORACLE_OPERATOR_KEY_FILE).
"""

from __future__ import annotations

from pathlib import Path

from pool_oracle.config.example import EXAMPLE
from pool_oracle.config.loading import load_config, proposing_to
from pool_oracle.config.sections import (
    ApiSection,
    ChainSection,
    IndexSection,
    NodeSection,
    PolicySection,
    PoolSection,
    PublishSection,
    StratumSection,
)
from pool_oracle.config.settings import INDEX_URL_VARIABLE, KEY_FILE_VARIABLE, PASSWORD_FILE_VARIABLE, Config

__all__ = [
    "DEFAULT_PATH",
    "EXAMPLE",
    "INDEX_URL_VARIABLE",
    "KEY_FILE_VARIABLE",
    "PASSWORD_FILE_VARIABLE",
    "ApiSection",
    "ChainSection",
    "Config",
    "IndexSection",
    "NodeSection",
    "PolicySection",
    "PoolSection",
    "PublishSection",
    "StratumSection",
    "load_config",
    "proposing_to",
]

DEFAULT_PATH = Path("pool-oracle.toml")
