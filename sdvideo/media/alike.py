"""Makes all pictures of a video like its first one: an .sdv has one size, range and matrix.

Adaptive streams, calls and joined files change them in mid-stream.
"""

from __future__ import annotations

import av

from sdvideo.frames import Colour, Picture

from . import colour
from .losses import lost


class AlikePictures:
    """Converts decoded frames to 8-bit 4:2:0 pictures of the first frame's size and colours; not yet turned upright."""

    def __init__(self, first: av.VideoFrame) -> None:
        self._size = first.width, first.height
        self._colour = colour.read_colour(first)
        self._form = first.format.name
        self._told = set(colour.losses(first))

    def picture(self, frame: av.VideoFrame) -> Picture:
        """The frame as a picture. What changes is named once. Raises av.FFmpegError for unknown pixel formats."""
        if frame.format.name != self._form:
            self._form = frame.format.name
            for line in colour.losses(frame):
                self._tell(line)
        if (frame.width, frame.height) != self._size:
            width, height = self._size
            self._tell(
                f"the picture size changes in mid-stream: all pictures are scaled to the first one, {width}x{height}"
            )
            frame = colour.scaled(frame, width, height)
        return self._recoloured(colour.to_picture(frame), colour.read_colour(frame))

    def _recoloured(self, picture: Picture, given: Colour) -> Picture:
        if colour.means_the_same(given, self._colour):
            return picture
        self._tell("the range or matrix of the colours changes in mid-stream: all become those of the first picture")
        return colour.converted(picture, given, self._colour)

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            lost("%s", line)
