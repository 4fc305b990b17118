"""The one thing pyproject.toml cannot say: that an extension module is built by cffi."""

from setuptools import setup

setup(cffi_modules=["csrc/build_queue.py:ffibuilder"])
