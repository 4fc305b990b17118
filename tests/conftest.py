"""Settings for all tests: the laboratory's plugin, which runs `tests/lab/guest` inside a guest."""

import signal

pytest_plugins = ["tests.lab.plugin"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts something in the background has it ignore this signal, and so do its children: tests of
    # what an interrupt does need it, and so does whoever wants to end the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
