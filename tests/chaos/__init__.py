"""Faults on purpose, clients that write down what they saw, and a checker (`python -m tests.chaos`)."""
