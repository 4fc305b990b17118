"""A watcher as those are that poll: looks for requests every half second. For comparison.

    polling_watcher.py REQUESTS RESPONSES

Does less than ours: touches no drive, forces nothing to the disk, keeps no audit; each request succeeds at once.
"""

import json
import os
import sys
import time

POLL_S = 0.5


def serve(requests: str, responses: str) -> None:
    """Answer what there is."""
    for name in os.listdir(requests):
        if not name.endswith(".json"):
            continue
        with open(os.path.join(requests, name)) as file:
            request = json.load(file)
        path = os.path.join(responses, name)
        with open(f"{path}.tmp", "w") as file:
            json.dump({**request, "success": True}, file)
        os.rename(f"{path}.tmp", path)
        os.unlink(os.path.join(requests, name))


if __name__ == "__main__":
    while True:
        serve(*sys.argv[1:])
        time.sleep(POLL_S)
