"""A search from Python: ``kdecay_search.find_schedule``, and what it returns."""
