"""Three small real trainings, as study files and as the code that one of them needs."""
