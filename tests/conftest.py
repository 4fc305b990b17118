"""Settings for all tests: the laboratory's plugin, which runs `tests/lab/guest` inside a guest."""

pytest_plugins = ["tests.lab.plugin"]
