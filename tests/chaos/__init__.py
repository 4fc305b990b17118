"""Tries to make nvmefence lie, hang or lose something: `python -m tests.chaos`, or `make chaos`."""
