"""The packages; everything else stands in setup.cfg, which can find packages or place them, but not both."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["welfare_jax", "welfare_jax.*"]), "welfare_jax.configs"],
    package_dir={"welfare_jax.configs": "configs"},  # so that an installed package can take configs by name
)
