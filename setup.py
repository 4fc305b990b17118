"""What pyproject.toml cannot say: that an extension module is built by cffi, and for which interpreters it is."""

from setuptools import setup

setup(
    cffi_modules=["csrc/build_queue.py:ffibuilder"],
    # The module keeps to the stable interface (_queue.abi3.so): one wheel for all versions of the interpreter.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
