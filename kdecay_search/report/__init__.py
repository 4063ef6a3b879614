"""Seeing a study: its state at one moment, and that state as JSON or text."""
