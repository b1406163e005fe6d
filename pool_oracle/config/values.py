"""Texts of the file as the values that the rooms want."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pool_oracle.config.sections import NodeSection, PublishSection
from pool_oracle.epoch.publishing import PUBLISHERS, PublishSettings
from pool_oracle.epoch.remote import Credentials
from pool_oracle.errors import ConfigError
from pool_oracle.node.jsonrpc import Login
from pool_oracle.node.opening import NodeSettings
from pool_oracle.stratum.limits import LimitSettings

_DIFFICULTY = re.compile(r"[0-9]{1,40}(\.[0-9]{0,40})?(e[+-]?[0-9]{1,2})?|[0-9]{1,40}/[0-9]{1,40}", re.IGNORECASE)


def node_settings(section: NodeSection) -> NodeSettings:
    """A node's section as the node room wants it. Raises ConfigError."""
    where = f"node {section.name or section.url!r}"
    url = urlsplit(section.url)
    try:
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url:
        raise ConfigError(f"{where}: url must be http://HOST:PORT, not {section.url!r}")
    if url.username is not None or url.password is not None:
        raise ConfigError(f"node at {url.hostname}: url must hold no password; use cookie_file or password_file")
    if section.cookie_file and (section.user or section.password_file):
        raise ConfigError(f"{where}: cookie_file, or user with password_file, not both")
    if bool(section.user) != bool(section.password_file):
        raise ConfigError(f"{where}: user and password_file belong together")
    zmq = section.zmq_hashblock
    if zmq and not zmq.startswith(("tcp://", "ipc://")):
        raise ConfigError(f"{where}: zmq_hashblock must be tcp://HOST:PORT or ipc://PATH, not {zmq!r}")
    login = Login(
        cookie_file=path_of(section.cookie_file),
        user=section.user or None,
        password_file=path_of(section.password_file),
    )
    return NodeSettings(url=section.url, login=login, name=section.name, zmq_hashblock=zmq)


def publish_settings(section: PublishSection) -> PublishSettings:
    """A publisher's section as the epoch room wants it. Raises ConfigError, which shows a URL's host alone."""
    if section.kind not in PUBLISHERS:
        raise ConfigError(f"publish.kind must be one of {', '.join(PUBLISHERS)}, not {section.kind!r}")
    url = urlsplit(section.url)
    try:
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        is_url = False
    if not is_url:
        raise ConfigError(f"publish {section.kind!r}: url must be https://HOST/PATH or http://HOST:PORT")
    where = f"publish {section.kind!r} at {url.hostname}"
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise ConfigError(f"{where}: url must hold no password and no query; use token_file or password_file")
    if section.token_file and (section.user or section.password_file):
        raise ConfigError(f"{where}: token_file, or user with password_file, not both")
    if bool(section.user) != bool(section.password_file):
        raise ConfigError(f"{where}: user and password_file belong together")
    if (section.token_file or section.user) and url.scheme == "http" and not _is_near(url.hostname or ""):
        raise ConfigError(f"{where}: a token or password would go out readable; use https")
    credentials = Credentials(
        token_file=path_of(section.token_file), user=section.user or None, password_file=path_of(section.password_file)
    )
    return PublishSettings(section.kind, section.url, credentials, section.optional)


def _is_near(host: str) -> bool:
    """Whether an address is this machine's or in a private network, by what it says."""
    try:
        return host == "localhost" or ip_address(host).is_private
    except ValueError:
        return False


def path_of(text: str) -> Path | None:
    """A path, `~` being the user's home; None when none is given."""
    return Path(text).expanduser() if text else None


def difficulty_of(field: str, text: str) -> Fraction:
    """A share difficulty. Fraction alone would take any exponent, and fill the memory with its zeros."""
    try:
        if _DIFFICULTY.fullmatch(text):
            return Fraction(text)
    except ZeroDivisionError:
        pass
    raise ConfigError(f"{field} must be a decimal number or a fraction, not {text[:80]!r}")


def limits_of(section: dict[str, Any]) -> LimitSettings:
    """[stratum.limits]. Raises ConfigError naming what is not one."""
    names = {field.name for field in dataclasses.fields(LimitSettings)}
    for name in section:
        if name not in names:
            raise ConfigError(f"stratum.limits.{name} is no limit; there are {', '.join(sorted(names))}")
    try:
        return msgspec.convert(section, LimitSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"stratum.limits: {error}") from None
