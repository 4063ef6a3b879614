"""``python -m kdecay_search`` is ``kdecay``."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # ``-m`` puts the working folder first: a file there must not pass for a module of Python's.
        del sys.path[0]
    from kdecay_search.cli.main import main

    main()
