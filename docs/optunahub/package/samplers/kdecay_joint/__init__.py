from kdecay_search.optuna import JointSampler, suggest_schedule

__all__ = ["JointSampler", "suggest_schedule"]
