"""The checks of ``kdecay doctor``: could a worker work here, and if not, what fixes it?

Every check does the real thing and leaves nothing behind: rows and tables are rolled back, files
are removed.
"""
