"""Execute the recipes of README.md with their libraries, and compare the rate of every update.

    python docs/recipes/run.py [NAME ...]              # each in a virtual environment of its own
    python docs/recipes/run.py --python PYTHON NAME    # by an interpreter that has the library
    python docs/recipes/run.py --nanogpt FOLDER        # nanoGPT's train.py, in a copy of its folder

What is installed already, as PyTorch is in the project's own environment, is used from there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = {
    "keras": ["keras", "jax"],
    "optax": ["optax"],
    "torchtitan": ["torchtitan"],
    "composer": ["mosaicml"],
    "ultralytics": ["ultralytics"],
}
"""What a recipe needs beside the packages of the project's tests, by its name."""
MOST_DIFFERENCE = 1e-5
"""Largest difference to the schedule's rates, as a share of them: Keras and optax have 32 bits."""
IMAGES = 24
"""Images of each of two classes that the recipe for Ultralytics trains on."""
NANOGPT_UPDATES = 12
"""Updates of the training by nanoGPT's script."""


@dataclass(frozen=True)
class Recipe:
    """A program of README.md.

    Args:
        form: The form of ``kdecay best --as`` that it imports from ``schedule.py``.
        name: Its name; that of the form, if the form has one recipe.
        processes: How many processes train together, started by torchrun; 1 needs none.
        program: The program's text.
    """

    form: str
    name: str
    processes: int
    program: str


def recipes() -> dict[str, Recipe]:
    """The programs of README.md by name."""
    marked = re.compile(
        r"<!-- recipe: (\w+)(?: as (\w+))?; (?:torchrun )?(\d) -->\n\n```python\n(.*?)```", re.S
    )
    found = marked.findall((HERE / "README.md").read_text())
    return {
        name or form: Recipe(form, name or form, int(processes), program)
        for form, name, processes, program in found
    }


def schedule_used() -> Any:
    """The schedule of all recipes: several terms, a floor and a warm-up."""
    from kdecay_search.schedules.kdecay import KDecaySchedule

    return KDecaySchedule("cosine", (1.0, 3.5), lr_max=0.1, lr_min=0.001, warmup_steps=2)


def prepare(recipe: Recipe, folder: Path) -> Path:
    """Write ``schedule.py`` and the program into a folder; returns the program's path."""
    from kdecay_search.schedules import export

    source = getattr(export, f"{recipe.form}_source")(schedule_used())
    (folder / "schedule.py").write_text(source)
    program = folder / "train.py"
    program.write_text(recipe.program)
    if recipe.form == "ultralytics":
        from PIL import Image

        for split in ("train", "val"):
            for number in range(2 * IMAGES):
                where = folder / "images" / split / ("dark" if number % 2 else "light")
                where.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (number,) * 3).save(where / f"{number}.png")
    return program


def execute(recipe: Recipe, python: str, folder: Path) -> list[list[float]]:
    """Run a recipe in a folder; returns the rates of its updates, of each process."""
    program = prepare(recipe, folder)
    command = [python, str(HERE / "run.py"), "--inside", recipe.form, str(program)]
    if recipe.processes > 1:
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(recipe.processes)]
        command[1:1] = [*launch, "--master-port", "0", "--standalone"]
    settings = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # Keras and jax see two devices, so that jax splits every batch.
    devices = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    with open(folder / "output.txt", "w") as output:
        done = subprocess.run(
            command, cwd=folder, env={**devices, **os.environ, **settings}, stdout=output,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit((folder / "output.txt").read_text()[-6000:])
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rates.*.json"))]


def difference(rates: list[float]) -> float:
    """The largest difference to the schedule's rates, as a share of them.

    A training that made another number of updates than it gave the schedule differs, too.
    """
    schedule = schedule_used()
    wanted = [schedule(update, len(rates)) for update in range(len(rates))]
    return max(abs(rate / want - 1.0) for rate, want in zip(rates, wanted, strict=True))


# ---- inside a recipe's process: no import but the recipe's library ------------------------------


def inside(form: str, program: str) -> None:
    """Run a program, and write the rates of its updates beside it."""
    rates: dict[int, float] = {}
    record: dict[str, Callable[[dict[int, float]], Any]] = {
        "keras": record_keras,
        "optax": record_optax,
    }
    sys.argv = [program]
    sys.path.insert(0, str(Path(program).parent))
    recorder = record.get(form, record_torch)(rates)
    try:
        runpy.run_path(program, run_name="__main__")
    finally:
        if recorder:
            recorder.remove()
    rank = os.environ.get("RANK", "0")
    values = [rates[update] for update in sorted(rates)]
    Path(program).with_name(f"rates.{rank}.json").write_text(json.dumps(values))


def record_torch(rates: dict[int, float]) -> Any:
    """Record the first group's rate of every update of torch's optimizers.

    Returns:
        What removes the recorder.
    """
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def look(optimizer: Any, *_: Any) -> None:
        if "lr" in optimizer.param_groups[0]:  # else a container of optimizers
            rates[len(rates)] = float(optimizer.param_groups[0]["lr"])

    return register_optimizer_step_post_hook(look)


def record_keras(rates: dict[int, float]) -> None:
    """Record the rate of every update of Keras's SGD, by the batch that it came with.

    On jax, Keras computes an update for every batch, and takes that of the last of an accumulation.
    """
    import keras

    update = keras.optimizers.SGD.update_step

    def look(self: Any, gradient: Any, variable: Any, rate: Any) -> Any:
        def keep(batch: Any, rate: Any) -> None:
            if (int(batch) + 1) % (self.gradient_accumulation_steps or 1) == 0:
                rates[int(batch)] = float(rate)

        if keras.backend.backend() == "jax":
            import jax

            jax.debug.callback(keep, self._iterations.value, rate)
        else:
            keep(self._iterations, rate)
        return update(self, gradient, variable, rate)

    keras.optimizers.SGD.update_step = look


def record_optax(rates: dict[int, float]) -> None:
    """Record the rate of every update that asks the schedule for one."""
    import jax
    import schedule

    make = schedule.kdecay_schedule

    def keep(step: Any, rate: Any) -> None:
        rates[int(step)] = float(rate)

    def watched(total_steps: int) -> Callable[[Any], Any]:
        rate_of = make(total_steps)

        def look(step: Any) -> Any:
            rate = rate_of(step)
            jax.debug.callback(keep, step, rate)
            return rate

        return look

    schedule.kdecay_schedule = watched


# ---- nanoGPT -----------------------------------------------------------------------------------


def execute_nanogpt(checkout: Path, python: str, folder: Path) -> list[list[float]]:
    """Run nanoGPT's ``train.py`` with ``get_lr`` replaced, on generated letters."""
    import numpy

    from kdecay_search.schedules import export

    for name in ("train.py", "model.py", "configurator.py"):
        shutil.copy(checkout / name, folder)
    script = folder / "train.py"
    source = export.nanogpt_source(schedule_used())
    whole = re.compile(r"^def get_lr\(.*?(?=^\S)", re.S | re.M)
    script.write_text(whole.sub(lambda _: source + "\n", script.read_text(), count=1))
    data = folder / "data" / "letters"
    data.mkdir(parents=True)
    for split in ("train", "val"):
        numpy.arange(2000, dtype=numpy.uint16).__mod__(50).tofile(data / f"{split}.bin")
    options = {
        "dataset": "letters", "device": "cpu", "compile": False, "eval_interval": 100,
        "eval_iters": 1, "log_interval": 1, "n_layer": 1, "n_head": 1, "n_embd": 8,
        "block_size": 8, "batch_size": 2, "gradient_accumulation_steps": 4,
        "max_iters": NANOGPT_UPDATES - 1,  # train.py makes one update more
       
        "lr_decay_iters": NANOGPT_UPDATES, "dtype": "float32",
    }  # fmt: skip
    script.write_text(
        "import sys\n"
        f"sys.argv[1:] = {[f'--{name}={value}' for name, value in options.items()]!r}\n"
        + script.read_text()
    )
    command = [python, str(HERE / "run.py"), "--inside", "nanogpt", str(script)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit((done.stdout + done.stderr)[-6000:])
    return [json.loads((folder / "rates.0.json").read_text())]


# ---- the command -------------------------------------------------------------------------------


def environment_for(recipe: Recipe, folder: Path) -> str:
    """The Python that runs a recipe: the project's own, or a new environment with what it needs."""
    packages = PACKAGES.get(recipe.name)
    if packages is None:
        return sys.executable
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def versions(python: str, packages: list[str]) -> str:
    """The packages that an interpreter has, with their versions."""
    code = (
        "import sys, importlib.metadata as m; print(*(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    )
    told = subprocess.run(
        [python, "-c", code, *packages], capture_output=True, text=True, check=True
    )
    return told.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes; all, if none is named")
    parser.add_argument("--python", help="an interpreter that has the libraries of these recipes")
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="a checkout of nanoGPT")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(*given.inside)
        return
    known = recipes()
    for name in given.names:
        if name not in known:
            parser.error(f"no recipe {name!r}; there are {', '.join(known)}")
    with tempfile.TemporaryDirectory() as made:
        if given.nanogpt:
            (folder := Path(made) / "nanogpt").mkdir()
            show("nanogpt", execute_nanogpt(given.nanogpt, given.python or sys.executable, folder))
        for name in given.names or ([] if given.nanogpt else known):
            (folder := Path(made) / name).mkdir()
            recipe = known[name]
            python = given.python or environment_for(recipe, Path(made) / f"{name}-venv")
            print(versions(python, PACKAGES.get(recipe.name, ["torch"])), flush=True)
            show(name, execute(recipe, python, folder))


def show(name: str, rates: list[list[float]]) -> None:
    """Print how a recipe's rates compare with the schedule's; end with an error if they differ."""
    most = max(difference(each) for each in rates)
    told = f"{len(rates[0])} updates in each of {len(rates)} processes"
    print(f"{name}: {told}; the rates differ from the schedule's by {most:.1g} at most", flush=True)
    if not (rates[0] and math.isfinite(most) and most < MOST_DIFFERENCE):
        raise SystemExit(f"{name}: these are not the schedule's rates: {rates}")


if __name__ == "__main__":
    main()
