"""Generators of synthetic volumes with exact ground truth."""

from incasem_like.synthetic.optic_lobe import SyntheticVolume, generate_optic_lobe
from incasem_like.synthetic.parameters import OpticLobeParameters

__all__ = ["OpticLobeParameters", "SyntheticVolume", "generate_optic_lobe"]
