"""What the tests borrow from bench/, which is no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

BENCH = Path(__file__).parents[1] / "bench"


def bench_module(name: str) -> ModuleType:
    """The module bench/`name`.py, loaded once."""
    known = f"bench_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, BENCH / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[known]
