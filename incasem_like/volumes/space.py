"""Where an array lies in the world: its own metadata first, then its group's OME-NGFF multiscales."""

from __future__ import annotations

from incasem_like.volumes import ome
from incasem_like.volumes.address import Address, join
from incasem_like.volumes.formats.base import ArrayFormat, Document, Space
from incasem_like.volumes.store import Documents


def find_space(address: Address, format_: ArrayFormat, documents: dict[str, Document]) -> Space:
    """Read voxel size, offset and axes of an array.

    Args:
        address: Of the array.
        format_: Its format.
        documents: Its documents by name.

    Raises:
        DataError: The group's document is damaged or out of reach.
    """
    array = documents[format_.array_file]
    rank = len(array.get("shape") or array.get("dimensions") or "xyzc")
    own = format_.read_space(documents, rank)
    if not address.dataset or format_.name not in ome.VERSIONS or (own.voxel_size and own.offset and own.axes):
        return own
    group, _, name = address.dataset.rpartition("/")
    document = Documents(address).read(join(group, format_.attributes_file))
    image = ome.read_image(format_.attributes_of(document), name) if document else None
    if image is None:
        return own
    return Space(own.voxel_size or image.voxel_size, own.offset or image.offset, own.axes or image.axes)
