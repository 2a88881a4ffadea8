"""The examples in the docstrings of the targets."""

import doctest
import importlib
import pkgutil

import pytest

from incasem_like import targets

MODULES = [module.name for module in pkgutil.iter_modules(targets.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_show(name):
    # By its full name: the package re-exports a function under the name of its module.
    module = importlib.import_module(f"incasem_like.targets.{name}")
    assert doctest.testmod(module).failed == 0
