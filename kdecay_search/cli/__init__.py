"""The ``kdecay`` command: one small file per group of commands.

What is slow to import (Optuna, pydantic, SQLAlchemy) is imported inside the commands, so that
``kdecay --help`` answers at once.
"""
