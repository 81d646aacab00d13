"""The command line from outside: exit codes, what is on which pipe, and what is left on the disk."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import wave
from fractions import Fraction
from pathlib import Path

import av
import pytest
from conftest import Recipe, synthesise, write_clip

import sdvideo
from sdvideo.cli import console
from sdvideo.container import Reader, Writer
from sdvideo.errors import SinkError
from sdvideo.metrics.vmaf import SCORES, find_ffmpeg
from sdvideo.runtime.output_files import part_of, whole_file

COMMAND = [sys.executable, "-m", "sdvideo"]
# Clips this small gain nothing from threads, and a busy machine is slow to gather them.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))),
}
INFO_KEYS = [
    "schema", "type", "path", "bytes", "complete", "width", "height", "frames_per_second", "frames",
    "seconds", "groups", "video_bytes", "kbit_per_second", "model", "base", "coder", "look", "settings",
    "tracks", "chapters", "colour", "sample_aspect_ratio", "rotation", "metadata", "writer",
]  # fmt: skip
MEASURES = [
    "psnr", "psnr_y", "psnr_u", "psnr_v", "ssim", "ms_ssim", *(SCORES if find_ffmpeg() else ()),
    "mcf", "phi", "r_w", "delta_l", "coverage",
]  # fmt: skip
FRAME_KEYS = ["frame", "seconds", "type", "bytes", "cut", *MEASURES]


def run(*arguments: object, code: int = 0, **options) -> subprocess.CompletedProcess:
    """Run a command, which must end with this exit code and without a traceback."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, env=ENVIRONMENT, timeout=300, **options
    )
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert "Traceback" not in said
    return done


def error(*arguments: object, code: int, **options) -> str:
    """Run a command that must fail with one line; returns the line."""
    lines = run(*arguments, code=code, **options).stderr.decode().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: "), lines
    return lines[0]


def objects(done: subprocess.CompletedProcess) -> list[dict]:
    found = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert all(one["schema"] == 1 for one in found)
    return found


@pytest.fixture(scope="module")
def coded(clips, tmp_path_factory) -> Path:
    """The clip "cfr" in four groups."""
    path = tmp_path_factory.mktemp("coded") / "cfr.sdv"
    run("encode", clips["cfr"].path, "-o", path, "--keyint", 4)
    return path


# --- what works ---------------------------------------------------------------------------------------------


def test_the_whole_way(clips, tmp_path):
    clip = clips["cfr"]
    source = Path(shutil.copy(clip.path, tmp_path / "clip.mp4"))
    (made,) = objects(run("encode", source, "--keyint", 4, "--preset", "fast", "-q", 40, "--json"))
    target = tmp_path / "clip.sdv"
    assert list(made) == ["schema", "type", "source", "path", "frames", "groups", "bytes", "seconds"]
    assert (made["type"], made["path"], made["frames"], made["groups"]) == ("encode", str(target), 16, 4)
    assert made["bytes"] == target.stat().st_size

    (facts,) = objects(run("info", target, "--json"))
    assert list(facts) == INFO_KEYS
    assert (facts["complete"], facts["frames"], facts["groups"], facts["seconds"]) == (True, 16, 4, 0.64)
    assert (facts["width"], facts["height"], facts["frames_per_second"]) == (96, 64, 25)
    assert facts["settings"]["quality"] == 40 and facts["settings"]["preset"] == "fast"
    assert facts["metadata"]["title"] == "A small clip"
    text = run("info", target).stdout.decode()
    assert "96x64, 25 fps" in text and "track     audio aac eng" in text and "CUT SHORT" not in text

    assert objects(run("verify", target, "--json")) == [
        {"schema": 1, "type": "verify", "path": str(target), "damage": 0}
    ]

    (decoded,) = objects(run("decode", target, "--json"))
    assert list(decoded) == ["schema", "type", "source", "path", "frames", "seconds", "concealed"]
    assert (decoded["type"], decoded["path"]) == ("decode", str(tmp_path / "clip.decoded.mp4"))
    with av.open(decoded["path"]) as video:
        assert sum(1 for _ in video.decode(video=0)) == 16
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.decoded.mp4", "clip.mp4", "clip.sdv"]


def test_report(clips, coded, tmp_path):
    clip = clips["cfr"]
    run("report", clip.path, coded, "--json", tmp_path / "r.json", "--csv", tmp_path / "r.csv", "--quiet")
    text = (tmp_path / "r.json").read_text()
    found = json.loads(text)
    assert text.count("\n") == 1
    assert list(found) == ["schema", "type", "version", "info", "measures", "summary", "frames"]
    assert list(found["info"]) == ["reference", "distorted", "notes"]
    assert [measure["name"] for measure in found["measures"]] == MEASURES
    summary = found["summary"]
    assert list(summary) == [
        "frames", "key_frames", "seconds", "bytes", "kbit_per_second", "cuts", "kp", "worst", *MEASURES
    ]  # fmt: skip
    assert all(list(summary[name]) == ["clip", "mean", "min", "p5", "p50", "p95", "max"] for name in MEASURES)
    assert summary["cuts"] == [] and summary["kp"] > 0
    assert summary["ms_ssim"]["clip"] is None  # the clip is too small for it
    assert (summary["frames"], summary["key_frames"], summary["seconds"]) == (16, 4, 0.64)
    assert 25 < summary["psnr"]["min"] <= summary["psnr"]["mean"] <= summary["psnr"]["max"] < 60
    frames = found["frames"]
    assert [list(row) for row in frames] == [FRAME_KEYS] * 16
    assert [row["type"] for row in frames] == ["key", "predicted", "predicted", "predicted"] * 4
    assert [Fraction(row["seconds"]).limit_denominator(1000) for row in frames] == list(clip.times)
    data = sum(row["bytes"] for row in frames)
    assert data < summary["bytes"] < data + 4 * 100
    assert summary["kbit_per_second"] == pytest.approx(summary["bytes"] * 8 / 640, abs=1e-3)
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["psnr_y"] for row in rows] == [str(row["psnr_y"]) for row in frames]


def test_report_of_any_video_for_people_and_pipes(clips):
    clip = clips["cfr"].path
    said = run("report", clip, clip)
    lines = [line.split() for line in said.stdout.decode().splitlines()]
    assert ["PSNR", "100", "100", "100", "100", "dB", "higher", "is", "better"] in lines
    assert ["φ", "0", "0", "0", "0", "lower", "is", "better"] in lines
    piped = run("report", clip, clip, "--csv", "-").stdout.decode()
    assert piped.splitlines()[0] == ",".join(FRAME_KEYS) and len(piped.splitlines()) == 17
    with av.open(str(clip)) as video:
        sizes = [packet.size for packet in video.demux(video=0) if packet.size]
    (found,) = objects(run("report", clip, clip, "--json", "-"))
    assert [row["bytes"] for row in found["frames"]] == sizes and found["summary"]["bytes"] == sum(sizes)


def test_videos_that_cannot_be_compared(clips, coded, tmp_path):
    out = tmp_path / "r.json"
    line = error("report", clips["vfr"].path, coded, "--json", out, code=1)
    assert "is 128x72" in line and "96x64: give --align to compare them nevertheless" in line
    assert "late.mp4 has 29.97 fps" in error("report", clips["late"].path, coded, "--json", out, code=1)
    assert "cannot both go to -" in error("report", coded, coded, "--json", "-", "--csv", "-", code=2)
    assert list(tmp_path.iterdir()) == []


def test_pipes_in_and_out(clips, tmp_path):
    clip = clips["rich"]
    target = tmp_path / "piped.sdv"
    with clip.path.open("rb") as file:
        run("encode", "-", "-o", target, "--keyint", 8, stdin=file)
    done = run("decode", target, "-o", "-")
    with av.open(io.BytesIO(done.stdout)) as video:
        assert sum(1 for _ in video.decode(video=0)) == clip.frames
        assert len(video.streams.audio) == 1


def test_quiet_is_quiet(clips, tmp_path):
    done = run("encode", clips["odd444"].path, "-o", tmp_path / "a.sdv", "--quiet")
    assert done.stdout == done.stderr == b""
    done = run("--quiet", "decode", tmp_path / "a.sdv", "-o", tmp_path / "a.y4m")
    assert done.stdout == done.stderr == b""
    assert (tmp_path / "a.y4m").read_bytes().startswith(b"YUV4MPEG2 W65 H47 ")


def test_help_and_version_take_no_time():
    begin = time.monotonic()
    assert run("--version").stdout.decode() == f"sdvideo {sdvideo.__version__}\n"
    for command in ("encode", "decode", "report", "info", "verify"):
        assert "Example: sdvideo " + command in run(command, "--help").stdout.decode()
    assert time.monotonic() - begin < 6  # six of them, on a machine that may be busy; torch alone would take 12


# --- what does not ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, line",
    [
        (("encode", "a.mp4", "-q", 101), "quality is 101; it can be 0 to 100"),
        (("encode", "a.mp4", "-q", 50, "--size", "2M"), "exclude each other"),
        (("encode", "a.mp4", "--bitrate", "fast"), "'fast' is no amount"),
        (("encode", "a.mp4", "--preset", "slow"), "preset is 'slow'"),
        (("encode", "a.mp4", "--base", "av2"), "base is 'av2'"),
        (("encode", "a.mp4", "--device", "abacus"), "device is 'abacus'"),
        (("decode", "a.sdv", "--device", "abacus"), "device is 'abacus'"),
        (("verify", __file__, "--device", "abacus"), "device is 'abacus'"),
        (("encode", "a.mp4", "--keyint", 0), "keyint is 0"),
        (("encode", ""), "empty name"),
        (("encode", "a.mp4", "-o", ""), "-o is empty"),
        (("encode", "a.mp4", "-o", "b.mp4"), "b.mp4 has the suffix of another format"),
        (("encode", "a.mp4", "-y", "-n"), "-y and -n exclude each other"),
        (("encode", "a.mp4", "-o", "-"), "not to standard output"),
        (("decode", "a.sdv", "--lossless", "--crf", 20), "--lossless and --crf exclude each other"),
        (("decode", "a.sdv", "--json", "-o", "-"), "--json and -o - exclude each other"),
    ],
)
def test_wrong_usage(arguments, line):
    assert line in error(*arguments, code=2)


@pytest.mark.parametrize("arguments", [("encode",), ("encode", "a.mp4", "--nonsense"), ("transcode", "a.mp4")])
def test_wrong_arguments(arguments):
    assert b"Error: " in run(*arguments, code=2).stderr


def test_wrong_inputs(coded, tmp_path):
    text, sound = tmp_path / "text.mp4", tmp_path / "sound.wav"
    text.write_text("This is no video.\n" * 100)
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    assert "No such file" in error("encode", tmp_path / "none.mp4", code=1)
    assert "not a video" in error("encode", text, code=1)
    assert "is an .sdv file already" in error("encode", coded, "-o", tmp_path / "again.sdv", code=1)
    assert "no video stream" in error("encode", sound, code=1)
    assert "not an .sdv" in error("decode", text, code=3)
    (failed,) = objects(run("decode", text, "--json", code=3))
    assert (failed["type"], failed["source"], failed["exit_code"]) == ("failed", str(text), 3)
    assert "not an .sdv" in error("info", text, code=3)
    assert "No such file" in error("info", tmp_path / "none.sdv", code=1)
    assert "not a folder" in error("encode", text, "-o", tmp_path / "none" / "a.sdv", code=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sound.wav", "text.mp4"]


def test_debugging_shows_where(tmp_path):
    done = subprocess.run(
        [*COMMAND, "info", str(tmp_path)], capture_output=True, env={**ENVIRONMENT, "SDVIDEO_DEBUG": "1"}
    )
    assert done.returncode == 1 and b"Traceback" in done.stderr


def test_unknown_model(clips, coded, tmp_path):
    target = tmp_path / "a.sdv"
    assert "nowhere" in error("encode", clips["cfr"].path, "-o", target, "--model", tmp_path / "nowhere", code=1)
    with Reader(coded) as reader, target.open("wb") as file:
        header = reader.header
        other = dataclasses.replace(header.model, sha256="0" * 64)
        writer = Writer(file, dataclasses.replace(header, model=other, blobs=(), info=_mute(header.info)))
        for number in range(len(reader.groups)):
            writer.write_group(reader.read_group(number))
        writer.finish()
    assert "sha256 000000000000" in error("decode", target, "-o", tmp_path / "a.mp4", code=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.sdv"]


def _mute(info):
    return dataclasses.replace(info, tracks=())


def test_outputs_that_exist(clips, coded, tmp_path):
    source, target = clips["silent"].path, tmp_path / "there.sdv"
    target.write_bytes(b"precious")
    assert "use -y to overwrite it" in error("encode", source, "-o", target, code=4)
    (skipped,) = objects(run("encode", source, "-o", target, "-n", "--json"))
    assert skipped["type"] == "skipped"
    assert target.read_bytes() == b"precious"
    run("encode", source, "-o", target, "-y")
    assert target.read_bytes()[1:4] == b"SDV"
    done = target.read_bytes()
    assert b"its output exists" in run("encode", source, "-o", target, "--resume").stderr
    assert target.read_bytes() == done
    video = tmp_path / "there.mp4"
    video.write_bytes(b"precious")
    assert "exists" in error("decode", coded, "-o", video, code=4)
    assert b"its output exists" in run("decode", coded, "-o", video, "-n").stderr
    assert video.read_bytes() == b"precious"


def test_the_input_is_never_the_output(clips, coded, tmp_path):
    source = Path(shutil.copy(clips["silent"].path, tmp_path / "clip.mp4"))
    link = tmp_path / "link.sdv"
    link.symlink_to(source)
    before = source.read_bytes()
    assert "input itself" in error("encode", source, "-o", source, "-y", code=2)
    assert "input itself" in error("encode", source, "-o", link, "-y", code=2)
    assert "input itself" in error("report", source, coded, "--json", source, code=2)
    assert source.read_bytes() == before
    assert "input itself" in error("decode", coded, "-o", coded, "-y", code=2)


def test_outputs_that_are_no_files(clips, coded, tmp_path):
    """What is behind a link is written; a pipe or a device does not become a file."""
    link, real = tmp_path / "link.csv", tmp_path / "real.csv"
    real.write_text("old")
    link.symlink_to(real)
    run("report", clips["cfr"].path, coded, "--csv", link)
    assert link.is_symlink() and real.read_text().startswith("frame,")
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    assert "not a regular file" in error("decode", coded, "-o", pipe, "-y", code=1)
    assert "not a regular file" in error("report", clips["cfr"].path, coded, "--csv", pipe, code=1)
    assert pipe.is_fifo() and len(list(tmp_path.iterdir())) == 3


def test_another_file_that_is_missing_is_the_one_that_is_named(tmp_path):
    with pytest.raises(SinkError, match="nowhere: No such file"), whole_file(tmp_path / "a.sdv"):
        (tmp_path / "nowhere").read_bytes()


def test_a_size_that_is_missed_is_told(clips, tmp_path):
    told = run("encode", clips["cfr"].path, "-o", tmp_path / "a.sdv", "--size", "10M", "--preset", "fast").stderr
    assert b"Warning: " in told and b" bytes instead of " in told
    told = run("encode", clips["cfr"].path, "-o", tmp_path / "b.sdv", "--size", "600", "--preset", "fast").stderr
    assert b"sound and other tracks take" in told


def test_settings_that_mean_nothing_are_refused_from_python_too(clips, coded, tmp_path):
    with pytest.raises(sdvideo.SettingError, match=r"keyint is 2\.5"):
        sdvideo.encode(clips["cfr"].path, tmp_path / "a.sdv", keyint=2.5)
    with pytest.raises(sdvideo.SettingError, match=r"crf is a setting of H\.264"):
        sdvideo.decode(coded, tmp_path / "a.y4m", crf=20)
    assert list(tmp_path.iterdir()) == []


def test_an_mp4_that_a_pipe_cannot_carry(clips, tmp_path):
    said = run("encode", "-", "-o", tmp_path / "a.sdv", input=clips["cfr"].path.read_bytes(), code=1).stderr
    assert b"index at the end" in said


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.1, 0.7, -1])
def test_a_file_cut_short(coded, tmp_path, keep):
    data = coded.read_bytes()
    broken = tmp_path / "broken.sdv"
    broken.write_bytes(data[: int(len(data) * keep) if keep > 0 else keep])
    error("decode", broken, "-o", tmp_path / "a.mp4", code=3)
    assert list(tmp_path.iterdir()) == [broken]
    if keep > 0.5:  # the header is whole
        assert run("verify", broken, code=3).stdout
        (facts,) = objects(run("info", broken, "--json"))
        assert not facts["complete"]


def test_a_changed_byte(coded, tmp_path):
    data = bytearray(coded.read_bytes())
    with Reader(coded) as reader:
        entry = reader.groups[2]
    data[entry.offset + 40] ^= 1
    broken = tmp_path / "broken.sdv"
    broken.write_bytes(data)
    line = error("decode", broken, "-o", tmp_path / "a.mp4", code=3)
    assert "group 2 (frames 8 to 11" in line and "--tolerant" in line
    assert list(tmp_path.iterdir()) == [broken]
    *damage, verdict = objects(run("verify", broken, "--json", code=3))
    assert (damage[0]["type"], damage[0]["offset"]) == ("damage", entry.offset)
    assert (verdict["type"], verdict["damage"]) == ("verify", len(damage))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(clips, coded, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    target = tmp_path / "a.sdv"
    error("encode", clips["silent"].path, "-o", target, "--keyint", 2, code=1, preexec_fn=limit)
    error("decode", coded, "-o", tmp_path / "a.y4m", "--quiet", code=1, preexec_fn=limit)
    assert list(tmp_path.iterdir()) == []
    with open("/dev/full", "wb") as full:
        report = ("report", str(clips["cfr"].path), str(coded), "--csv", "-")
        for call in (("decode", str(coded), "-o", "-"), ("info", str(coded)), report):
            done = subprocess.run([*COMMAND, *call], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT)
            assert done.returncode == 1 and done.stderr.count(b"\n") == 1
            assert done.stderr.startswith(b"Error: standard output: No space left")


def test_a_reader_that_leaves(coded):
    for command in (("decode", coded, "-o", "-"), ("info", coded)):
        process = subprocess.Popen(
            [*COMMAND, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(300) == 1


def test_interrupted_and_resumed(tmp_path):
    """Ctrl-C leaves what is done; --resume makes the same file of it as an encoding in one go."""
    source, target, whole = tmp_path / "long.mp4", tmp_path / "a.sdv", tmp_path / "whole.sdv"
    write_clip(source, synthesise(96, 64, 150), Recipe(ticks=tuple(range(0, 150 * 512, 512))))
    command = ["encode", str(source), "-o", str(target), "--keyint", "3"]
    # Whoever runs the tests in the background may have told them, and so their children, to ignore interrupts.
    process = subprocess.Popen(
        [*COMMAND, *command],
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    part = part_of(target)
    while process.poll() is None and not (part.exists() and part.stat().st_size > 3000):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 130, said
    assert said.count("\n") == 1 and "--resume" in said
    assert part.exists() and not target.exists()
    with Reader(part) as reader:
        assert 0 < reader.frame_count < 150

    assert b"resuming after " in run(*command, "--resume").stderr
    run("encode", source, "-o", whole, "--keyint", 3)
    assert target.read_bytes() == whole.read_bytes()
    assert not part.exists()


# --- progress -----------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    def __init__(self, terminal: bool):
        super().__init__()
        self.isatty = lambda: terminal


@pytest.fixture
def talk(monkeypatch):
    console.set_log_level()
    yield
    console.log.handlers.clear()
    console.log.propagate = True
    console.log.setLevel(0)


def test_lines_of_progress(monkeypatch, talk):
    screen = Screen(terminal=False)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(console, "PROGRESS_SECONDS", 0)
    with console.Progress("Encoding") as progress:
        progress(11, 30, 5000, Fraction(25))
        progress(12, None)
    first, second = screen.getvalue().splitlines()
    assert first.startswith("Encoding: 11 of 30 frames, ") and first.endswith(" left, 91 kbit/s")
    assert second.startswith("Encoding: 12 frames, ") and second.endswith(" fps")


def test_a_bar_on_a_terminal(monkeypatch, talk):
    screen = Screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    with console.Progress("Encoding") as progress:
        for done in range(11, 31):
            progress(done, 30, 1000 * done, Fraction(25))
        console.log.warning("mind the gap")
    text = screen.getvalue()
    assert "30/30" in text and "200 kbit/s" in text and " frames/s" in text
    assert "Warning: mind the gap\n" in text


def test_times_read_like_a_clock():
    assert [console.clock(seconds) for seconds in (0, 59.6, 600, 3723.4)] == [
        "0:00",
        "1:00",
        "10:00",
        "1:02:03",
    ]
