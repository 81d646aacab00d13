"""The command line: parses, calls, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 usage, 3 damaged or unsupported file, 4 output exists, 130 interrupted,
143 terminated.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sdvideo import __version__
from sdvideo.codecs import registry
from sdvideo.errors import OutputExists, SdvError, SettingError
from sdvideo.media.suffixes import CODED, PICTURES, VIDEOS
from sdvideo.runtime.malloc import use_one_heap
from sdvideo.runtime.output_files import is_folder, make_folder
from sdvideo.runtime.signals import ends_soon
from sdvideo.settings import (
    DEFAULT_MODEL,
    DEFAULT_QUALITY,
    DENOISE_STEPS,
    DEVICES,
    PRESETS,
    QUANTIZERS,
    EncodeSettings,
    parse_amount,
)

from .console import Progress, clock, put, put_json, say, set_up
from .inputs import check_places, gather, is_batch

log = logging.getLogger("sdvideo")

app = typer.Typer(
    help="A video codec that codes learned latents as deltas along the motion.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    # Threads that wait by spinning for long take the cores from other programs, and from the other threads of this
    # one; those that never spin are slow to start on small work. To be said before torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    use_one_heap()
    set_up()
    app(prog_name="sdvideo")


# --- errors -------------------------------------------------------------------------------------------------


@contextmanager
def _told(interrupted: str = "interrupted") -> Iterator[None]:
    """Errors of a command as one line on standard error and an exit code; tracebacks with SDVIDEO_DEBUG=1."""
    try:
        with ends_soon(interrupted):
            yield
    except (typer.Exit, SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if os.environ.get("SDVIDEO_DEBUG") == "1":
            raise
        _leave_output()
        if _is_closed_pipe(error):  # whoever read our output has seen enough
            raise typer.Exit(1) from None
        log.error("%s", " ".join(_words(error).split()))
        raise typer.Exit(_exit_code(error)) from None


def _leave_output() -> None:
    """Forget what standard output does not take: Python would try once more on its way out, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _words(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "not enough memory" in str(error):
        return "out of memory; a smaller video, --device cpu or a lighter model may fit"
    if isinstance(error, SdvError):
        return str(error)
    return f"{type(error).__name__}: {error} (SDVIDEO_DEBUG=1 shows where)"


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, SdvError) else 1


def _is_closed_pipe(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, BrokenPipeError):
        error = error.__cause__
    return error is not None


# --- options ------------------------------------------------------------------------------------------------


def _show_version(wanted: bool) -> None:
    if wanted:
        put(f"sdvideo {__version__}")
        raise typer.Exit


def _be_quiet(wanted: bool) -> None:
    if wanted:
        set_up(logging.ERROR)


def _be_verbose(wanted: bool) -> None:
    if wanted:
        set_up(logging.DEBUG)


Version = Annotated[bool, typer.Option("--version", callback=_show_version, help="Print the version and exit.")]
Quiet = Annotated[bool, typer.Option("--quiet", callback=_be_quiet, help="Show errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", callback=_be_verbose, help="Say more.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, one object per line.")]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR", help="The diffusers autoencoder of the .sdv: needed if it was a folder, not one of the Hub."
    ),
]
Device = Annotated[str, typer.Option(help=f"Where the model runs: {', '.join(DEVICES)}.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Write over the output if it exists.")]
No = Annotated[bool, typer.Option("-n", "--no", help="If the output exists, leave it and exit with 0.")]
File = Annotated[Path, typer.Argument(metavar="IN.sdv", help="An .sdv file.", show_default=False)]


# --- one input or many --------------------------------------------------------------------------------------

Done = tuple[str, dict]  # what became of an input: "OUT: in words", and as JSON values


def _sources(inputs: list[str], suffixes: frozenset[str], many: bool, output: str | None, suffix: str) -> list[str]:
    """The files to work on, when what can be refused at once has been."""
    sources = gather(inputs, suffixes)
    if output == "":
        raise SettingError("-o is empty; name a file or a folder")
    if many:
        check_places(sources, output, suffix)
    if output not in (None, "-") and is_folder(output):
        make_folder(output)
    return sources


def _each(
    command: str,
    task: str,
    sources: list[str],
    many: bool,
    work: Callable[[str, Progress], Done],
    skip: bool,
    json: bool,
) -> None:
    """Do the work on every source. Of many, those that fail are listed at the end, which is then one with exit code 1.

    skip: an output that exists is no failure.
    """
    failed = []
    for number, source in enumerate(sources, 1):
        try:
            with Progress(f"{task} {number}/{len(sources)} {Path(source).name}" if many else task) as progress:
                done, facts = work(source, progress)
        except Exception as error:
            if skip and isinstance(error, OutputExists):
                say(f"{source}: left out, its output exists")
                if json:
                    put_json("skipped", source=source)
                continue
            if _is_closed_pipe(error) or os.environ.get("SDVIDEO_DEBUG") == "1":
                raise
            why = " ".join(_words(error).split()).removeprefix(f"{source}: ")
            if json:
                put_json("failed", source=source, error=why, exit_code=_exit_code(error))
            if not many:
                raise
            failed.append(f"{source}: {why}")
            say(f"{failed[-1]}; going on")
            continue
        say(f"{source} -> {done}")
        if json:
            put_json(command, source=source, **facts)
    if failed:
        log.error("%d of %d failed:", len(failed), len(sources))
        for line in failed:
            log.error("%s", line)
        raise typer.Exit(1)


# --- commands -----------------------------------------------------------------------------------------------


@app.callback()
def _every(version: Version = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    pass


@app.command(epilog="Example: sdvideo encode clip.mp4    clip.mp4 -> clip.sdv")
@_told(interrupted="interrupted; the same command with --resume goes on from here")
def encode(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="IN...",
            help="Videos, pictures and animations, or folders of them; - is standard input.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="OUT.sdv|DIR/", help="By default the input's name with .sdv."),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option("-q", "--quality", metavar="0..100", help=f"Higher is better; {DEFAULT_QUALITY:g} if not given."),
    ] = None,
    bitrate: Annotated[
        str | None, typer.Option(metavar="BITS", help="Bits per second to aim at instead, such as 60k.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Size of the file to aim at instead, such as 2M.")
    ] = None,
    preset: Annotated[str, typer.Option(help=f"Time for bits: {', '.join(PRESETS)}.")] = "balanced",
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR",
            help="embedded, tiny (of Stable Diffusion's shape), or a diffusers autoencoder: a folder or a Hub id "
            "(owner/name@revision).",
        ),
    ] = DEFAULT_MODEL,
    base: Annotated[
        str | None,
        typer.Option(
            help=f"What pictures start from: {' or '.join(registry.names())}. av1 if not given, none with a --model of its own.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="1|2/3|1/2",
            help="Store pictures smaller, and enlarge them by a network when decoding. If not given, what suits the "
            "quality; 1 with a --model of its own.",
            show_default=False,
        ),
    ] = None,
    quantizer: Annotated[
        str,
        typer.Option(help=f"How latents of a --model of its own become integers: {', '.join(QUANTIZERS)}."),
    ] = "uniform",
    device: Device = "auto",
    keyint: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="The most frames between key frames; 161 if not given, fewer of large pictures, 64 with base none.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Groups of an AV1 base to prepare while one is coded: 0 takes least memory, more time. Same file.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted call of the same command stopped.")
    ] = False,
    yes: Yes = False,
    no: No = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Encode videos and pictures into .sdv files."""
    _exclude(yes, "-y", no, "-n")
    settings = EncodeSettings(
        quality=quality,
        bitrate=bitrate and parse_amount(bitrate),
        size=size and parse_amount(size),
        keyint=keyint,
        preset=preset,
        model=model,
        base=base,
        device=device,
        scale=scale,
        quantizer=quantizer,
        workers=workers,
    )

    def work(source: str, progress: Progress) -> Done:
        from sdvideo import encoder as encoding

        result = encoding.encode(source, output, overwrite=yes, resume=resume, progress=progress, **asdict(settings))
        done = f"{_counted(result.frames, 'frame')}, {result.bytes:,} bytes in {clock(result.seconds)}"
        return f"{result.path}: {done}", asdict(result) | {"path": str(result.path)}

    many = is_batch(inputs)
    sources = _sources(inputs, VIDEOS | PICTURES, many, output, ".sdv")
    # What was done before an interruption is there when the call goes on.
    _each("encode", "Encoding", sources, many, work, no or (resume and not yes), json)


@app.command(epilog="Example: sdvideo decode clip.sdv    clip.sdv -> clip.decoded.mp4")
@_told()
def decode(
    inputs: Annotated[
        list[str], typer.Argument(metavar="IN.sdv...", help=".sdv files, or folders of them.", show_default=False)
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT|DIR/",
            help=".mp4 .mkv .mov or .y4m, for one frame .png .jpg or .webp; - is standard output. By default IN with "
            ".decoded.mp4, or .decoded.png for one frame.",
        ),
    ] = None,
    preview: Annotated[
        bool,
        typer.Option("--preview", help="Copy the AV1 base as it is: at once, without the network that restores it."),
    ] = False,
    tolerant: Annotated[
        bool,
        typer.Option("--tolerant", help="Decode a damaged file: the last good picture stands in for lost ones."),
    ] = False,
    lossless: Annotated[bool, typer.Option("--lossless", help="Store every decoded sample as it is.")] = False,
    crf: Annotated[
        int | None, typer.Option(metavar="N", help="Quality of the H.264, 0 (best) to 51; 8 if not given.")
    ] = None,
    model: Model = None,
    denoise: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Clean the latents of a diffusers model by the last N of {DENOISE_STEPS} diffusion steps, say 3.",
        ),
    ] = None,
    denoiser: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="The pipeline whose U-Net does that, if not the one the model is from."),
    ] = None,
    device: Device = "auto",
    yes: Yes = False,
    no: No = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Decode .sdv files into videos, with their sound and subtitles, or one frame into a picture."""
    _exclude(yes, "-y", no, "-n")
    _exclude(lossless, "--lossless", crf is not None, "--crf")
    _exclude(json, "--json", output == "-", "-o -")
    _exclude(preview, "--preview", lossless or crf is not None, "--lossless or --crf")
    _exclude(preview, "--preview", output == "-", "-o -")
    _exclude(preview, "--preview", denoise is not None, "--denoise")
    _exclude(preview, "--preview", tolerant, "--tolerant")
    if denoiser is not None and denoise is None:
        raise SettingError("--denoiser does nothing without --denoise N")

    def work(source: str, progress: Progress) -> Done:
        from sdvideo import decoder as decoding

        options = {"overwrite": yes, "progress": progress}
        if preview:
            result = decoding.preview(source, output, **options)
        else:
            options |= {"lossless": lossless, "model": model, "device": device, "crf": crf}
            options |= {"tolerant": tolerant, "denoise": denoise or 0, "denoiser": denoiser}
            result = decoding.decode(source, output, **options)
        done = f"{_counted(result.frames, 'frame')} in {clock(result.seconds)}"
        return f"{result.path or 'standard output'}: {done}", asdict(result) | {"path": str(result.path)}

    many = is_batch(inputs)
    sources = _sources(inputs, CODED, many, output, ".preview.mp4" if preview else ".decoded.mp4")
    _each("decode", "Decoding", sources, many, work, no, json)


@app.command(epilog="Example: sdvideo report clip.mp4 clip.sdv --html clip.html")
@_told()
def report(
    reference: Annotated[str, typer.Argument(metavar="REF", help="The original video.", show_default=False)],
    distorted: Annotated[
        str,
        typer.Argument(metavar="DIST", help="What became of it: an .sdv or any video.", show_default=False),
    ],
    html: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write a page with curves, pictures and playback, to open in any browser."),
    ] = None,
    json: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write everything as JSON; - is standard output.")
    ] = None,
    csv: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a line per frame as CSV; - is standard output.")
    ] = None,
    align: Annotated[
        bool,
        typer.Option(
            "--align",
            help="Let size, rate, length, colours differ: pair frames by time, scale and convert DIST, and say so.",
        ),
    ] = False,
    model: Model = None,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare a video with its original: how close it is and how steady, frame by frame."""
    from sdvideo.reporting.report import report as reporting

    with Progress("Comparing") as progress:
        result = reporting.report(
            reference,
            distorted,
            json=json,
            csv=csv,
            html=html,
            align=align,
            model=model,
            device=device,
            progress=progress,
        )
    if json is None and csv is None and html is None:
        _put_report(result)


def _put_report(result) -> None:
    summary = result.summary
    if summary["frames"] == 1:
        put(f"picture   {_of_pixels(summary['bytes'], **result.info['distorted'])}")
    else:
        put(f"frames    {summary['frames']:,}, {summary['key_frames']:,} of them key frames")
        put(f"video     {summary['bytes']:,} bytes, {summary['kbit_per_second']:.1f} kbit/s")
    if summary["cuts"]:
        put(f"cuts      before frame {', '.join(map(str, summary['cuts']))}: left out of what is measured over time")
    put(f"{'':9} {'clip':>9} {'5 %':>9} {'median':>9} {'95 %':>9}")
    for measure in result.measures:
        found = summary[measure.name]
        values = ("-" if found[name] is None else f"{found[name]:.4g}" for name in ("clip", "p5", "p50", "p95"))
        better = {"higher": "higher is better", "lower": "lower is better", "one": "best at 1"}[measure.better]
        put(f"{measure.title:9} {' '.join(f'{value:>9}' for value in values)}  {measure.unit or ' ':11} {better}")
    if summary["kp"] is not None:
        put(f"{'KP':9} {summary['kp']:9.4g} {'':29}  {'':11} best at 1")
    for name, frames in summary["worst"].items() if summary["frames"] > 1 else ():
        title = next(measure.title for measure in result.measures if measure.name == name)
        put(f"worst     {title}: frame {', '.join(map(str, frames))}")


@app.command(epilog="Example: sdvideo info clip.sdv")
@_told()
def info(file: File, json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Say what an .sdv file holds, without decoding it."""
    from sdvideo.container import Reader

    with Reader(file) as reader:
        facts = _facts(reader)
    if json:
        put_json("info", **facts)
    else:
        _put_facts(facts)


def _facts(reader) -> dict:
    """What is known of a file, as JSON values."""
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
        "settings": header.settings,
        "tracks": [asdict(track) for track in stream.tracks],
        "chapters": len(stream.chapters),
        "colour": asdict(stream.colour) | {"icc_bytes": len(stream.icc)},
        "sample_aspect_ratio": str(stream.sar),
        "rotation": stream.rotation,
        "metadata": stream.metadata,
        "writer": header.writer,
    }


def _put_facts(facts: dict) -> None:
    rate, bits, model = facts["frames_per_second"], facts["kbit_per_second"], facts["model"]
    put(f"file      {facts['path']}, {facts['bytes']:,} bytes" + ("" if facts["complete"] else ", CUT SHORT"))
    if facts["frames"] == 1 and not rate:
        put(f"picture   {_of_pixels(facts['video_bytes'], **facts)}")
    else:
        put(f"video     {facts['width']}x{facts['height']}, {f'{rate:g} fps' if rate else 'unknown rate'}")
        groups = _counted(facts["groups"], "group")
        put(f"length    {_counted(facts['frames'], 'frame')}, {clock(facts['seconds'])}, {groups}")
        put(f"bit rate  {f'{bits:.1f} kbit/s' if bits else 'unknown'} ({facts['video_bytes']:,} bytes of video)")
    if icc := facts["colour"]["icc_bytes"]:
        put(f"colour    a profile of {icc:,} bytes")
    put(f"model     {' '.join((model['name'], model['revision'])).strip()}, sha256 {model['sha256'][:12]}")
    for track in facts["tracks"]:
        put(f"track     {' '.join((track['kind'], track['codec'], track['language'])).strip()}")
    settings = ", ".join(f"{name} {value}" for name, value in facts["settings"].items())
    put(f"made by   {facts['writer']}" + (f" with {settings}" if settings else ""))


@app.command(epilog="Example: sdvideo verify clip.sdv")
@_told()
def verify(
    file: File, device: Device = "auto", json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> None:
    """Check every byte of an .sdv file, and parse every frame; exit with 3 if anything is wrong."""
    from sdvideo import decoder as decoding

    found = decoding.verify(file, device=device)
    for damage in found:
        if json:
            put_json("damage", path=str(file), **asdict(damage))
        else:
            put(f"{file}: byte {damage.offset}: {damage.what}")
    if json:
        put_json("verify", path=str(file), damage=len(found))
    elif not found:
        say(f"{file}: intact")
    if found:
        raise typer.Exit(3)


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' * (count != 1)}"


def _of_pixels(size: int, *, width: int, height: int, **_: object) -> str:
    """What a picture takes, in words."""
    return f"{width}x{height}, {size:,} bytes, {8 * size / (width * height):.3f} bits per pixel"


def _exclude(first: bool, first_name: str, second: bool, second_name: str) -> None:
    if first and second:
        raise SettingError(f"{first_name} and {second_name} exclude each other")
