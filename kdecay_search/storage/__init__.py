"""Postgres, through Optuna: connecting, the queue of runs, the records."""

from kdecay_search.storage.connect import Storage
from kdecay_search.storage.embedded import embedded_url

__all__ = ["Storage", "embedded_url"]
