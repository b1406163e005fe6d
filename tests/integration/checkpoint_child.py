"""A process that writes the checkpoints of a log until it is killed, again and again.

python checkpoint_child.py FOLDER CHECKPOINTS    forks a writer for each line on standard input; prints its process id
                                                 first, then the epoch of each checkpoint that was written
"""

from __future__ import annotations

import json
import os
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

from pool_oracle.ledger.checkpoint import Checkpoint, Checkpoints


def write_for_ever(folder: Path, values: list[dict[str, Any]]) -> None:
    """All of them, and from the first again."""
    checkpoints = Checkpoints(folder)
    for value in cycle(values):
        checkpoints.write(Checkpoint(**value))
        os.write(1, b"%d\n" % value["epoch"])


def main() -> None:
    folder, values = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            os.write(1, b"pid %d\n" % os.getpid())
            write_for_ever(folder, values)
        os.waitpid(child, 0)
        os.write(1, b"ended\n")


if __name__ == "__main__":
    main()
