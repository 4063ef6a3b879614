"""Programs that print no lines of JSON: ``[task.report]`` says where their reports are.

Their reports become the lines of JSON that other programs print, so that all programs are served
alike.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdecay_search.errors import cleaned
from kdecay_search.study.report_source import ReportSource
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.user_code.output import ReportLines
from kdecay_search.user_code.process import Program, ProgramExit
from kdecay_search.user_code.report_file import FollowedFile
from kdecay_search.user_code.report_numbers import ReportCounter, number_of
from kdecay_search.user_code.report_rows import value_of
from kdecay_search.user_code.reports import WrongReport

FILE_SECONDS = 0.5
"""Time from one look at the file of a program to the next."""
MOST_CHARACTERS = 10_000
"""Length up to which a line of output is searched for the pattern."""
_KEYS = {"value": "error", "averaged": "averaged_error", "loss": "loss"}
"""Keys of a line of JSON, by the names in ``[task.report]`` and in its pattern."""
_GROUP_NAMES = {name: f"the pattern's group {name}" for name in ("step", *_KEYS)}
_NONE = ReportLines(lambda line: False, mark=b"\0kdecay\0")


class ReportingProgram(Program):
    """A program whose reports are translated; see :class:`Program`."""

    _is_stopping = False

    def next_line(self, seconds: float) -> bytes | None:
        """Wait up to ``seconds`` for the next report, as a line of JSON.

        Raises:
            WrongReport: ``[task.report]`` does not fit what the program wrote.
        """
        return super().next_line(seconds) if self._is_stopping else self._next_report(seconds)

    def stop(self, number: signal.Signals, seconds: float) -> None:
        """Send a signal, wait up to ``seconds``, and kill what is left; reports are dropped."""
        self._is_stopping = True
        super().stop(number, seconds)

    def problem(self) -> str:
        """Return why there was no report; empty if there was one."""
        raise NotImplementedError

    def _next_report(self, seconds: float) -> bytes | None:
        raise NotImplementedError


class PatternProgram(ReportingProgram):
    """A program whose reports are lines of its output that match a regular expression.

    Args:
        command: The program and its arguments.
        environment: The environment variables of the program.
        source: The study's ``[task.report]``.
        length: The length of the run.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        source: ReportSource,
        length: TrainingLength,
    ) -> None:
        self._name = command[0]
        self._pattern = re.compile(source.pattern or "")
        self._translator = _Translator(source, length)
        self._last: dict[str, str | None] = {}
        lines = ReportLines(lambda line: self._match(line) is not None, is_free_text=True)
        super().__init__(command, environment, lines)

    def problem(self) -> str:
        if self._last:
            return ""
        last = self.stdout.last_line() or self.stderr.last_line()
        printed = f"the last was {last[:200]!r}" if last else "it printed nothing"
        return f"task.report.pattern matched no line that {self._name} printed; {printed}"

    def _next_report(self, seconds: float) -> bytes | None:
        line = super(ReportingProgram, self).next_line(seconds)
        match = None if line is None else self._match(line)
        if match is None:
            return None
        found = match.groupdict()
        if found == self._last and found.get("step") is not None:
            return None  # a progress bar that was drawn again
        self._last = found
        return self._translator.report(found, _GROUP_NAMES)

    def _match(self, line: bytes) -> re.Match[str] | None:
        text = line.decode(errors="replace")
        return self._pattern.search((cleaned(text) if "\x1b" in text else text)[:MOST_CHARACTERS])


class FileProgram(ReportingProgram):
    """A program whose reports are rows of a file that it writes.

    Args:
        command: The program and its arguments.
        environment: The environment variables of the program.
        source: The study's ``[task.report]``.
        length: The length of the run.
        folder: The run's folder that contains the file.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        source: ReportSource,
        length: TrainingLength,
        folder: Path,
    ) -> None:
        self._names = {key: getattr(source, key) for key in ("step", *_KEYS)}
        self._translator = _Translator(source, length)
        self._file = FollowedFile(source, folder)
        self._lines: deque[bytes] = deque()
        self._ended: ProgramExit | None = None
        self._next_look = 0.0
        super().__init__(command, environment, _NONE)

    def problem(self) -> str:
        return self._file.problem()

    def _next_report(self, seconds: float) -> bytes | None:
        if not self._lines and self._ended is None and time.monotonic() >= self._next_look:
            self._read()
            self._next_look = time.monotonic() + FILE_SECONDS
        if not self._lines and self._ended is None:
            super(ReportingProgram, self).next_line(min(seconds, FILE_SECONDS))
            if self.exit is not None:
                self._read(is_last=True)
                self._ended, self.exit = self.exit, None
        if self._lines:
            return self._lines.popleft()
        self.exit = self._ended  # what the program wrote last was reported before
        return None

    def stop(self, number: signal.Signals, seconds: float) -> None:
        if self._ended is None:
            super().stop(number, seconds)
        else:
            self.exit = self._ended

    def _read(self, is_last: bool = False) -> None:
        """Translate the rows that are new."""
        for row in self._file.rows(is_last):
            found = {
                key: None if name is None else value_of(row, name)
                for key, name in self._names.items()
            }
            if self._names["step"] is not None and found["step"] is None:
                raise WrongReport(self._file.missing("step", self._names["step"]))
            line = self._translator.report(found, self._names)
            if line is not None:
                self._lines.append(line)


class _Translator:
    """Makes lines of JSON, as a program that knows kdecay prints them."""

    def __init__(self, source: ReportSource, length: TrainingLength) -> None:
        self._has_step, self._length = source.has_step, length
        self._counter = ReportCounter(length, source.first)

    def report(self, found: Mapping[str, Any], names: Mapping[str, str | None]) -> bytes | None:
        """Return a line of JSON; None for what comes before the first report.

        Args:
            found: What was read for ``step``, ``value``, ``averaged`` and ``loss``; None or missing
                for nothing.
            names: What the program calls each of them, for messages.
        """
        if found["value"] is None:
            return None
        if self._has_step:
            place = self._counter.place(str(names["step"]), found["step"])
        else:
            place = self._counter.next()
        if place is None:
            return None
        numbers = {
            key: number_of(str(names[name]), found[name])
            for name, key in _KEYS.items()
            if found.get(name) is not None
        }
        return json.dumps({self._length.unit: place} | numbers).encode()


def reporting_program(
    command: Sequence[str],
    environment: Mapping[str, str],
    source: ReportSource,
    length: TrainingLength,
    folders: Mapping[str, str],
) -> ReportingProgram:
    """Start a program whose reports are where ``source`` says.

    Args:
        command: The program and its arguments.
        environment: The environment variables of the program.
        source: The study's ``[task.report]``.
        length: The length of the run.
        folders: The run's folders, by the names of their placeholders.
    """
    if source.folder is None:
        return PatternProgram(command, environment, source, length)
    return FileProgram(command, environment, source, length, Path(folders[source.folder]))


def problem_of(program: Program) -> str:
    """Return why a program made no report; empty if it made one, or prints lines of JSON."""
    return program.problem() if isinstance(program, ReportingProgram) else ""
