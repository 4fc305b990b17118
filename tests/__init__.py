"""The tests. A package so that `python -m tests.lab` runs from the repository root."""
