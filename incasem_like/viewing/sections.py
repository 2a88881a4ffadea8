"""Pictures of sections: grey values under labels, probabilities and masks, with a scale bar, as files or as movies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFont

from incasem_like.disk import write_whole
from incasem_like.errors import DataError, InputError
from incasem_like.viewing.layers import COLOURS, Layer
from incasem_like.viewing.scene import voxel_size_shown
from incasem_like.volumes import Roi, Volume

Colours = npt.NDArray[np.float64]
PICTURES = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG", ".pdf": "PDF"}
MOVIES = (".gif", ".mp4")
MOST_VOXELS = 2**27  # read for one picture of one layer
MOST_GIF_PIXELS = 2**28  # all frames of a GIF are in memory before it is written
TITLE = 22  # pixels above a panel
PALETTE = np.array([ImageColor.getrgb(colour) for colour in COLOURS]) / 255
SHADES = np.concatenate([PALETTE, PALETTE * 0.6 + 0.4, PALETTE * 0.65])  # of labels


@dataclass(frozen=True)
class SectionView:
    """How sections of some layers are drawn.

    Attributes:
        layers: The lowest first; the first one gives the grid of voxels and the part that is shown.
        axis: 0, 1, 2: the axis z, y, x that is perpendicular to the pictures.
        roi: The part to show, absolute voxels of the first layer; None for all.
        width: Largest width and height of a panel, pixels. Voxels are enlarged to squares by repeating them.
        opacity: Of labels and masks, 0 to 1.
        beside: One panel for the first layer, and one for each other above it; otherwise a single panel.
        scale_bar: Length in nm; 0 for none, None for about a fifth of the width.

    Example:
        >>> from incasem_like.viewing.opening import open_layer
        >>> from incasem_like.volumes import create_volume
        >>> raw = create_volume("vnc.zarr/raw", shape=(2, 64, 128), dtype="uint8", voxel_size=(50, 4, 4))
        >>> SectionView([open_layer(raw.address)], width=256).image(0).size
        (256, 128)
    """

    layers: Sequence[Layer]
    axis: int = 0
    roi: Roi | None = None
    width: int = 800
    opacity: float = 0.5
    beside: bool = False
    scale_bar: float | None = None

    @property
    def first(self) -> Volume:
        """The volume that gives the grid."""
        return self.layers[0].served.finest

    @property
    def box(self) -> Roi:
        """The part that is shown, absolute voxels.

        Raises:
            InputError: It is not inside the volume.
        """
        whole = self.first.roi
        if self.roi is not None and not whole.contains(self.roi):
            raise InputError(
                f"{self.roi} is not inside {self.first.address}, which covers {whole}: choose a part of it."
            )
        return self.roi or whole

    def image(self, number: int) -> Image.Image:
        """Return a section, RGB.

        Args:
            number: Absolute voxel along the axis.

        Raises:
            InputError: There is no such section, or it is too large to be read at once.
            DataError: A layer cannot be read, or is not a volume.
        """
        box, axis = self.box, self.axis
        if not box.begin[axis] <= number < box.end[axis]:
            raise InputError(
                f"Section {number} does not exist: choose from {box.begin[axis]} to {box.end[axis] - 1}, by --section."
            )
        size = voxel_size_shown(self.first)
        rows, columns = (other for other in range(3) if other != axis)
        extent = [box.shape[other] * size[other] for other in range(3)]
        pixel = max(extent[rows], extent[columns]) / self.width  # nm
        centres = [
            (box.begin[other] + 0.5) * size[other] + np.arange(max(1, round(extent[other] / pixel))) * pixel
            + (pixel - size[other]) / 2
            for other in range(3)
        ]  # fmt: skip
        centres[axis] = np.array([(number + 0.5) * size[axis]])
        below = self._painted(self.layers[0], centres, np.zeros((len(centres[rows]), len(centres[columns]), 3)), 0)
        panels = [(self.layers[0].name, below)]
        for turn, layer in enumerate(self.layers[1:]):
            panels.append((layer.name, self._painted(layer, centres, below if self.beside else panels[-1][1], turn)))
        if not self.beside:
            return _labelled(panels[-1][1], self._bar(pixel, len(centres[columns])))
        pictures = [_labelled(colours, self._bar(pixel, len(centres[columns])), name) for name, colours in panels]
        joined = Image.new("RGB", (sum(one.width + 4 for one in pictures) - 4, pictures[0].height), "white")
        for turn, picture in enumerate(pictures):
            joined.paste(picture, (turn * (picture.width + 4), 0))
        return joined

    def _painted(self, layer: Layer, centres: Sequence[npt.NDArray[Any]], below: Colours, turn: int) -> Colours:
        """Return the colours below, 0 to 1, (rows, columns, 3), with a layer painted over them."""
        values, inside = _sampled(layer.served.finest, centres, self.axis)
        if layer.meaning == "labels":
            colours, share = label_colours(values), self.opacity * (values != 0)
        else:
            low, high = layer.value_range()
            scaled = np.clip((values.astype(float) - low) / ((high - low) or 1), 0, 1)
            if layer.meaning == "channels":
                colours = np.zeros((*scaled.shape[1:], 3))
                colours[..., : min(3, len(scaled))] = np.moveaxis(scaled[:3], 0, -1)
                share = np.full(colours.shape[:2], 1.0 if layer is self.layers[0] else self.opacity)
            elif layer.meaning == "raw" or layer is self.layers[0]:
                colours, share = np.repeat(scaled[..., None], 3, -1), np.ones(scaled.shape)
            else:
                colours, share = np.broadcast_to(PALETTE[(turn + 2) % len(PALETTE)], (*scaled.shape, 3)), scaled
                share = self.opacity * (scaled > 0) if layer.meaning == "mask" else scaled
        visible = (share * inside)[..., None]
        return np.asarray(below * (1 - visible) + colours * visible)

    def _bar(self, pixel: float, columns: int) -> tuple[float, float] | None:
        """Return the length of the scale bar in pixels and in nm."""
        if self.scale_bar == 0 or self.first.voxel_size is None:
            return None
        length = self.scale_bar or round_length(pixel * columns / 5)
        if length > pixel * columns:
            raise InputError(
                f"A scale bar of {length:g} nm is longer than the picture, {pixel * columns:g} nm: shorten it."
            )
        return length / pixel, length


def label_colours(ids: npt.NDArray[Any]) -> Colours:
    """Return a colour for each id, 0 to 1, with one more axis: 27 that are told apart with any colour vision.

    An id has the same colour in every picture.
    """
    scattered = (ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return np.asarray(SHADES[(scattered % np.uint64(len(SHADES))).astype(np.intp)])


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG, TIFF, JPEG or PDF, by the suffix of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: picture.save(file, PICTURES[path.suffix.lower()], dpi=(300, 300)))


def write_movie(view: SectionView, numbers: Sequence[int], path: Path, frames_per_second: float) -> None:
    """Write sections as the frames of a GIF or MP4, by the suffix of the file.

    Raises:
        InputError: The GIF would be too large, or the MP4 needs a package that is missing.
        DataError: As ``SectionView.image``.
    """
    first = view.image(numbers[0])
    frames = (view.image(number) for number in numbers[1:])
    if path.suffix.lower() == ".mp4":
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: _write_mp4(file, first, frames, frames_per_second))
        return
    if len(numbers) * first.width * first.height > MOST_GIF_PIXELS:
        raise InputError(
            f"{len(numbers)} frames of {first.width} x {first.height} pixels are too many for a GIF: give --step, a "
            "smaller --width, or write an .mp4."
        )
    milliseconds = round(1000 / frames_per_second)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(
        path,
        lambda file: first.save(file, "GIF", save_all=True, append_images=frames, duration=milliseconds, loop=0),
    )


def _write_mp4(file: IO[bytes], first: Image.Image, rest: Iterator[Image.Image], frames_per_second: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError:
        raise InputError("Movies as MP4 need one more package: pip install 'incasem-like[movies]'.") from None

    size = (first.width + first.width % 2, first.height + first.height % 2)  # H.264 takes even sizes
    writer = imageio_ffmpeg.write_frames(
        file.name, size, fps=frames_per_second, quality=8, macro_block_size=2, output_params=["-f", "mp4"]
    )
    writer.send(None)
    try:
        for frame in (first, *rest):
            canvas = Image.new("RGB", size)
            canvas.paste(frame)
            writer.send(np.ascontiguousarray(canvas))
    finally:
        writer.close()


def _sampled(
    volume: Volume, centres: Sequence[npt.NDArray[Any]], axis: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return the voxels at some positions along z, y, x in nm, without ``axis``, and whether they are in the volume."""
    if not volume.axes.endswith("zyx") or len(volume.axes) > 4:
        raise DataError(f"{volume.address} has the axes {volume.axes}, but pictures need z, y, x.")
    size = voxel_size_shown(volume)
    indices = [
        np.floor((at - offset) / nm + 1e-6).astype(int)
        for at, offset, nm in zip(centres, volume.offset, size, strict=True)
    ]
    inside = [(index >= 0) & (index < count) for index, count in zip(indices, volume.spatial_shape, strict=True)]
    clipped = [index.clip(0, count - 1) for index, count in zip(indices, volume.spatial_shape, strict=True)]
    begin = [int(index.min()) for index in clipped]
    shape = [int(index.max()) - first + 1 for index, first in zip(clipped, begin, strict=True)]
    if math.prod(shape) > MOST_VOXELS:
        raise InputError(
            f"A section of {volume.address} has {math.prod(shape):.3g} voxels: choose a part with --offset and "
            "--shape, or name a coarser level of the volume."
        )
    found = volume.read(Roi([at + first for at, first in zip(volume.roi.begin, begin, strict=True)], shape))
    z, y, x = (index - first for index, first in zip(clipped, begin, strict=True))
    picked = found[..., z[:, None, None], y[:, None], x]
    there = inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return picked.squeeze(axis - 3), there.squeeze(axis)


def round_length(longest: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above a length."""
    power = 10.0 ** math.floor(math.log10(longest))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= longest)


def draw_scale_bar(picture: Image.Image, length: float, nanometres: float) -> None:
    """Draw a scale bar of that length in pixels into the lower right corner, with its length in nm or µm."""
    text = f"{nanometres / 1000:g} µm" if nanometres >= 1000 else f"{nanometres:g} nm"
    draw, margin, height = ImageDraw.Draw(picture), max(4, picture.width // 50), max(3, picture.width // 130)
    right, bottom = picture.width - margin, picture.height - margin
    draw.rectangle((right - round(length), bottom - height, right - 1, bottom), fill="white", outline="black")
    draw.text(
        (right - length / 2, bottom - height - 2), text, fill="white", anchor="mb", stroke_width=2,
        stroke_fill="black", font=ImageFont.load_default(max(10, picture.width // 36)),
    )  # fmt: skip


def _labelled(colours: Colours, bar: tuple[float, float] | None, title: str | None = None) -> Image.Image:
    """Return a picture of colours from 0 to 1, with a scale bar in the lower right corner, and a title above."""
    picture = Image.fromarray(np.rint(colours * 255).astype(np.uint8))
    if bar is not None:
        draw_scale_bar(picture, *bar)
    if title is None:
        return picture
    framed = Image.new("RGB", (picture.width, picture.height + TITLE), "white")
    framed.paste(picture, (0, TITLE))
    ImageDraw.Draw(framed).text(
        (picture.width / 2, 3), title, fill="black", anchor="ma", font=ImageFont.load_default(14)
    )
    return framed
