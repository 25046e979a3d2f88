"""What pyproject.toml cannot say: the C kernels, bound by cffi, and the tag of a stable wheel."""

from setuptools import setup

setup(
    cffi_modules=["rlmem/kernels/build.py:ffi"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
