"""What user code gets: placeholders, environment variables and an import path."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdecay_search.user_code import command, python
from tests.user_code.programs import ALL_EPOCHS, EVERY_EPOCH, function, numbers, program

pytestmark = pytest.mark.usefixtures("own_folder")


def test_placeholders_are_filled_in() -> None:
    names = ("ks", "lr_max", "lr_min", "epochs", "seed", "device", "purpose")
    script = f'cp "$2" rates.csv; shift 2; printf "%s\\n" "$@" > given\n{ALL_EPOCHS}'
    run = program(script, "{schedule_csv}", *(f"{{{name}}}" for name in names), ks=(1.5, 3.0))
    command.train(run)
    assert Path("given").read_text().split("\n")[:-1] == [
        "1.5,3.0", "0.1", "0.001", "3", "0", "cpu", "search"
    ]  # fmt: skip
    rows = Path("rates.csv").read_text().split()
    assert rows[:2] == ["step,learning_rate", "0,0.1"]
    assert len(rows) == 1 + 3 + 1, "a head, three epochs, and the end"


def test_a_program_knows_its_purpose() -> None:
    script = f'printf "%s\\n" "$@" > given\n{ALL_EPOCHS}'
    command.train(program(script, "{purpose}", comparator="rex", ks=(2.0,)))
    assert Path("given").read_text() == "\nconfirmation\n", "a baseline has no k"


def test_database_and_other_gpus_are_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KDECAY_STORAGE", "postgresql://user:secret@nowhere/none")
    command.train(program(f"env > seen\n{ALL_EPOCHS}"))
    seen = dict(line.split("=", 1) for line in Path("seen").read_text().splitlines() if "=" in line)
    assert "secret" not in Path("seen").read_text()
    assert (seen["KDECAY_DEVICE"], seen["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")


def test_user_modules_cannot_replace_ours() -> None:
    for name in ("kdecay_search", "pydantic", "json", "socket"):
        Path(f"{name}.py").write_text("raise SystemExit('the wrong one')")
    run = function(EVERY_EPOCH)
    python.train(run)
    assert numbers(run) == [1, 2, 3]
