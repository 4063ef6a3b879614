"""``python -m tests.chaos.black_hole worker …``: a worker whose machine fails every run at once."""

from __future__ import annotations

import socket
from typing import NoReturn

from kdecay_search.cli.main import main
from kdecay_search.tasks.protocol import Run
from kdecay_search.worker import loop, train

MACHINE = "black-hole"
MESSAGE = "this machine has no data"


def fail(run: Run) -> NoReturn:
    """Fail a run before its first epoch."""
    raise RuntimeError(MESSAGE)


if __name__ == "__main__":
    socket.gethostname = lambda: MACHINE
    loop.load_task = train.load_task = lambda spec: fail  # type: ignore[attr-defined]
    main()
