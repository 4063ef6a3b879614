"""One verdict: a study played to its end says the same, word for word, wherever it is read."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from optuna_dashboard._note import get_note_from_system_attrs

from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage, records
from tests.support.kdecay_command import Kdecay, simulated_study

BEST_KS = {"one-term": [3.0], "two-terms": [2.0, 4.0]}


@pytest.mark.parametrize("kind", BEST_KS)
def test_a_finished_study_says_one_sentence_everywhere(
    kdecay: Kdecay, storage: Storage, tmp_path: Path, kind: str
) -> None:
    name = f"verdict-{kind}"
    study = simulated_study(
        tmp_path,
        name=name,
        task__surface__best_ks=BEST_KS[kind],
        task__surface__run_noise=0.2,
        search__k_max=5.0,
        search__k_step=1.0,
        search__max_terms=2,
        confirm__seeds=6,
    )
    kdecay.run("launch", study)
    snapshot = read_snapshot(storage, name)
    assert snapshot.confirmed is not None
    searched, confirmed = snapshot.verdict.sentence, snapshot.confirmed.sentence

    shown = one_line(kdecay.run("status", name).stdout)
    assert searched in shown
    assert confirmed in shown

    found = kdecay.json("status", name)
    assert found["verdict"]["sentence"] == searched
    assert found["confirm"]["sentence"] == confirmed

    report = tmp_path / "pages" / "report.html"
    kdecay.run("report", name, "--out", str(report.parent))
    page = one_line(unescape(re.sub(r"<[^>]+>", " ", report.read_text())))
    assert minus(searched) in minus(page)
    assert minus(confirmed) in minus(page)

    kdecay.run("publish", name)
    notes = {
        stage: get_note_from_system_attrs(storage.optuna.get_study_system_attrs(study_id), None)
        for stage, study_id in records.stage_ids(storage, name).items()
    }
    assert searched in notes[1]["body"]
    assert confirmed in notes[0]["body"]


def one_line(text: str) -> str:
    return " ".join(text.split())


def minus(text: str) -> str:
    """A page has real minus signs."""
    return text.replace("-", "−").replace("\N{NO-BREAK SPACE}", " ")
