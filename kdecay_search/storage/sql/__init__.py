"""Every SQL text of the package, by what it works on.

- :mod:`.queue`: adding trials, claiming them, and what a worker writes to a trial that it holds;
- :mod:`.studies`: studies, their stages and their user attributes;
- :mod:`.trials`: trials and what they left behind, as they are read;
- :mod:`.server`: locks, the version of the tables, and what ``kdecay doctor`` asks the server.

The tables are Optuna's, of the version that :mod:`kdecay_search.storage.schema` names. A study NAME
is a family of Optuna studies, ``NAME/k1``, ``NAME/k2``, … and ``NAME/confirm``: one for each stage,
and one for the confirmation. Statements that take ``:prefix`` (``NAME/``) work on all of them.

Parameters are written ``:name``. A list is passed as an array, and several values for each of
several rows as arrays of equal length, which ``unnest`` turns into rows: so a statement is the same
text, and one round trip, however many rows it writes.

``tests/storage/test_sql.py`` runs every statement on tables that the pinned Optuna has made, and
compares the tables, columns and enumerated values that they name with Optuna's models.
"""
