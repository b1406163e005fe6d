"""Logging: one line an event, for people on a terminal and as JSON otherwise."""

from __future__ import annotations

import logging
from typing import TextIO

import structlog


def configure_logs(stream: TextIO, *, level: int = logging.INFO) -> None:
    """Send the package's log lines of at least `level` to `stream`."""
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer() if stream.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
