"""The documentation is followed to the letter: every command in it is run, every fact that can be checked is."""
