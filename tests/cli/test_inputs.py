"""Several inputs in one call: which files are taken, where results go, and what one failure does to the others."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Recipe, synthesise, write_clip
from PIL import Image
from test_cli import COMMAND, ENVIRONMENT, error, objects, run

from sdvideo.runtime.output_files import part_of

FAST = ("--preset", "fast", "--keyint", 8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(clips, tmp_path) -> Path:
    """Two videos and a picture, among what is neither."""
    inside = tmp_path / "in"
    inside.mkdir()
    shutil.copy(clips["cfr"].path, inside / "b.mp4")
    shutil.copy(clips["odd"].path, inside / "a.MKV")
    Image.new("RGB", (40, 30), "olive").save(inside / "c.png")
    (inside / "notes.txt").write_text("no video\n")
    shutil.copy(clips["cfr"].path, inside / ".hidden.mp4")
    (inside / "further.mp4").mkdir()
    shutil.copy(clips["cfr"].path, inside / "further.mp4" / "deep.mp4")
    return inside


def test_a_folder_there_and_back(folder, tmp_path):
    coded, shown = tmp_path / "coded", tmp_path / "new" / "shown"
    found = objects(run("encode", folder, "-o", f"{coded}/", *FAST, "--json"))
    assert [Path(one["source"]).name for one in found] == ["a.MKV", "b.mp4", "c.png"]
    assert [one["type"] for one in found] == ["encode"] * 3
    assert names(coded) == ["a.sdv", "b.sdv", "c.sdv"]

    alone = tmp_path / "alone.sdv"
    run("encode", folder / "b.mp4", "-o", alone, *FAST)
    assert (coded / "b.sdv").read_bytes() == alone.read_bytes()

    found = objects(run("decode", coded, "-o", f"{shown}/", "--json"))
    assert [one["frames"] for one in found] == [12, 16, 1]
    assert names(shown) == ["a.decoded.mp4", "b.decoded.mp4", "c.decoded.png"]


def test_results_lie_beside_their_inputs(folder):
    done = run("encode", folder / "c.png", folder / "b.mp4", *FAST)
    said = done.stderr.decode().splitlines()
    assert [line.split(" -> ")[0] for line in said] == [str(folder / "c.png"), str(folder / "b.mp4")]
    assert {"b.sdv", "c.sdv"} <= set(names(folder))
    run("decode", folder, "--preview")
    assert {"b.preview.mp4", "c.preview.mp4"} <= set(names(folder))


def test_one_input_into_a_folder(folder, tmp_path):
    (tmp_path / "there").mkdir()
    run("encode", folder / "c.png", "-o", tmp_path / "there")
    assert "exists" in error("encode", folder / "c.png", "-o", tmp_path / "there", code=4)
    run("decode", tmp_path / "there" / "c.sdv", "-o", f"{tmp_path}/made/")
    assert names(tmp_path / "there") == ["c.sdv"] and names(tmp_path / "made") == ["c.decoded.png"]


def test_the_others_go_on_after_a_failure(folder, tmp_path):
    out = tmp_path / "out"
    text = folder / "text.mp4"
    text.write_text("This is no video.\n")
    call = ("encode", text, folder / "c.png", tmp_path / "none.mp4", folder / "b.mp4", "-o", f"{out}/", *FAST)
    done = run(*call, "--json", "--quiet", code=1)
    assert done.stderr.decode().splitlines() == [
        "Error: 2 of 4 failed:",
        f"Error: {text}: not a video",
        f"Error: {tmp_path / 'none.mp4'}: No such file or directory",
    ]
    found = objects(done)
    assert [(one["type"], Path(one["source"]).name) for one in found] == [
        ("failed", "text.mp4"), ("encode", "c.png"), ("failed", "none.mp4"), ("encode", "b.mp4")
    ]  # fmt: skip
    assert (found[0]["error"], found[0]["exit_code"]) == ("not a video", 1)
    assert names(out) == ["b.sdv", "c.sdv"]

    broken = out / "b.sdv"
    broken.write_bytes(broken.read_bytes()[:-40])
    cut, whole = objects(run("decode", out, "--json", "--quiet", code=1))
    assert (cut["type"], cut["exit_code"], whole["type"]) == ("failed", 3, "decode")
    assert names(out) == ["b.sdv", "c.decoded.png", "c.sdv"]


def test_outputs_that_exist(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.sdv").write_bytes(b"precious")
    call = ("encode", folder / "b.mp4", folder / "c.png", "-o", out, *FAST, "--json")
    failed, made = objects(run(*call, code=1))
    assert (failed["type"], failed["exit_code"], made["type"]) == ("failed", 4, "encode")
    for leave in ("-n", "--resume"):
        assert [one["type"] for one in objects(run(*call, leave))] == ["skipped"] * 2
    assert (out / "b.sdv").read_bytes() == b"precious"
    assert [one["type"] for one in objects(run(*call, "-y"))] == ["encode"] * 2
    assert (out / "b.sdv").read_bytes() != b"precious"


def test_refused_before_anything_starts(folder, tmp_path):
    twin = Path(shutil.copy(folder / "b.mp4", tmp_path / "b.mp4"))
    out = tmp_path / "out"
    line = error("encode", folder, twin, "-o", f"{out}/", code=2)
    assert f"{folder / 'b.mp4'} and {twin} would both become {out / 'b.mp4.sdv'}" in line
    assert "would both become" in error("encode", twin, twin, code=2)
    assert "not a folder" in error("encode", folder, "-o", out, code=2)
    assert "has no name" in error("encode", twin, "-", code=2)
    assert "quality is 101" in error("encode", folder, "-q", 101, code=2)
    own = Path(shutil.copy(twin, tmp_path / "b.sdv"))
    shown = Path(shutil.copy(twin, tmp_path / "b.decoded.mp4"))
    assert "an input as well" in error("decode", own, shown, "-y", code=2)
    (tmp_path / "empty").mkdir()
    assert "no file in this folder" in error("decode", tmp_path / "empty", own, code=1)
    assert names(tmp_path) == ["b.decoded.mp4", "b.mp4", "b.sdv", "empty", "in"]


def test_what_is_skipped_in_a_folder_is_counted(folder):
    said = run("encode", folder, *FAST).stderr.decode()
    assert f"{folder}: skipped: 1 file of other kinds, 1 subfolder (--recursive takes them)" in said
    again = run("encode", folder, "-n", *FAST).stderr.decode()
    assert "1 file of other kinds" in again and again.count("its output exists") == 3


def test_subfolders_are_mirrored(folder, tmp_path):
    (folder / "Summer").mkdir()
    shutil.copy(folder / "c.png", folder / "Summer" / "IMG_1.HEIC.png")
    shutil.copy(folder / "c.png", folder / "Summer" / "._IMG_1.png")  # macOS leaves these beside files
    os.symlink(folder, folder / "Summer" / "loop")
    out = tmp_path / "out"
    found = objects(run("encode", folder, "--recursive", "-o", f"{out}/", *FAST, "--json"))
    made = sorted(str(path.relative_to(out)) for path in out.rglob("*.sdv"))
    assert made == ["Summer/IMG_1.HEIC.sdv", "a.sdv", "b.sdv", "c.sdv", "further.mp4/deep.sdv"] and len(found) == 5
    run("decode", out, "--recursive", "-o", f"{tmp_path}/back/")
    assert (tmp_path / "back" / "further.mp4" / "deep.decoded.mp4").exists()
    assert (tmp_path / "back" / "Summer" / "IMG_1.HEIC.decoded.png").exists()
    line = error("encode", tmp_path, "-o", f"{out}/", code=1)
    assert "no file in this folder has one of the suffixes" in line and "--recursive" in line


def test_live_photos_are_told_apart(clips, tmp_path):
    inside, out = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    Image.new("RGB", (40, 30), "olive").save(inside / "IMG_1.JPG")
    shutil.copy(clips["silent"].path, inside / "IMG_1.MOV")
    shutil.copy(clips["silent"].path, inside / "IMG_2.MOV")
    run("encode", inside, "-o", f"{out}/", *FAST)
    assert names(out) == ["IMG_1.jpg.sdv", "IMG_1.mov.sdv", "IMG_2.sdv"]
    assert "its output exists" in run("encode", inside, "-o", f"{out}/", *FAST, "-n").stderr.decode()
    said = run("decode", out, "--crf", 30).stderr.decode()
    assert names(out)[:2] == ["IMG_1.jpg.decoded.png", "IMG_1.jpg.sdv"] and "IMG_1.mov.decoded.mp4" in names(out)
    assert said.count("crf is left out") == 1


def test_any_number_of_workers_gives_the_same_file(tmp_path):
    source = tmp_path / "a.mp4"
    pictures = synthesise(96, 64, 40) + synthesise(96, 64, 31, seed=1)
    write_clip(source, pictures, Recipe(ticks=tuple(range(0, 71 * 512, 512)), audio=(("aac", "eng"),)))
    files = []
    for options in (("--workers", 0), ("--workers", 1), ("--workers", 5), ()):
        run("encode", source, "-o", tmp_path / "a.sdv", "-y", *FAST, *options)
        files.append((tmp_path / "a.sdv").read_bytes())
    assert files == files[:1] * 4
    assert "workers is 65" in error("encode", source, "-y", "--workers", 65, code=2)


def test_an_interruption_ends_them_all_and_resume_goes_on(tmp_path):
    for name in "abc":
        write_clip(tmp_path / f"{name}.mp4", synthesise(96, 64, 120), Recipe(ticks=tuple(range(0, 120 * 512, 512))))
    out = tmp_path / "out"
    command = ["encode", *(str(tmp_path / f"{name}.mp4") for name in "abc"), "-o", f"{out}/", "--keyint", "3"]
    process = subprocess.Popen(
        [*COMMAND, *command],
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    part = part_of(out / "b.sdv")
    while process.poll() is None and not (part.exists() and part.stat().st_size > 3000):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 130, said
    assert said.splitlines()[-1].startswith("Error: interrupted") and "--resume" in said
    assert names(out) == [".b.sdv.part", "a.sdv"]
    kinds = [one["type"] for one in objects(run(*command, "--resume", "--json"))]
    assert kinds == ["skipped", "encode", "encode"]
    assert names(out) == ["a.sdv", "b.sdv", "c.sdv"]
    assert (out / "a.sdv").read_bytes() == (out / "b.sdv").read_bytes() == (out / "c.sdv").read_bytes()
