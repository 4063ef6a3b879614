"""Everything that imports torch. The built-in image task is ``training.images.train``.

Importing this package alone imports no torch, so that the driver side can name it.
"""
