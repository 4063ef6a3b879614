"""``python -m kdecay_search`` is ``kdecay``."""

from kdecay_search.cli.main import main

if __name__ == "__main__":
    main()
