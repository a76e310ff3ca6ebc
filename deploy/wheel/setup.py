"""Joined with client/python/pyproject.toml by deploy/wheel.sh: what makes the wheel one of this machine's kind.

It holds programs, but no extension of Python's: any Python 3 of this kind of machine can use it.
"""

from setuptools import Distribution, setup
from wheel.bdist_wheel import bdist_wheel


class WithPrograms(Distribution):
    def has_ext_modules(self) -> bool:
        return True


class AnyPython(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(distclass=WithPrograms, cmdclass={"bdist_wheel": AnyPython}, scripts=["scripts/keepstep", "scripts/keepstepd"])
