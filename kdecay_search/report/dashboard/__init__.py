"""Keeping what Optuna's dashboard shows of a study up to date: notes and figures."""

from kdecay_search.report.dashboard.publication import publish

__all__ = ["publish"]
