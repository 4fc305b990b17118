"""Hostile files, hundreds of thousands of them: `python -m tests.fuzz` runs longer than the tests do."""
