"""Your own training code: what it gets (:mod:`run`), and how a worker runs it."""
