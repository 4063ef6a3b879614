"""Training code that users bring: what it gets (:mod:`run`), and how a worker runs it."""
