"""Errors as HTTP answers: problem JSON (RFC 9457), which says what was wrong and what would be right."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from pool_oracle.errors import ChainError, InputError, LedgerError

AWAY = "the pool's index cannot be asked just now; the pool goes on without it, and tries again by itself"


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        """`detail` is for whoever asked."""
        super().__init__(detail)
        self.status = status
        self.headers = headers


def handle_problems(api: FastAPI) -> None:
    """Answer every error that a route may raise."""
    api.add_exception_handler(Problem, _on_problem)
    api.add_exception_handler(InputError, _on_input_error)
    api.add_exception_handler(ChainError, _on_chain_error)
    api.add_exception_handler(LedgerError, _on_ledger_error)
    api.add_exception_handler(RequestValidationError, _on_wrong_parameter)


async def _on_problem(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)  # noqa: S101 - it is registered for it
    return _problem(error.status, str(error), error.headers)


async def _on_input_error(_request: Request, error: Exception) -> JSONResponse:
    return _problem(404, str(error))


async def _on_chain_error(_request: Request, error: Exception) -> JSONResponse:
    return _problem(503, str(error))


async def _on_ledger_error(_request: Request, _error: Exception) -> JSONResponse:
    """The error names hosts and paths, which are the operator's matter: they are in the pool's log."""
    return _problem(503, AWAY, {"Retry-After": "10"})


async def _on_wrong_parameter(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it is registered for it
    wrong = []
    for item in error.errors():
        place, *name = item["loc"]
        given = f", not {item['input']!r}" if item.get("input") is not None else ""
        wrong.append(f"{place} parameter {'.'.join(str(part) for part in name)}: {item['msg']}{given}")
    return _problem(422, "; ".join(wrong))


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    body = {"type": "about:blank", "status": status, "detail": detail}
    return JSONResponse(body, status_code=status, media_type="application/problem+json", headers=headers)
