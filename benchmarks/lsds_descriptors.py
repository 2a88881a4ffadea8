"""The peer of bench_descriptors.py, run in an environment that has lsds: descriptors of a stored block, timed."""

import json
import sys
import time

import numpy as np
from lsd.train import local_shape_descriptor


def main() -> None:
    source, target, options = sys.argv[1:]
    instances = np.load(source)
    before, began = time.process_time(), time.perf_counter()
    described = local_shape_descriptor.get_local_shape_descriptors(instances, **json.loads(options))
    measured = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - before}
    np.save(target, described)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
