"""Portable models: a trained network with all that is needed elsewhere, as one file or a bioimage.io package."""

from incasem_like.models.bioimageio import is_package, read_package, write_package
from incasem_like.models.exporting import Credits, portable_model
from incasem_like.models.portable import PortableModel, is_portable, read_portable, write_portable

__all__ = [
    "Credits",
    "PortableModel",
    "is_package",
    "is_portable",
    "portable_model",
    "read_package",
    "read_portable",
    "write_package",
    "write_portable",
]
