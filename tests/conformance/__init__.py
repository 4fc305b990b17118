"""What must hold of every `Transport` and the controllers behind it, written once.

`bench` says what is on the bench, `checks` is the list of coroutines. The emulation runs them on this host (see
`tests/unit/test_conformance_emulated.py`), so that the emulation is held to what real controllers do.
"""
