"""What a worker may import or run: its own command line decides, never the database.

A study names code, and anyone who can write to the database can write a study. A worker therefore
runs only the functions and programs that its own command line allows.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdecay_search.errors import NotAllowed
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.user_tasks import CommandTask, PythonTask


@dataclass(frozen=True)
class Allowance:
    """The user code that one worker may run; by default, only built-in tasks are allowed."""

    entries: frozenset[str] = frozenset()
    """Functions that may be imported, as ``module:function``, exactly as in ``task.entry``."""
    commands: bool = False
    """Whether any program may be run, with any arguments."""

    @staticmethod
    def of(spec: StudySpec) -> Allowance:
        """Return the allowance for exactly the code that ``spec`` names.

        Use it only for a study file that the user gave on the command line.
        """
        task = spec.task
        entries = {task.entry} if isinstance(task, PythonTask) else ()
        return Allowance(frozenset(entries), isinstance(task, CommandTask))

    def require(self, spec: StudySpec) -> None:
        """Check that the study's code is allowed.

        Raises:
            NotAllowed: The study runs code that this worker's command line does not allow.
        """
        task = spec.task
        if isinstance(task, PythonTask) and task.entry not in self.entries:
            raise NotAllowed(
                f"study {spec.name!r} runs {task.entry}, which is not allowed here; if it is your "
                f"code, allow it: --allow {task.entry}"
            )
        if isinstance(task, CommandTask) and not self.commands:
            raise NotAllowed(
                f"study {spec.name!r} runs a program ({task.command[0]} …), which is not allowed "
                "here; if you trust everyone who can write to the database, allow it: "
                "--allow-command"
            )

    @property
    def options(self) -> list[str]:
        """The ``kdecay worker`` options that give a worker this allowance."""
        named = [part for entry in sorted(self.entries) for part in ("--allow", entry)]
        return named + (["--allow-command"] if self.commands else [])


BUILT_IN_ONLY = Allowance()
