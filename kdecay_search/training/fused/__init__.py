"""Several runs of one architecture, trained together as one network."""
