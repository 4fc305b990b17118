"""What an operator installs: packages, manual pages, completion."""
