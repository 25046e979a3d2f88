"""Build settings that pyproject.toml cannot express: cffi C kernels, and an abi3 wheel tag."""

import os
from concurrent.futures import ThreadPoolExecutor

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class ParallelBuild(build_ext):
    """Compiles the C sources of an extension at the same time, one process per core."""

    def build_extension(self, ext: Extension) -> None:
        def compiled(source: str) -> str:
            (made,) = self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=ext.include_dirs,
                extra_postargs=ext.extra_compile_args,
                depends=ext.depends,
            )
            return made

        # The first source is the one that cffi writes; the base class compiles it and links all.
        first, *others = ext.sources
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = [*ext.extra_objects, *pool.map(compiled, others)]
        ext.sources = [first]
        super().build_extension(ext)


setup(
    cffi_modules=["rlmem/kernels/build.py:installed"],
    cmdclass={"build_ext": ParallelBuild},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
