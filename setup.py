"""Configs and launchers stand beside the package in a checkout, and inside it in a wheel."""

from setuptools import find_packages, setup

BESIDE = ("experiments", "launch")

setup(
    packages=[*find_packages(include=["mmv_jax*"]), *(f"mmv_jax.{name}" for name in BESIDE)],
    package_dir={f"mmv_jax.{name}": name for name in BESIDE},
)
