"""Loaded by a worker, the scheduler and Flower when they start: each reports the process in whose place it is."""

from shop import replacements

replacements.report()
