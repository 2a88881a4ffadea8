"""Arrays in world units: open, create, read, write; Zarr v2 and v3, N5, precomputed; local, S3, GCS, HTTP.

TensorStore is loaded when the first array is opened, not by importing this package: it does not survive a fork.
"""

from incasem_like.volumes.address import Address, parse_address
from incasem_like.volumes.collisions import check_outputs
from incasem_like.volumes.creating import create_volume
from incasem_like.volumes.geometry import Coordinate, NanometreRoi, Roi, describe_roi, nanometres, voxel_position
from incasem_like.volumes.opening import dataset_exists, list_datasets, open_volume
from incasem_like.volumes.provenance import make_provenance
from incasem_like.volumes.volume import Volume

__all__ = [
    "Address",
    "Coordinate",
    "NanometreRoi",
    "Roi",
    "Volume",
    "check_outputs",
    "create_volume",
    "dataset_exists",
    "describe_roi",
    "list_datasets",
    "make_provenance",
    "nanometres",
    "open_volume",
    "parse_address",
    "voxel_position",
]
