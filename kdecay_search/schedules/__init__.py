"""The schedules: k-decay, those that users compare it with, and how they are exported."""
