"""Benchmarks, one command each; README.md describes them. They are not part of the package."""
