"""Where the time of a fence went: put together from a response and the logs beside it, as data and as a picture."""
