"""Several nodes of one EVM chain as a provider of web3: preference, fail-over, and who is fit to be asked.

A node that fails is left aside for a while; so is one that lags, and one that is on another chain.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import stamina
import structlog
from web3.providers.base import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from pool_oracle.chain.endpoint import Endpoint, NodeFailed
from pool_oracle.errors import ChainError, ChainUnreachable, ConfigError

SURVEY_SECONDS = 5
"""How long what was found about heads and chain ids is relied on."""
MAX_LAG_BLOCKS = 3
"""A node that is further behind the best is left aside."""
MAJORITY_NEEDS = 3
ROUNDS = 3
"""How often all nodes are tried before a call is given up."""

log = structlog.get_logger("rpc")


class Endpoints(JSONBaseProvider):
    """The nodes as a provider of web3: a call goes to the first that is fit for it."""

    def __init__(self, urls: Sequence[str], *, chain_id: int | None, timeout: float) -> None:
        """Does not connect yet. Raises ConfigError without URLs, or with the same twice."""
        super().__init__()
        if not urls or len(set(urls)) != len(urls):
            raise ConfigError("at least one chain node is needed, each of them once")
        self.all = [Endpoint(url, timeout) for url in urls]
        self.chain_id = chain_id
        self._surveyed: float | None = None
        self._lock = threading.Lock()
        self._has_told = False

    @property
    def majority(self) -> int:
        """How many nodes have to agree; 1 where there are too few for a majority."""
        return len(self.all) // 2 + 1 if len(self.all) >= MAJORITY_NEEDS else 1

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The first fit node's answer. Raises ChainUnreachable when all fail, several times over."""
        for attempt in stamina.retry_context(
            on=ChainUnreachable, attempts=ROUNDS, timeout=None, wait_initial=0.1, wait_max=1.0, wait_jitter=0.1
        ):
            with attempt:
                return self._request(method, params)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _request(self, method: str, params: Any) -> RPCResponse:
        problems = []
        for endpoint in self.usable():
            try:
                return endpoint.ask(method, params)
            except NodeFailed as failure:
                problems.append(f"{endpoint.host}: {failure}")
        raise ChainUnreachable(f"{method}: no chain node answers ({'; '.join(problems) or self._why_none()})")

    def usable(self) -> list[Endpoint]:
        """The nodes that are fit for a call, in order of preference; where none is, those that failed a moment ago."""
        self.survey()
        sound = [endpoint for endpoint in self.all if not endpoint.is_lagging]
        for endpoint in sound:
            if not endpoint.is_checked and not endpoint.is_aside and endpoint.wrong_chain is None:
                self._check(endpoint)
        fit = [endpoint for endpoint in sound if endpoint.is_checked and not endpoint.is_aside]
        return fit or [endpoint for endpoint in sound if self._check(endpoint)]

    def _why_none(self) -> str:
        wrong = [
            f"{e.host} is on chain {e.wrong_chain}, not {self.chain_id}" for e in self.all if e.wrong_chain is not None
        ]
        return "; ".join(wrong) or f"none of {', '.join(e.host for e in self.all)} is reachable"

    def survey(self) -> None:
        """Look at every node's chain id and head, where that was not done a moment ago."""
        with self._lock:
            now = time.monotonic()
            if self._surveyed is not None and now - self._surveyed < SURVEY_SECONDS:
                return
            self._surveyed = now
            self._tell_once()
            candidates = [endpoint for endpoint in self.all if not endpoint.is_aside]
            if self.chain_id is None or len(self.all) == 1:
                # In their order, not in the order of their answers: the first tells which chain is wanted.
                for endpoint in candidates:
                    if self._check(endpoint):
                        break
            if len(self.all) == 1:
                return
            self.each([endpoint for endpoint in candidates if not endpoint.is_aside], self._look)
            self._compare()

    def _look(self, endpoint: Endpoint) -> None:
        endpoint.head = None
        if self._check(endpoint):
            endpoint.head = int(endpoint.result("eth_blockNumber"), 16)

    def _compare(self) -> None:
        """Find those that lag. What a majority has is the measure; where there is none, the best."""
        heads = sorted((e.head for e in self.all if e.head is not None), reverse=True)
        if not heads:
            return
        best = heads[min(self.majority, len(heads)) - 1]
        for endpoint in self.all:
            lags = endpoint.head is not None and endpoint.head < best - MAX_LAG_BLOCKS
            if lags and not endpoint.is_lagging:
                log.warning("chain node lags and is left aside", node=endpoint.host, head=endpoint.head, best=best)
            endpoint.is_lagging = lags

    def _check(self, endpoint: Endpoint) -> bool:
        """Whether a node is on the right chain: the one that is wanted, else the first node's that answers."""
        try:
            found = int(endpoint.result("eth_chainId"), 16)
        except (NodeFailed, ValueError, TypeError):
            endpoint.is_checked = False
            return False
        if self.chain_id is None:
            self.chain_id = found
        endpoint.is_checked = found == self.chain_id
        if not endpoint.is_checked and endpoint.wrong_chain != found:
            log.error("chain node is on another chain", node=endpoint.host, chain=found, wanted=self.chain_id)
        endpoint.wrong_chain = None if endpoint.is_checked else found
        return endpoint.is_checked

    def _tell_once(self) -> None:
        if not self._has_told and len(self.all) < MAJORITY_NEEDS:
            log.warning(
                "too few chain nodes for a majority: heads, receipts and nonces are believed as one node tells them",
                nodes=[endpoint.host for endpoint in self.all],
                needed=MAJORITY_NEEDS,
            )
        self._has_told = True

    def each(self, endpoints: Sequence[Endpoint], ask: Callable[[Endpoint], Any]) -> list[Any]:
        """What the nodes that answer say, asked all at once."""

        def one(endpoint: Endpoint) -> tuple[Any, ...]:
            try:
                return (ask(endpoint),)
            except (NodeFailed, ChainError, ValueError, TypeError, KeyError):
                return ()

        if len(endpoints) < 2:
            answers = [one(endpoint) for endpoint in endpoints]
        else:
            with ThreadPoolExecutor(len(endpoints)) as pool:
                answers = list(pool.map(one, endpoints))
        return [answer[0] for answer in answers if answer]
