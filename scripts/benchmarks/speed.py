"""Frames per second and peak memory of whole programs, each run a fresh process with all cores to itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from material import Hole, Material
from ours import Ours
from peers import Peer


def machine() -> str:
    """The processor's name and how many of its cores there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = os.cpu_count() or 1
    return f"{names[0] if names else 'unnamed processor'}, {cores} core{'s' if cores > 1 else ''}"


def middle(codec: Ours | Peer) -> int:
    """The ladder's value that stands for it."""
    return codec.ladder[len(codec.ladder) // 2]


def measure_run(material: Material, codec: Ours | Peer) -> dict:
    """Encode and decode once. fps: with the start of the program; mib: its peak of resident memory.

    sdvideo decodes to raw frames in a file, the other programs to nowhere: it cannot do that. Half size counts the
    scaling on both sides.
    """
    with tempfile.TemporaryDirectory(dir=material.folder) as folder:
        coded = Path(folder, "coded.sdv" if isinstance(codec, Ours) else "coded.mp4")
        target = str(Path(folder, "shown.y4m")) if isinstance(codec, Ours) else "null"
        row = {}
        for job, command in (
            ("encode", codec.encode_command(material, middle(codec), coded, single=False)),
            ("decode", codec.decode_command(material, coded, target, single=False)),
        ):
            try:
                seconds, peak = _run(command)
            except Hole as hole:
                return {"hole": f"{job}: {hole}"}
            row |= {f"{job}_fps": material.frames / seconds, f"{job}_mib": peak}
        return row


def _run(command: list[str]) -> tuple[float, float]:
    """Seconds and MiB."""
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py"))]
    said = subprocess.run([*launcher, *command], stdout=subprocess.PIPE, text=True, check=True).stdout
    run = json.loads(said)
    if run["code"]:
        raise Hole(f"failed with {run['code']}")
    return run["seconds"], run["mib"]
