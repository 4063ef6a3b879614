"""What ``kdecay doctor`` looks at: whether a worker could work here, and what to mend if not.

Everything is really tried, and nothing is left behind: rows and tables are rolled back, files
removed.
"""
