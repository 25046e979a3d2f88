"""Build settings that pyproject.toml cannot express: cffi C kernels, and an abi3 wheel tag."""

from setuptools import setup

setup(
    cffi_modules=["rlmem/kernels/build.py:installed"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
