"""Measures a fence against the bare minimum of commands and against nvme-cli, in the laboratory."""
