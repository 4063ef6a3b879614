"""k-decay in an Optuna study of your own: schedules as parameters, a pruner, a sampler.

See docs/optuna.md. These work with Optuna 4 and later, and need none of this project's service.
"""

from kdecay_search.optuna.pruner import AveragedPruner, report
from kdecay_search.optuna.sampler import JointSampler
from kdecay_search.optuna.schedule import suggest_schedule

__all__ = ["AveragedPruner", "JointSampler", "report", "suggest_schedule"]
