"""The daemon that serves request files with response files."""
