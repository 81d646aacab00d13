"""The bench's findings as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from curves import at_equal_rate, bd_rate, bits_ratio, geometric_mean
from findings import MEASURES, PHI, Findings, Measure, similarity_decibel
from journal import number, row_of
from ours import Ours
from peers import Peer
from speed import middle
from stills import OurFormat

_STILL_LEAST = 0.5  # dB that two curves of a picture must share


def write_tables(found: Findings, path: Path) -> None:
    parts = (overview, speeds, stills, steadiness, details, holes)
    path.write_text("\n".join(line for part in parts for line in part(found)))


def overview(found: Findings) -> Iterator[str]:
    bases = " ".join(dict.fromkeys(codec.base for codec in found.ours))
    yield "## Against other codecs\n"
    yield (
        f"`python scripts/benchmarks/bench.py CLIPS --stills STILLS --out OUT --base {bases} --frames {found.frames} "
        f"--short {found.short}` on {', '.join(found.clips)}: their first {found.frames} frames with a short side of "
        f"at most {found.short} pixels ({', '.join(versions(found))}).\n"
    )
    yield (
        "BD-rate: how many more bits sdvideo needs for the same quality (plus is a loss, minus a win), the mean over "
        "the clips, in brackets on how many of them the two curves overlap; a dash where they never do. MS-SSIM in "
        "−10 log10(1 − x) dB. Bits are those of the video stream; of sdvideo, those of the whole file. Half: "
        "Lanczos down, coded, Lanczos up. Either size: whichever of the two is cheaper at each quality.\n"
    )
    for codec in found.ours:
        yield f"### {codec.title}\n"
        yield row_of("BD-rate against", *(measure.title for measure in MEASURES))
        yield "|---" * (1 + len(MEASURES)) + "|"
        for title, rival in found.rivals.items():
            yield row_of(title, *(mean_cell(found, codec, rival, measure) for measure in MEASURES))
        yield ""
    yield "Settings: " + "; ".join(f"{peer.title} `{ladder_options(peer)}`" for peer in found.peers if not peer.half)
    yield ""


def versions(found: Findings) -> list[str]:
    return list(dict.fromkeys(codec.version for codec in found.codecs))


def ladder_options(peer: Peer) -> str:
    return f"{' '.join(peer.options)} {peer.knob} {peer.ladder[0]}..{peer.ladder[-1]}"


def clip_rate(found: Findings, clip: str, codec: Ours, rival: list[Peer], measure: Measure) -> float | None:
    curves = [found.curve(clip, one, measure) for one in (codec, *rival)]
    return bd_rate(*curves, least=measure.least)


def mean_cell(found: Findings, codec: Ours, rival: list[Peer], measure: Measure) -> str:
    rates = [clip_rate(found, clip, codec, rival, measure) for clip in found.clips]
    return mean_of(rates, "+.0%")


def mean_of(values: list[float | None], form: str) -> str:
    """Their mean and how many there are; a dash and 0 for none."""
    known = [value for value in values if value is not None]
    return f"{number(statistics.fmean(known) if known else None, form)} ({len(known)}/{len(values)})"


def details(found: Findings) -> Iterator[str]:
    yield "## BD-rate clip by clip\n"
    for codec in found.defaults:
        for measure in MEASURES:
            yield f"### {codec.title}, at equal {measure.title}\n"
            rate = lambda clip, rival, c=codec, m=measure: clip_rate(found, clip, c, rival, m)  # noqa: E731
            yield from clip_table(found, rate)


def clip_table(found: Findings, rate: Callable[[str, list[Peer]], float | None]) -> Iterator[str]:
    yield row_of("clip", *found.rivals)
    yield "|---" * (1 + len(found.rivals)) + "|"
    for clip in found.clips:
        yield row_of(clip, *(number(rate(clip, rival), "+.0%") for rival in found.rivals.values()))
    means = (mean_of([rate(clip, rival) for clip in found.clips], "+.0%") for rival in found.rivals.values())
    yield row_of("mean", *means)
    yield ""


def steadiness(found: Findings) -> Iterator[str]:
    yield "## How much of the error flickers, at equal rate\n"
    yield (
        "φ of sdvideo / φ of the other codec, lower is steadier: means over the rates that both have; a dash where "
        "there are none. It is a share: of how large the error is at that rate it says nothing, MCF above does.\n"
    )
    for codec in found.defaults:
        yield f"### {codec.title}\n"
        yield row_of("clip", *(peer.title for peer in found.peers))
        yield "|---" * (1 + len(found.peers)) + "|"
        columns = [[phis(found, clip, codec, peer) for clip in found.clips] for peer in found.peers]
        for clip, pairs in zip(found.clips, zip(*columns)):
            yield row_of(clip, *map(pair_cell, pairs))
        yield row_of("mean", *map(mean_pair, columns))
        yield ""


def phis(found: Findings, clip: str, codec: Ours, peer: Peer) -> tuple[float, float] | None:
    return at_equal_rate(*(found.curve(clip, one, PHI) for one in (codec, peer)))


def pair_cell(pair: tuple[float, float] | None) -> str:
    return "–" if pair is None else f"{pair[0]:.2f} / {pair[1]:.2f}"


def mean_pair(pairs: list[tuple[float, float] | None]) -> str:
    known = [pair for pair in pairs if pair is not None]
    means = tuple(map(statistics.fmean, zip(*known))) if known else None
    return f"{pair_cell(means)} ({len(known)}/{len(pairs)})"


def speeds(found: Findings) -> Iterator[str]:
    clips = sorted({clip for clip, _ in found.runs})
    if not clips:
        return
    yield "## Speed and memory\n"
    yield (
        f"`--only speed`: {found.machine}, all of them used, nothing else running; medians of the runs on "
        f"{', '.join(clips)}, in the middle of each ladder. Frames per second with the start of the program, half size "
        "with its scaling; the most memory resident in one process.\n"
    )
    jobs = ("encode_fps", "decode_fps", "encode_mib", "decode_mib")
    yield row_of("codec", "at", "encode, fps", "decode, fps", "encode, MiB", "decode, MiB")
    yield "|---" * 6 + "|"
    for codec in found.codecs:
        runs = [run for clip in clips for run in found.runs.get((clip, codec.name), []) if "hole" not in run]
        if runs:
            at = f"{codec.knob if isinstance(codec, Peer) else '-q'} {middle(codec)}"
            cells = (number(statistics.median(run[job] for run in runs), ".3g") for job in jobs[:2])
            peaks = (number(max(run[job] for run in runs), ".0f") for job in jobs[2:])
            yield row_of(codec.title, at, *cells, *peaks)
    yield ""


def stills(found: Findings) -> Iterator[str]:
    ours = [kind for kind in found.formats if isinstance(kind, OurFormat)]
    others = [kind for kind in found.formats if not isinstance(kind, OurFormat)]
    if not found.pictures or not ours:
        return
    yield "## Key frames and stills\n"
    yield (
        "Bits of an sdvideo of one frame, preset balanced, as a share of another format's at equal PSNR, "
        "(6 Y + U + V) / 8, and at equal MS-SSIM, whole files both (below 100 % is a win): the first frame of each "
        f"clip, and {len(found.pictures.keys() - found.clips.keys())} stills. Means are geometric. "
        f"{'; '.join(f'{kind.title}: {kind.version}' for kind in others)}.\n"
    )
    for kind in ours:
        heads = [f"{other.title}, {by}" for other in others for by in ("PSNR", "MS-SSIM")]
        yield row_of(kind.title, *heads)
        yield "|---" * (1 + len(heads)) + "|"
        shares: list[list[float | None]] = []
        for picture, rows in found.pictures.items():
            shares.append([
                still_share(rows.get(kind.name, []), rows.get(other.name, []), by)
                for other in others for by in ("yuv", "ms_ssim")
            ])  # fmt: skip
            yield row_of(picture, *(number(share, ".0%") for share in shares[-1]))
        yield row_of("mean", *(geometric_cell(list(column)) for column in zip(*shares)))
        rows = [row for picture in found.pictures.values() for row in picture.get(kind.name, [])]
        if rows:
            beside = statistics.fmean((row["bits"] - row["data_bits"]) / 8 for row in rows)
            yield f"\nOf each such file {beside:.0f} bytes are not picture: header, index and checksums.\n"


def still_share(ours: list[dict], theirs: list[dict], by: str) -> float | None:
    scale = similarity_decibel if by == "ms_ssim" else float
    curves = [[(row["bits"], scale(row[by])) for row in rows] for rows in (ours, theirs)]
    return bits_ratio(*curves, least=_STILL_LEAST)


def geometric_cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{number(geometric_mean(known), '.0%')} ({len(known)}/{len(values)})"


def holes(found: Findings) -> Iterator[str]:
    lines = found.holes()
    if lines:
        yield "## Points that could not be measured\n"
        yield from (f"* {line}" for line in lines)
        yield ""
