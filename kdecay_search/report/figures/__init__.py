"""Plotly figures of a study: pure functions of a snapshot, each usable by itself.

    from kdecay_search.report import figures
    figures.error_by_k(snapshot, snapshot.plan.stages[0]).show()

They have no background and grey text, so that they suit light and dark pages. A candidate has the
same colour in all of them.
"""

from kdecay_search.report.figures.confirmed import differences
from kdecay_search.report.figures.curves import training_loss, validation_error
from kdecay_search.report.figures.effort import epochs_by_k
from kdecay_search.report.figures.error import error_by_k
from kdecay_search.report.figures.schedule import schedules
from kdecay_search.report.figures.whole import plane

__all__ = [
    "differences",
    "epochs_by_k",
    "error_by_k",
    "plane",
    "schedules",
    "training_loss",
    "validation_error",
]
