"""From settings to a node: the built-in one, one by JSON-RPC, or several as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pool_oracle.networks import Network
from pool_oracle.node.jsonrpc import Login
from pool_oracle.node.source import NodeSource

if TYPE_CHECKING:
    from pool_oracle.node.core import CoreNode

EMBEDDED_NETWORK = "regtest"
"""The network that has a node built in."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How to reach a node. `zmq_hashblock` is its ZMQ endpoint, or empty."""

    url: str
    login: Login
    name: str = ""
    zmq_hashblock: str = ""

    @property
    def shown_name(self) -> str:
        """What logs call it: its name, else host and port."""
        return self.name or self.url.rpartition("://")[2].rstrip("/")


def open_node(network: Network, settings: Sequence[NodeSettings], folder: Path) -> NodeSource:
    """The nodes of `settings` as one source; without any, the built-in node with its chain in `folder`.

    The libraries of one kind of node are not loaded for the other. Raises NodeError.
    """
    if not settings:
        from pool_oracle.node.embedded import EmbeddedRegtest

        return EmbeddedRegtest(folder)
    from pool_oracle.node.group import NodeGroup

    nodes = [open_core_node(network, each) for each in settings]
    return nodes[0] if len(nodes) == 1 else NodeGroup(nodes)


def open_core_node(network: Network, settings: NodeSettings) -> CoreNode:
    """One node by JSON-RPC. Nothing is sent yet."""
    from pool_oracle.node.core import CoreNode

    return CoreNode(
        network,
        settings.url,
        settings.login,
        name=settings.shown_name,
        zmq_hashblock=settings.zmq_hashblock or None,
    )
