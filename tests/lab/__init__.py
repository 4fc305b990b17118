"""The laboratory: an emulated Rabbit (QEMU) under a real Linux kernel, on any Debian machine with root.

`python -m tests.lab --help` for the commands, `README.md` beside this file for how to add a test.
"""
