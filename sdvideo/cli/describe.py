"""Files and reports in words, for a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .console import clock, counted

if TYPE_CHECKING:  # for info needs no torch
    from sdvideo.container import Reader
    from sdvideo.reporting.report import Report


def facts_of(reader: Reader) -> dict[str, Any]:
    """What is known about an .sdv file, as JSON values."""
    header, groups = reader.header, reader.groups
    stream = header.info
    video = sum(entry.end - entry.offset for entry in groups)
    seconds = float((groups[-1].end_pts - groups[0].start_pts) * stream.time_base) if groups else 0.0
    return {
        "path": reader.path,
        "bytes": os.path.getsize(reader.path),
        "complete": reader.complete,
        "width": stream.width,
        "height": stream.height,
        "frames_per_second": stream.rate and round(float(stream.rate), 6),
        "frames": reader.frame_count,
        "seconds": round(seconds, 6),
        "groups": len(groups),
        "video_bytes": video,
        "kbit_per_second": round(video * 8 / seconds / 1000, 3) if seconds else None,
        "model": asdict(header.model),
        "base": header.base,
        "coder": header.coder,
        "look": header.look,
        "settings": header.settings,
        "tracks": [asdict(track) for track in stream.tracks],
        "chapters": len(stream.chapters),
        "colour": asdict(stream.colour) | {"icc_bytes": len(stream.icc)},
        "sample_aspect_ratio": str(stream.sar),
        "rotation": stream.rotation,
        "metadata": stream.metadata,
        "writer": header.writer,
    }


def describe_file(facts: dict[str, Any]) -> Iterator[str]:
    """The lines that `info` prints. facts: see facts_of."""
    rate, bits, model = facts["frames_per_second"], facts["kbit_per_second"], facts["model"]
    yield f"file      {facts['path']}, {facts['bytes']:,} bytes" + ("" if facts["complete"] else ", CUT SHORT")
    if facts["frames"] == 1 and not rate:
        yield f"picture   {_bits_per_pixel(facts['video_bytes'], facts['width'], facts['height'])}"
    else:
        yield f"video     {facts['width']}x{facts['height']}, {f'{rate:g} fps' if rate else 'unknown rate'}"
        groups = counted(facts["groups"], "group")
        yield f"length    {counted(facts['frames'], 'frame')}, {clock(facts['seconds'])}, {groups}"
        yield f"bit rate  {f'{bits:.1f} kbit/s' if bits else 'unknown'} ({facts['video_bytes']:,} bytes of video)"
    if icc := facts["colour"]["icc_bytes"]:
        yield f"colour    an ICC profile of {icc:,} bytes"
    yield f"model     {' '.join((model['name'], model['revision'])).strip()}, sha256 {model['sha256'][:12]}"
    if look := facts["look"]:
        yield f"look      {look:g}: 0 is faithful, 1 is natural"
    for track in facts["tracks"]:
        yield f"track     {' '.join((track['kind'], track['codec'], track['language'])).strip()}"
    settings = ", ".join(f"{name} {value}" for name, value in facts["settings"].items())
    yield f"made by   {facts['writer']}" + (f" with {settings}" if settings else "")


def describe_report(result: Report) -> Iterator[str]:
    """The lines that `report` prints."""
    summary = result.summary
    if summary["frames"] == 1:
        size = result.info["distorted"]
        yield f"picture   {_bits_per_pixel(summary['bytes'], size['width'], size['height'])}"
    else:
        yield f"frames    {summary['frames']:,}, {summary['key_frames']:,} of them key frames"
        yield f"video     {summary['bytes']:,} bytes, {summary['kbit_per_second']:.1f} kbit/s"
    if summary["cuts"]:
        cuts = ", ".join(map(str, summary["cuts"]))
        yield f"cuts      before frame {cuts}: left out of the measures over time"
    yield f"{'':9} {'clip':>9} {'5 %':>9} {'median':>9} {'95 %':>9}"
    for measure in result.measures:
        found = summary[measure.name]
        values = ("-" if found[name] is None else f"{found[name]:.4g}" for name in ("clip", "p5", "p50", "p95"))
        better = {"higher": "higher is better", "lower": "lower is better", "one": "best at 1"}[measure.better]
        yield f"{measure.title:9} {' '.join(f'{value:>9}' for value in values)}  {measure.unit or ' ':11} {better}"
    if summary["kp"] is not None:
        yield f"{'KP':9} {summary['kp']:9.4g} {'':29}  {'':11} best at 1"
    for name, frames in summary["worst"].items() if summary["frames"] > 1 else ():
        title = next(measure.title for measure in result.measures if measure.name == name)
        yield f"worst     {title}: frame {', '.join(map(str, frames))}"


def _bits_per_pixel(size: int, width: int, height: int) -> str:
    """The size of a picture in words. size: bytes."""
    return f"{width}x{height}, {size:,} bytes, {8 * size / (width * height):.3f} bits per pixel"
