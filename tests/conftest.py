"""Settings for all tests: the lab's plugin, which runs `tests/lab/guest` inside a guest; signals; hypothesis."""

import os
import signal

pytest_plugins = ["tests.lab.plugin"]

# A shell that starts something in the background has it ignore SIGINT and SIGQUIT, nohup SIGHUP, and so do their
# children: tests of what these do need them, and so does whoever wants to end the tests.
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

if "NVMEFENCE_LAB_GUEST" not in os.environ:  # nothing in a guest needs hypothesis, and its files come slowly there
    import hypothesis

    # On a busy machine any example may take long: what a test claims about time, it measures itself.
    hypothesis.settings.register_profile(
        "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("unhurried")
