"""A fence agent as those are that poll: writes a request, looks for the response every half second. For comparison.

Does less than ours: nothing is forced to the disk, no log is written, the response is believed as it is.
"""

import json
import os
import sys
import time
import uuid

POLL_S = 0.5


def main() -> int:
    """Ask for one fence, by the options on standard input."""
    options = dict(line.strip().split("=", 1) for line in sys.stdin if "=" in line)
    request_id = str(uuid.uuid4())
    request = {"request_id": request_id, "action": options["action"], "target_node": options["port"]}
    path = os.path.join(options["request_dir"], f"{request_id}.json")
    with open(f"{path}.tmp", "w") as file:
        json.dump(request, file)
    os.rename(f"{path}.tmp", path)
    until = time.monotonic() + float(options["fence_timeout"])
    response = os.path.join(options["response_dir"], f"{request_id}.json")
    while not os.path.exists(response):
        if time.monotonic() > until:
            return 1
        time.sleep(POLL_S)
    with open(response) as file:
        answer = json.load(file)
    return 0 if answer["success"] is True and answer["request_id"] == request_id else 1


if __name__ == "__main__":
    sys.exit(main())
