"""The two directories that the fence agent and the watcher share, as the founding document names them."""

REQUEST_DIR = "/localdisk/gfs2-fencing/requests"
"""Directory where fence agents write fence request files."""

RESPONSE_DIR = "/localdisk/gfs2-fencing/responses"
"""Directory where the watcher writes fence response files."""
