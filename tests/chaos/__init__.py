"""Chaos tests: a study whose processes and database are killed all the time; see README.md."""
