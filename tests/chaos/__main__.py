"""``python -m tests.chaos``: run a scenario, print one line, and exit with 1 if results differ."""

from __future__ import annotations

import argparse
import sys

from tests.chaos import containers, takeovers
from tests.chaos.hosts import unavailable_reason
from tests.chaos.scenario import Scenario, run


def main(arguments: list[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    if chosen.hosts > 1 and (reason := unavailable_reason()) is not None:
        print(f"chaos with {chosen.hosts} hosts is skipped: {reason}")
        return 0
    if chosen.containers:
        return _take_over(chosen.seed, chosen.short)
    report = run(
        Scenario(chosen.task, chosen.pruning == "on", chosen.short, chosen.hosts, chosen.seed)
    )
    for difference in report.differences:
        print(f"  {difference}")
    if report.differences:
        print(f"  logs: {report.logs}")
    print(report.line(), flush=True)
    return 1 if report.differences else 0


def _take_over(seed: int, short: bool) -> int:
    """Run the scenario of two containers on one home."""
    reason = containers.unavailable_reason()
    if reason is not None:
        print(f"chaos of two containers is skipped: {reason}")
        return 0
    line, found = takeovers.run(seed, short)
    for difference in found:
        print(f"  {difference}")
    print(line, flush=True)
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of the disturbances")
    parser.add_argument("--task", choices=("simulated", "digits"), default="simulated")
    parser.add_argument("--pruning", choices=("on", "off"), default="off")
    parser.add_argument("--hosts", type=int, choices=(1, 2), default=1)
    parser.add_argument(
        "--containers", action="store_true", help="two containers on one home, and no other server"
    )
    parser.add_argument("--short", action="store_true", help="a fifth of the disturbances")
    return parser


if __name__ == "__main__":
    sys.exit(main())
