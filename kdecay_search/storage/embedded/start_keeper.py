"""The keeper as a program: run by path, so that it need not import what the packages above do."""

import sys
from pathlib import Path
from types import ModuleType

if __name__ == "__main__":
    root = Path(__file__).parents[3]
    for name in ("kdecay_search", "kdecay_search.storage"):
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[name] = package
    from kdecay_search.storage.embedded.keeper import main

    main()
