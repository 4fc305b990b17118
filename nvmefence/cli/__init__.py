"""The command line: text and JSON in, text, JSON and exit codes out."""
