"""The listening socket and all sessions: takes connections, spreads jobs."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import structlog

from pool_oracle.errors import ConfigError
from pool_oracle.pool import Pool
from pool_oracle.stratum.session import Session, notify_line
from pool_oracle.work.targets import difficulty_to_target, target_to_nbits
from pool_oracle.work.template import Job

log = structlog.get_logger("stratum")


class StratumServer:
    """Serves miners of one pool."""

    def __init__(self, pool: Pool, share_difficulty: Fraction) -> None:
        """Raises ConfigError for a share difficulty below the network's floor."""
        floor = pool.network.min_share_difficulty
        if share_difficulty < floor:
            raise ConfigError(f"share difficulty {share_difficulty} is below the floor of {pool.network.name}, {floor}")
        self._pool = pool
        target = difficulty_to_target(share_difficulty, pool.network.difficulty_1_target)
        self._share_bits = target_to_nbits(target)
        self._server: asyncio.Server | None = None
        self.sessions: set[Session] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which the system chooses where `port` is 0. Raises ConfigError if it is taken."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, host, port)
        except OSError as error:
            raise ConfigError(f"stratum cannot listen on {host}:{port}: {error.strerror or error}") from None
        self._pool.on_job.append(self._spread)
        bound = int(self._server.sockets[0].getsockname()[1])
        log.info("stratum listens", address=f"{host}:{bound}")
        return bound

    def _accept(self) -> Session:
        session = Session(self._pool, self._share_bits, self.sessions.discard)
        self.sessions.add(session)
        return session

    def _spread(self, job: Job, clean: bool) -> None:
        line = notify_line(job, clean=clean)
        for session in list(self.sessions):
            session.send_job(job, line, clean=clean)

    async def stop(self) -> None:
        """Take no more connections and close those that are."""
        if self._server is None:
            return
        self._pool.on_job.remove(self._spread)
        self._server.close()
        for session in list(self.sessions):
            session.close()
        await self._server.wait_closed()
