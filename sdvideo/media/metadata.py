"""Metadata of a video: the keys of its file, and those of its video stream under names of their own.

metadata_of      of a file that is read -> the keys that an .sdv keeps
apply_metadata   those keys -> what a written file says, of itself and of its video stream
"""

from __future__ import annotations

from collections.abc import Mapping

import av
from av.stream import Disposition

# Keys that describe the file, not the video in it.
_OF_THE_FILE = frozenset(("major_brand", "minor_version", "compatible_brands", "encoder", "duration"))
_OF_THE_STREAM = ("language", "title")
_STREAM = "video."  # before the keys of the stream
_UNCHOSEN = f"{_STREAM}default"  # "0": players need not choose the video by themselves
# The keys for which MP4 has boxes of its own. All others need a list of free keys, which takes the place of the boxes.
_OF_MP4 = frozenset(
    (
        "album", "album_artist", "artist", "comment", "compilation", "composer", "copyright", "creation_time", "date",
        "description", "disc", "episode_id", "episode_sort", "gapless_playback", "genre", "grouping", "hd_video",
        "keywords", "lyrics", "media_type", "network", "season_number", "show", "synopsis", "timecode", "title",
        "track",
    )
)  # fmt: skip


def metadata_of(file: Mapping[str, str], video: av.VideoStream) -> dict[str, str]:
    """What is kept of the metadata of a file and of its video stream; none of it is empty."""
    said = {key: value for key, value in file.items() if key.lower() not in _OF_THE_FILE and value}
    if timecode := video.metadata.get("timecode"):
        said["timecode"] = timecode
    for key in _OF_THE_STREAM:
        value = video.metadata.get(key)
        if value and (key, value) != ("language", "und"):
            said[_STREAM + key] = value
    if "matroska" in video.container.format.name and not video.disposition & Disposition.default:
        said[_UNCHOSEN] = "0"
    return said


def apply_metadata(said: Mapping[str, str], video: av.VideoStream) -> dict[str, str]:
    """Set what concerns the video stream of a file that is written; returns what concerns the file."""
    for key in _OF_THE_STREAM:
        if _STREAM + key in said:
            video.metadata[key] = said[_STREAM + key]
    video.disposition = Disposition(0) if said.get(_UNCHOSEN) == "0" else Disposition.default
    return {key: value for key, value in said.items() if not key.startswith(_STREAM)}


def has_free_keys(said: Mapping[str, str]) -> bool:
    """Whether there are keys for which MP4 has no boxes."""
    return any(key.lower() not in _OF_MP4 and not key.startswith(_STREAM) for key in said)
