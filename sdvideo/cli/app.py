"""The command line: options, and what each command calls.

Exit codes: 0 done, 1 failed, 2 usage, 3 damaged or unsupported file, 4 output exists, 130 interrupted,
143 terminated.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sdvideo.codecs.registry import codec_for_settings, names
from sdvideo.errors import SettingError
from sdvideo.media.formats import PICTURE_SUFFIXES, SDV_SUFFIXES, VIDEO_SUFFIXES
from sdvideo.runtime.malloc import use_one_heap
from sdvideo.runtime.standard_streams import prepare_standard_streams
from sdvideo.settings import (
    DEFAULT_MODEL,
    DEFAULT_QUALITY,
    DENOISE_STEPS,
    DEVICES,
    PRESETS,
    QUANTIZERS,
    EncodeSettings,
    look_of,
    parse_amount,
)
from sdvideo.version import __version__

from .console import Progress, clock, counted, print_json, print_result, set_log_level
from .errors import reported_errors
from .inputs import Done, Job, is_batch, jobs_of, run_each

log = logging.getLogger("sdvideo")

app = typer.Typer(
    help="A video codec that codes learned latents as deltas along the motion.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    # Threads that spin long while they wait take the cores from other programs, and from this one's other threads;
    # those that never spin start slowly on small work. Must be set before torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    prepare_standard_streams()
    use_one_heap()
    set_log_level()
    app(prog_name="sdvideo")


# --- options that several commands have ---------------------------------------------------------------------


def _show_version(wanted: bool) -> None:
    if wanted:
        print_result(f"sdvideo {__version__}")
        raise typer.Exit


def _be_quiet(wanted: bool) -> None:
    if wanted:
        set_log_level(logging.ERROR)


def _be_verbose(wanted: bool) -> None:
    if wanted:
        set_log_level(logging.DEBUG)


Version = Annotated[bool, typer.Option("--version", callback=_show_version, help="Print the version and exit.")]
Quiet = Annotated[bool, typer.Option("--quiet", callback=_be_quiet, help="Show errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", callback=_be_verbose, help="Show details as well.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, one object per line.")]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="The diffusers autoencoder that the .sdv was made with; needed if that was a folder, not one of the Hub.",
    ),
]
Device = Annotated[str, typer.Option(help=f"Where the networks run: {', '.join(DEVICES)}.")]
Look = Annotated[
    str | None,
    typer.Option(
        metavar="faithful|natural|0..1",
        help="How base av1 is painted: close to the source by error, close to how it looks, or between. If not given, "
        "as the file says.",
    ),
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Overwrite an existing output.")]
No = Annotated[bool, typer.Option("-n", "--no", help="If the output exists, leave it and exit with 0.")]
Recursive = Annotated[
    bool, typer.Option("--recursive", help="Take the files in subfolders as well; results mirror the tree.")
]
File = Annotated[Path, typer.Argument(metavar="IN.sdv", help="An .sdv file.", show_default=False)]


# --- commands -----------------------------------------------------------------------------------------------


@app.callback()
def _all_commands(version: Version = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    pass


@app.command(epilog="Example: sdvideo encode clip.mp4    clip.mp4 -> clip.sdv")
@reported_errors(interrupted="interrupted; the same command with --resume goes on from here")
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
    preset: Annotated[str, typer.Option(help=f"Slower presets take fewer bits: {', '.join(PRESETS)}.")] = "balanced",
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
            help=f"The codec: {' or '.join(names())}. av1 if not given; none if --model is given.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="1|2/3|1/2",
            help="Store smaller pictures, which a network upscales when decoding. If not given, what suits the "
            "quality; 1 if --model is given.",
            show_default=False,
        ),
    ] = None,
    quantizer: Annotated[
        str,
        typer.Option(help=f"How the latents of a --model become integers: {', '.join(QUANTIZERS)}."),
    ] = "uniform",
    look: Annotated[
        str,
        typer.Option(
            metavar="faithful|natural|0..1",
            help="How the file asks to be painted (base av1): close to the source by error, or close to how it looks, "
            "which invents detail. decode --look chooses anew.",
        ),
    ] = "faithful",
    device: Device = "auto",
    keyint: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="The most frames between key frames; 161 if not given, fewer for large pictures, 64 with base none.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Groups of base av1 to prepare while one is coded. 0 takes the least memory and more time. The file "
            "is the same.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted call of the same command stopped.")
    ] = False,
    recursive: Recursive = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Refuse an input of which something would be lost or mended, instead of a warning."
        ),
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
        bitrate=None if bitrate is None else parse_amount(bitrate),
        size=None if size is None else parse_amount(size),
        keyint=keyint,
        preset=preset,
        model=model,
        base=base,
        device=device,
        scale=scale,
        quantizer=quantizer,
        workers=workers,
        look=look_of(look),
    )
    codec_for_settings(settings)  # refuses what does not fit together before any input is read

    def work(job: Job, progress: Progress) -> Done:
        from sdvideo import encoder

        result = encoder.encode(
            job.source, job.output, overwrite=yes, resume=resume, strict=strict, progress=progress, **asdict(settings)
        )
        done = f"{counted(result.frames, 'frame')}, {result.bytes:,} bytes in {clock(result.seconds)}"
        return f"{result.path}: {done}", asdict(result) | {"path": str(result.path)}

    jobs = jobs_of(inputs, VIDEO_SUFFIXES | PICTURE_SUFFIXES, output, ".sdv", recursive=recursive)
    # An interrupted call has left complete outputs behind, which --resume does not encode again.
    run_each("encode", "Encoding", jobs, is_batch(inputs), work, no or (resume and not yes), json)


@app.command(epilog="Example: sdvideo decode clip.sdv    clip.sdv -> clip.decoded.mp4")
@reported_errors()
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
        typer.Option("--preview", help="Copy the AV1 base without decoding it: fast, but small and not restored."),
    ] = False,
    tolerant: Annotated[
        bool,
        typer.Option("--tolerant", help="Decode a damaged file: the last intact picture replaces lost ones."),
    ] = False,
    lossless: Annotated[bool, typer.Option("--lossless", help="Store the decoded pictures without loss.")] = False,
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
    look: Look = None,
    device: Device = "auto",
    recursive: Recursive = False,
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
    _exclude(preview, "--preview", look is not None, "--look")
    if denoiser is not None and denoise is None:
        raise SettingError("--denoiser does nothing without --denoise N")

    def work(job: Job, progress: Progress) -> Done:
        from sdvideo import decoder

        if preview:
            result = decoder.preview(job.source, job.output, overwrite=yes, progress=progress)
        else:
            result = decoder.decode(
                job.source,
                job.output,
                overwrite=yes,
                crf=crf,
                lossless=lossless,
                tolerant=tolerant,
                model=model,
                device=device,
                denoise=denoise or 0,
                denoiser=denoiser,
                look=look,
                progress=progress,
            )
        done = f"{counted(result.frames, 'frame')} in {clock(result.seconds)}"
        return f"{result.path or 'standard output'}: {done}", asdict(result) | {"path": str(result.path)}

    suffix = ".preview.mp4" if preview else ".decoded.mp4"
    jobs = jobs_of(inputs, SDV_SUFFIXES, output, suffix, recursive=recursive)
    run_each("decode", "Decoding", jobs, is_batch(inputs), work, no, json)


@app.command(epilog="Example: sdvideo report clip.mp4 clip.sdv --html clip.html")
@reported_errors()
def report(
    reference: Annotated[str, typer.Argument(metavar="REF", help="The original video.", show_default=False)],
    distorted: Annotated[
        str,
        typer.Argument(metavar="DIST", help="The video to compare with it: an .sdv or any other.", show_default=False),
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
            help="Accept another size, rate, length or colours: pair frames by time, scale and convert DIST, and say "
            "what was done.",
        ),
    ] = False,
    model: Model = None,
    look: Look = None,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare a video with its original, frame by frame: how close it is and how steady."""
    from sdvideo.reporting.report import report as compare

    from .describe import describe_report

    with Progress("Comparing") as progress:
        result = compare(
            reference,
            distorted,
            json=json,
            csv=csv,
            html=html,
            align=align,
            model=model,
            device=device,
            look=look,
            progress=progress,
        )
    if json is None and csv is None and html is None:
        for line in describe_report(result):
            print_result(line)


@app.command(epilog="Example: sdvideo info clip.sdv")
@reported_errors()
def info(file: File, json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Describe what an .sdv file holds, without decoding it."""
    from sdvideo.codecs.registry import codec_for_header
    from sdvideo.container import Reader

    from .describe import describe_file, facts_of

    with Reader(file) as reader:
        codec_for_header(reader.header)
        facts = facts_of(reader)
    if json:
        print_json("info", **facts)
    else:
        for line in describe_file(facts):
            print_result(line)


@app.command(epilog="Example: sdvideo verify clip.sdv")
@reported_errors()
def verify(
    file: File, device: Device = "auto", json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> None:
    """Check every byte of an .sdv file, and parse every frame; exit with 3 if anything is wrong."""
    from sdvideo import decoder

    found = decoder.verify(file, device=device)
    for damage in found:
        if json:
            print_json("damage", path=str(file), **asdict(damage))
        else:
            print_result(f"{file}: byte {damage.offset}: {damage.what}")
    if json:
        print_json("verify", path=str(file), damage=len(found))
    elif not found:
        log.info("%s: intact", file)
    if found:
        raise typer.Exit(3)


def _exclude(first: bool, first_name: str, second: bool, second_name: str) -> None:
    if first and second:
        raise SettingError(f"{first_name} and {second_name} exclude each other")
