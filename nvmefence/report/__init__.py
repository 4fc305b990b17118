"""One page for people: the fleet, the history, and where the time of each fence went."""
