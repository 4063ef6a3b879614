"""Optuna's dashboard on our storage: its server, and what is published there of each study."""
