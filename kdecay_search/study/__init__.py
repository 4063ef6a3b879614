"""What a user asks for: the study, its file, its tasks, and its records as plain data."""
