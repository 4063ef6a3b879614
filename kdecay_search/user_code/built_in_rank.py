"""One of the processes that train a run of the built-in image task on several devices.

:mod:`kdecay_search.user_code.ranks` starts them for :mod:`kdecay_search.user_code.built_in`.
"""

from __future__ import annotations

import logging
import os
import socket
import sys

from kdecay_search.errors import KDecayError
from kdecay_search.tasks.protocol import Interruption
from kdecay_search.user_code.channel import Channel, Message
from kdecay_search.user_code.child import RankRun, failure, forward_log
from kdecay_search.user_code.environment import keep_working_folder_off_path


def main() -> None:
    """Receive a job over the channel, do it, and send back the outcome."""
    descriptor = int(sys.argv[2])
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor))
    keep_working_folder_off_path()
    run = RankRun(channel, channel.receive())
    forward_log(channel, logging.WARNING if run.rank else logging.INFO)
    channel.send(_outcome(run))


def _outcome(run: RankRun) -> Message:
    """Train the run; return the message that says what came of it."""
    try:
        from kdecay_search.training import trainer  # noqa: PLC0415 - what it raises is reported

        trainer.train(run)
        return {"returned": None}
    except KDecayError as error:
        return {"invalid_entry": str(error)}
    except Interruption as error:
        return {"interrupted": type(error).__name__}
    except BaseException as error:
        return failure(error)
