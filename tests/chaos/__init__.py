"""The chaos programme: a study whose processes and database die all the time; see README.md."""
