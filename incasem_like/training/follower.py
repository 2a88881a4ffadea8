"""The part of a training that the processes have which do not lead it: their share of every update."""

from __future__ import annotations

import torch

from incasem_like.samples import make_loader
from incasem_like.training.optimization import Optimization, seeded_network
from incasem_like.training.processes import NO_MORE, Job, announce, following, share, world_size


def follow(rank: int) -> None:
    """Compute this process's share of a training until the leader ends it."""
    with following() as job:
        if job is not None:
            _follow(job, rank)


def _follow(job: Job, rank: int) -> None:
    config = job.config
    assert config.seed is not None
    if config.torch.num_threads is not None:
        torch.set_num_threads(config.torch.num_threads)
    optimization = Optimization(config, seeded_network(config.model, config.seed))
    start = share(None)
    if start is None:
        return
    optimization.load_state(start.state)
    precache, first = config.training.precache, start.iteration + 1
    batches = make_loader(
        job.samples,
        batch_size=config.training.batch_size,
        num_workers=precache.num_workers,
        prefetch=precache.cache_size,
        start=first,
        stop=config.training.iterations + 1,
        rank=rank,
        world_size=world_size(),
        parts=config.training.accumulate,
        pin_memory=optimization.device.type == "cuda",
    )
    with optimization.numerics():
        for iteration, batch in enumerate(batches, start=first):
            # Dropout differs from process to process, and is the same again after a resumption.
            torch.manual_seed(hash((config.seed, rank, iteration)))
            if optimization.follow(batch) == NO_MORE:
                return
    announce(NO_MORE)
