"""What a worker may import or run, by its own command line and whatever a database says.

Whoever can write to the database can write a study, and a study names code. So a worker runs none
but the entries and commands that whoever started it has named.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdecay_search.errors import NotAllowed
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.user_tasks import CommandTask, PythonTask


@dataclass(frozen=True)
class Allowance:
    """Of one worker. By default nothing but the built-in tasks."""

    entries: frozenset[str] = frozenset()
    """``module:function``, exactly as in ``task.entry``."""
    commands: bool = False
    """Any program, by any command."""

    @staticmethod
    def of(spec: StudySpec) -> Allowance:
        """What the study itself names: for a file that the user has given."""
        task = spec.task
        entries = {task.entry} if isinstance(task, PythonTask) else ()
        return Allowance(frozenset(entries), isinstance(task, CommandTask))

    def require(self, spec: StudySpec) -> None:
        """Raise :class:`NotAllowed` for a study whose code is not allowed here."""
        task = spec.task
        if isinstance(task, PythonTask) and task.entry not in self.entries:
            raise NotAllowed(
                f"study {spec.name!r} runs {task.entry}, which is not allowed here; if it is your "
                f"code, allow it: --allow {task.entry}"
            )
        if isinstance(task, CommandTask) and not self.commands:
            raise NotAllowed(
                f"study {spec.name!r} runs a program ({task.command[0]} …), which is not allowed "
                "here; if you trust whoever can write to the database, allow it: --allow-command"
            )

    @property
    def options(self) -> list[str]:
        """The same on a worker's command line."""
        named = [part for entry in sorted(self.entries) for part in ("--allow", entry)]
        return named + (["--allow-command"] if self.commands else [])


NO_OWN_CODE = Allowance()
