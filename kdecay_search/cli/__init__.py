"""The ``kdecay`` command: one small file per group of commands.

Modules that are slow to import (Optuna, pydantic, SQLAlchemy) are imported inside the commands, so
that ``kdecay --help`` answers at once.
"""
