"""Reads the side data of decoded frames, such as the display matrix, without PyAV's own reader.

`frame.side_data` of PyAV 17 and 18 must not be touched. It raises ValueError if the frame has any kind of side data
that PyAV cannot name, such as EXIF data. And where side data has metadata, as the ICC profile of a PNG does, PyAV frees
the metadata together with its own object; FFmpeg frees it again with the frame, and the process ends with a
segmentation fault. Here a filter of FFmpeg first deletes all kinds but the wanted one from a copy of the frame.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
from av.filter import Graph
from av.sidedata.sidedata import Type

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideDataContainer

# More kinds than FFmpeg has (35 in version 8); it ignores the numbers above.
_KINDS = 64
# The copy has four pixels at most: the filter that deletes would copy all of them.
_CROP = r"min(iw\,2):min(ih\,2):0:0:exact=1"


class SideDataReader:
    """Reads one kind of side data from frame after frame. kind: a name of `av.sidedata.sidedata.Type`.

    kind must be one that FFmpeg stores without metadata; "ICC_PROFILE" is not.
    """

    def __init__(self, kind: str) -> None:
        self._kind: int = cast(int, Type[kind].value)
        self._graph: Graph | None = None
        self._form: tuple[int, int, str] | None = None

    def read(self, frame: av.VideoFrame) -> bytes | None:
        """The frame's side data of this kind, or None. Raises av.FFmpegError for pixel formats that no filter reads."""
        form = frame.width, frame.height, frame.format.name
        if self._graph is None or form != self._form:
            self._graph, self._form = self._filters(*form[:2], frame.format), form
        self._graph.push(frame)
        side_data = cast("SideDataContainer", self._graph.pull().side_data)  # which PyAV types as a dictionary
        return bytes(side_data[0]) if len(side_data) else None

    def _filters(self, width: int, height: int, pixel_format: av.VideoFormat) -> Graph:
        graph = Graph()
        graph.link_nodes(
            graph.add_buffer(width=width, height=height, format=pixel_format, time_base=Fraction(1, 25)),
            graph.add("crop", _CROP),
            *(graph.add("sidedata", f"mode=delete:type={n}") for n in range(_KINDS) if n != self._kind),
            graph.add("buffersink"),
        ).configure()
        return graph
