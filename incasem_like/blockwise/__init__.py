"""A task over blocks: the grid, the log of finished blocks, and the scheduler and workers that do what is left."""

from incasem_like.blockwise.call import BlockError, BlockSummary, FailedBlock
from incasem_like.blockwise.grid import BlockGrid, block_grid
from incasem_like.blockwise.job import Job, jobs_directory, list_jobs, read_job
from incasem_like.blockwise.runner import run_blockwise, try_blockwise
from incasem_like.blockwise.task import Block, BlockTask, WorkItem, WorkTask, create_or_resume_output

__all__ = [
    "Block",
    "BlockError",
    "BlockGrid",
    "BlockSummary",
    "BlockTask",
    "FailedBlock",
    "Job",
    "WorkItem",
    "WorkTask",
    "block_grid",
    "create_or_resume_output",
    "jobs_directory",
    "list_jobs",
    "read_job",
    "run_blockwise",
    "try_blockwise",
]
