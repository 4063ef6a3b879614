"""What a task is, the checkpoints of its runs, and the simulated task."""
