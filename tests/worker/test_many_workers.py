"""16 worker processes on one study of 160 runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from kdecay_search.storage import Storage, records
from kdecay_search.study.trials import State
from tests.support.kdecay_command import Kdecay

WORKERS, RUNS, CONNECTIONS = 16, 160, 34

SERVE = """
import json, logging, sys
from benchmarks import coordination, systems
logging.basicConfig(filename=sys.argv[2], format="%(levelname)s %(message)s")
logging.getLogger("kdecay_search").setLevel(logging.INFO)
load = systems.Load(int(sys.argv[3]), int(sys.argv[4]), 2, 0.0)
service = coordination.run(systems.serve_ours, sys.argv[1], load)
print(json.dumps([service.connections, [part.trials for part in service.parts]]))
"""


def test_many_workers_finish_every_run_exactly_once(alone: Kdecay, tmp_path: Path) -> None:
    assert alone.url is not None
    study = tmp_path / "coordination.toml"
    study.write_text(
        'name = "coordination"\n[task]\nkind = "simulated"\nepochs = 2\nepoch_seconds = 0.1\n'
        "[search]\nk_step = 0.1\nk_max = 2.9\nk_cap = 2.9\nseeds = 8\nmax_terms = 1\n"
        "[pruning]\nenabled = false\n"
    )
    alone.run("launch", str(study), "--workers", "0", "--detach")
    storage = Storage(alone.url)
    log = tmp_path / "log"
    before = server_log(alone)
    served = subprocess.run(
        [sys.executable, "-c", SERVE, alone.url, str(log), str(WORKERS), str(RUNS)],
        env=os.environ | {"KDECAY_HOME": str(alone.home), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=1200,
        check=True,
    )
    connections, trials = json.loads(served.stdout)

    assert sum(trials) == RUNS
    assert min(trials) > 0
    done = records.read_trials(storage, "coordination")
    assert {trial.state for trial in done} == {State.COMPLETE}
    assert len({trial.key for trial in done}) == len(done) == RUNS
    assert WORKERS < connections <= CONNECTIONS
    lines = log.read_text().splitlines()
    assert len(lines) >= RUNS
    assert not [line for line in lines if not line.startswith("INFO")]
    assert "ERROR" not in server_log(alone).removeprefix(before)
    storage.close()


def server_log(kdecay: Kdecay) -> str:
    return (kdecay.home / "postgres" / "log").read_text()
