"""Training of networks that read predictions: on random objects and what a first network would predict of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from incasem_like.config.kinds import Count, Fraction
from incasem_like.config.section import Section
from incasem_like.config.target_sections import Targets


class SyntheticSection(Section):
    """Training on random objects instead of data; null instead of the section trains on `training.data`.

    The network's input is computed from random objects with faults, its targets from those without.
    """

    objects: Literal["A", "B", "C", "Z", "tubes", "random", "mixed"] = "mixed"
    """`A`: dilated and grown points; `B`: basins of noise; `C`: what is nearest to random points; `Z`: one of these;
    `tubes`: as A, fewer and of more shapes, with holes; `random`: as B, larger, with holes; `mixed`: one of the last
    two."""
    input: Targets
    """What the network reads: a list of targets, as `targets`; raw augmentations change its channels."""
    fault_tries: Count = Field(5, description="How often each fault is tried in a sample, in one or two sections.")
    split: Fraction = Field(0.1, description="Probability of each try that an object is split.")
    merge: Fraction = Field(0.1, description="Probability of each try that two neighbours are merged.")
    artefact: Fraction = Field(0.1, description="Probability of each try that an artefact covers objects.")
