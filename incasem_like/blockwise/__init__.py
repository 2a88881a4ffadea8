"""A task over blocks: the grid, the log of finished blocks, and the engine that runs what is left."""

from incasem_like.blockwise.grid import BlockGrid, block_grid
from incasem_like.blockwise.output import create_or_resume_output
from incasem_like.blockwise.runner import BlockSummary, run_blockwise
from incasem_like.blockwise.task import Block, BlockTask

__all__ = [
    "Block",
    "BlockGrid",
    "BlockSummary",
    "BlockTask",
    "block_grid",
    "create_or_resume_output",
    "run_blockwise",
]
