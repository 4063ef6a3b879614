"""A program that uses the embedded server as the commands do, without the second that they take to
import. It prints a line of JSON for the start, and one for each "revive" that it reads."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def _report(use: Callable[[], str | None]) -> bool:
    from kdecay_search.errors import KDecayError, StorageUnavailable

    try:
        answer = {"url": use()}
    except KDecayError as error:
        answer = {"error": str(error), "passing": isinstance(error, StorageUnavailable)}
    print(json.dumps(answer), flush=True)
    return "url" in answer


if __name__ == "__main__":
    root = Path(__file__).parents[2]
    for name in ("kdecay_search", "kdecay_search.storage"):
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[name] = package
    from kdecay_search.storage import embedded

    if not _report(embedded.embedded_url):
        sys.exit(2)
    for _ in sys.stdin:
        _report(embedded.revive)
