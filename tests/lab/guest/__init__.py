"""Tests that run inside the laboratory's guest; the host boots it and reports each of them (see `plugin`)."""
