"""Runs that are forked from a process with their libraries: as new processes, but sooner."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import site
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdecay_search.tasks.protocol import Released
from kdecay_search.user_code import carried, python
from kdecay_search.user_code.forked_runs import FORKED_RUNS
from kdecay_search.user_code.libraries import libraries_of
from tests.support.recorded_run import RecordedRun
from tests.support.wait import wait_for
from tests.user_code.programs import (
    EVERY_EPOCH,
    alive,
    failure,
    function,
    numbers,
    started,
)

pytestmark = [
    pytest.mark.usefixtures("own_folder", "no_server"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="runs are forked on Linux"),
]


@pytest.fixture
def no_server() -> Iterator[None]:
    """No server is left by the tests before, nor by this one."""
    FORKED_RUNS.end()
    yield
    FORKED_RUNS.end()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a library ``installed`` with this source."""
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path))
    monkeypatch.setattr(site, "USER_BASE", None)
    monkeypatch.setattr(site, "USER_SITE", None)
    folder = Path(site.getusersitepackages())
    monkeypatch.setattr(site, "USER_BASE", None)
    monkeypatch.setattr(site, "USER_SITE", None)
    folder.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def install(source: str) -> None:
        (folder / "installed.py").write_text(source)

    return install


def run_of(head: str, body: str = EVERY_EPOCH, fork: bool = True) -> RecordedRun:
    """A run of a function in a module that begins with ``head``."""
    run = function(body, task={"fork": fork})
    Path("mine.py").write_text(f"{head}\n{Path('mine.py').read_text()}")
    return run


def noted() -> list[dict[str, object]]:
    """What the runs have written down, a line each."""
    return [json.loads(line) for line in Path("noted").read_text().splitlines()]


def note(**values: str) -> str:
    """Code that writes down what these expressions give."""
    found = ", ".join(f"{name!r}: {value}" for name, value in values.items())
    return f"import json; print(json.dumps({{{found}}}), file=open('noted', 'a'))"


# ---- as a new process --------------------------------------------------------------------------

SELF = note(
    argv="sys.argv",
    path="sys.path",
    folder="os.getcwd()",
    variables="{k: v for k, v in os.environ.items() if k != 'KDECAY_PROGRAM'}",
    files="len(os.listdir('/proc/self/fd'))",
    input="os.readlink('/proc/self/fd/0')",
    signals="[line for line in open('/proc/self/status') if line[:3] == 'Sig' and line[3] != 'Q']",
    handlers="[repr(signal.getsignal(number)) for number in sorted(signal.Signals)]",
    session="os.getsid(0) == os.getpgid(0) == os.getpid()",
    core="resource.getrlimit(resource.RLIMIT_CORE)",
    main="[sys.modules['__main__'].__name__, hasattr(sys.modules['__main__'], '__file__')]",
    flags="str(sys.flags)",
    output="[str(sys.stdout), sys.stdout.write_through, sys.stderr.encoding]",
    threads="[thread.name for thread in threading.enumerate()]",
    mark="os.environ['KDECAY_PROGRAM'].encode() in open('/proc/self/environ', 'rb').read()",
)


def test_a_forked_run_is_as_a_new_process() -> None:
    """In all that it can see of itself, except that its libraries have been imported."""
    head = "import numpy, resource, signal, sys, threading; imported = 'numpy' in sys.modules"
    for fork in (True, False):
        python.train(run_of(head, f"{SELF}\n{EVERY_EPOCH}", fork))
    forked, new = noted()
    assert forked == new
    assert forked["mark"]


def test_it_has_random_numbers_of_its_own() -> None:
    drawn = note(values="[random.random(), numpy.random.rand()]", server=GRANDPARENT)
    for _ in range(2):
        python.train(run_of("import numpy, random", f"{drawn}\n{EVERY_EPOCH}"))
    first, second = noted()
    assert first["server"] == second["server"]
    values = [*first["values"], *second["values"]]  # type: ignore[misc]
    assert len(set(values)) == 4


def test_it_sees_the_user_s_modules_as_they_are_by_then() -> None:
    for text in ("one", "other"):
        Path("also_mine.py").write_text(f"text = {text!r}")
        head = f"import numpy, also_mine; this = '{text}'"
        what = note(text="also_mine.text", this="this", server=GRANDPARENT)
        python.train(run_of(head, f"{what}\n{EVERY_EPOCH}"))
    first, second = noted()
    assert (first["text"], first["this"]) == ("one", "one")
    assert (second["text"], second["this"]) == ("other", "other")
    assert first["server"] == second["server"]


ENDINGS = (
    "print('out'); print('err', file=sys.stderr); os._exit(3)",
    "print('err', file=sys.stderr); os.abort()",
    "sys.exit('enough')",
    "run.report(1, 40.0)\nraise ValueError('a\\nb')",
    "run.report(1, float('nan'))",
    "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
    "import no_such_module",
    "global kept; kept = open('noted', 'w'); kept.write('open')\nimport atexit, threading\n"
    "atexit.register(lambda: open('noted2', 'w').write('atexit'))\n"
    "def late(): time.sleep(0.2); open('noted3', 'w').write('thread')\n"
    "threading.Thread(target=late).start()\n" + EVERY_EPOCH,
)


def test_it_ends_as_a_new_process() -> None:
    def outcome(body: str, fork: bool) -> list[object]:
        run = run_of("import signal", body, fork)
        try:
            found: list[object] = [python.train(run)]
        except python.RunFailed as error:
            found = [str(error), error.output.replace("<stdin>", ""), error.is_wrong]
        files = [Path(name) for name in ("noted", "noted2", "noted3")]
        found += [file.read_text() for file in files if file.exists()]
        for file in files:
            file.unlink(missing_ok=True)
        return [*found, run.epochs]

    for body in ENDINGS:
        forked, new = outcome(body, True), outcome(body, False)
        if "abort" in body:  # the dump of where it was has the frames of the server, too
            forked[1], new[1] = str(forked[1])[:40], str(new[1])[:40]
        assert forked == new, body
    assert new[1:4] == ["open", "atexit", "thread"]


def test_torch_is_imported_once_and_uses_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("OMP", "MKL"):
        monkeypatch.setenv(f"{library}_NUM_THREADS", "2")
    head = "import sys; was_imported = {'torch', 'torch._dynamo'} <= sys.modules.keys()\n"
    head += "import torch, torch.utils.data"
    body = """
model = torch.nn.Linear(300, 300)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
run.steps_per_epoch = 1
run.drive(optimizer)
data = torch.utils.data.DataLoader(torch.rand(900, 300), batch_size=300, num_workers=1)
for epoch, batch in zip(run.remaining_epochs(), data):
    model(batch).square().mean().backward()
    optimizer.step()
    run.report(epoch, 40.0)
"""
    what = note(
        imported="was_imported",
        threads="len(os.listdir('/proc/self/task')) > 1",
        sum="torch.rand(1000, 1000).sum().item() > 0",
        seed="torch.initial_seed()",
    )
    for _ in range(2):
        python.train(run_of(head, f"{body}{what}\n"))
    first, second = noted()
    assert (first["imported"], first["threads"]) == (True, True)
    assert first == second


# ---- where forking is not safe -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import threading, time\n"
         "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
         "importing its libraries starts 1 thread"),
        ("import subprocess\nchild = subprocess.Popen(['sleep', '600'])",
         "importing its libraries starts a process"),
        ("kept = open(__file__)", "importing its libraries opens "),
        ("import os, sys\nif 'mine' not in sys.modules: os._exit(3)",
         "importing its libraries ends the process"),
        ("import also_mine", "a library imports also_mine from the working folder"),
    ],
)  # fmt: skip
def test_libraries_that_keep_to_new_processes(
    library: Callable[[str], None], caplog: pytest.LogCaptureFixture, source: str, reason: str
) -> None:
    caplog.set_level(logging.INFO)
    library(source)
    Path("also_mine.py").touch()
    for _ in range(2):
        run = run_of("import installed")
        python.train(run)
        assert numbers(run) == [1, 2, 3]
    lines = [record.message for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith(f"every run of mine:train starts Python anew, since {reason}")


def test_a_module_that_sets_variables_keeps_to_new_processes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its libraries may read them when they are imported."""
    caplog.set_level(logging.INFO)
    head = "import os, sys; early = 'numpy' in sys.modules; os.environ['MY_LEVEL'] = '3'"
    head += "\nimport numpy"
    for _ in range(2):
        python.train(run_of(head, f"{note(early='early')}\n{EVERY_EPOCH}"))
    assert noted() == [{"early": False}] * 2
    text = "every run of mine:train starts Python anew, since importing mine sets MY_LEVEL"
    assert [record.message for record in caplog.records] == [text]


def test_a_module_may_do_what_a_library_may_not() -> None:
    """Each run imports it, so nothing of it is shared."""
    head = "import threading, time, subprocess\nkept = open(__file__)\n"
    head += "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    head += "child = subprocess.Popen(['sleep', '600'])"
    body = f"{note(first='kept.read(6)', server=GRANDPARENT)}\n{EVERY_EPOCH}"
    python.train(run_of(head, body))
    python.train(run_of(head, body))
    first, second = noted()
    assert first == second


def test_a_worker_that_stops_does_not_wait_for_the_libraries(
    library: Callable[[str], None],
) -> None:
    library("import time; time.sleep(600)")
    run = run_of("import installed")
    run.end = Released()
    with pytest.raises(Released):
        python.train(run)


def test_libraries_that_hang(library: Callable[[str], None]) -> None:
    library("import time; time.sleep(600)")
    run = function(EVERY_EPOCH, task={"epoch_timeout": 1.0})
    Path("mine.py").write_text(f"import installed\n{Path('mine.py').read_text()}")
    assert "was not reported within task.epoch_timeout" in str(failure(python.train, run))


# ---- nothing is left ---------------------------------------------------------------------------

PARENT_OF = "int(open(f'/proc/{}/stat').read().rpartition(')')[2].split()[1])"
GRANDPARENT = PARENT_OF.replace("{}", "{os.getppid()}")
"""The server, as a forked run sees it."""


def test_a_server_that_is_killed() -> None:
    """Its run fails as any other; the next one starts anew, and those after it are forked."""
    servers = []
    for body in (
        f"os.kill({GRANDPARENT}, 9)\ntime.sleep(600)",
        f"{note(pid='os.getpid()', server=GRANDPARENT)}\n{EVERY_EPOCH}",
        f"{note(pid='os.getpid()', server=GRANDPARENT)}\n{EVERY_EPOCH}",
    ):
        run = run_of("import os", f"open('pids', 'a').write(f'{{os.getpid()}}\\n')\n{body}")
        if "kill" in body:
            assert "was killed by SIGKILL" in str(failure(python.train, run))
        else:
            python.train(run)
            servers.append(noted()[-1]["server"])
    assert servers[0] == os.getpid() != servers[1]
    assert not any(map(alive, started()))


TREE = """
me = os.getpid()
for depth in range(2):
    if not os.fork():
        os.setsid()
        os.fork()
        break
open('pids', 'a').write(f'{os.getpid()}\\n')
if os.getpid() == me:
    open('family', 'w').write(f'{os.getppid()} {SERVER}')
time.sleep(600)
""".replace("{SERVER}", "{" + GRANDPARENT.replace("'", '"') + "}")
"""The run, two children in sessions of their own, and a child of each; none executes a program."""
PROCESSES = 5


def _family() -> list[int]:
    """The supervisor and the server of the run, once all of its processes have started."""
    wait_for(lambda: Path("pids").exists() and len(started()) == PROCESSES, "the processes")
    wait_for(lambda: Path("family").exists() and Path("family").read_text(), "the ids")
    return [int(word) for word in Path("family").read_text().split()]


def test_a_supervisor_that_is_killed() -> None:
    """Processes that the run forked, and that have not executed a program, are found as well."""

    def kill() -> None:
        os.kill(_family()[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert "was killed by SIGKILL" in str(failure(python.train, run_of("import os", TREE)))
    killer.join()
    wait_for(lambda: not any(map(alive, started())), "the end of all processes")
    assert alive(_family()[1])


WORKER = """
import json, sys
sys.path.append(sys.argv[1])
from tests.support.recorded_run import RecordedRun
from kdecay_search.user_code import python
python.train(RecordedRun(task=json.loads(sys.argv[2])))
"""


def test_a_worker_that_is_killed() -> None:
    task = run_of("import os", TREE).spec.task.model_dump_json(exclude_none=True)
    arguments = [str(Path(__file__).parents[2]), task]
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *arguments])
    family = _family()
    worker.kill()
    worker.wait()
    wait_for(lambda: not any(map(alive, [*family, *started()])), "the end of all processes")


# ---- which libraries ---------------------------------------------------------------------------


def test_the_libraries_that_a_module_imports() -> None:
    for name, source in {
        "mine/__init__": "import json",
        "mine/train": "from __future__ import annotations\nfrom . import model\n"
        "from .data import load\nfrom xml import dom\nimport mine.other as other\n"
        "if True:\n    import wave\ndef train(run):\n    import zipfile\n",
        "mine/model": "import no_such_module, numpy.linalg\nfrom numpy import float64",
        "mine/data": "try:\n    from ..far import x\n    import csv\nexcept ImportError: ...",
        "mine/other": "this is no Python",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(f"{name}.py").write_text(source)
    found = libraries_of("mine.train:train", [os.getcwd(), *sys.path])
    future = "__future__ __future__.annotations"
    assert found == f"json {future} numpy numpy.linalg numpy.float64 csv xml xml.dom".split()


def test_the_libraries_of_a_carried_function(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cloudpickle")
    import numpy
    import sklearn.linear_model  # noqa: F401 - loaded, but not used

    def train(run: object) -> float:
        return float(numpy.zeros(1)[0])

    train.__module__ = "__main__"
    Path("function").write_bytes(carried.carried(train))
    monkeypatch.setenv(carried.VARIABLE, str(Path("function").resolve()))
    assert pickle.loads(Path("function").read_bytes())["function"]
    found = libraries_of(carried.ENTRY, sys.path)
    assert "numpy" in found
    assert not any(name.startswith("sklearn") for name in found)
