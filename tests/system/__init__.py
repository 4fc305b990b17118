"""Tests of whole programs: processes, files, pipes and terminals of this host."""
