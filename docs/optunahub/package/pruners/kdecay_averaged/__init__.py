from kdecay_search.optuna import AveragedPruner, report

__all__ = ["AveragedPruner", "report"]
