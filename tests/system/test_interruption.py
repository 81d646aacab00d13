"""What is left when a call is killed, interrupted, or runs out of room, at moments of no one's choosing.

The long run: python -m pytest -m long tests/system/test_interruption.py
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Recipe, needs, synthesise, write_clip
from test_cli import COMMAND, ENVIRONMENT

from sdvideo.runtime.output_files import part_of

try:
    import resource
except ImportError:
    pytest.skip("no signals and no limits of this kind here", allow_module_level=True)

SOUND = (("aac", "eng"),)


def start(*arguments: object, folder: Path, **options) -> subprocess.Popen:
    """Start a command, with a temporary folder of its own that is made beside it."""
    (folder / "temporary").mkdir(exist_ok=True)
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--quiet"],  # no progress, even where it takes long
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **{
            "env": {**ENVIRONMENT, "TMPDIR": str(folder / "temporary"), **options.pop("variables", {})},
            # Whoever runs the tests in the background may have told them, and so their children, to ignore interrupts.
            "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **options,
        },
    )


def names(folder: Path) -> list[str]:
    """What is in a folder, of the temporary one what is in it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "temporary")


def ended(process: subprocess.Popen, code: int) -> str:
    """Wait for a process that must end with this code and one line; returns the line."""
    said = process.communicate(timeout=300)[1].decode()
    assert process.returncode == code, said
    assert said.startswith("Error: ") and said.count("\n") == 1, said
    return said


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Six seconds of a small clip with sound."""
    path = tmp_path_factory.mktemp("source") / "clip.mp4"
    write_clip(path, synthesise(96, 64, 150), Recipe(ticks=tuple(range(0, 150 * 512, 512)), audio=SOUND))
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """Two seconds in which a group takes the best preset many seconds."""
    path = tmp_path_factory.mktemp("large") / "clip.mp4"
    write_clip(path, synthesise(960, 540, 50), Recipe(ticks=tuple(range(0, 50 * 512, 512)), audio=SOUND))
    return path


@pytest.fixture(scope="module")
def middling(tmp_path_factory) -> Path:
    """Two seconds with more in them than fits on a small disk."""
    path = tmp_path_factory.mktemp("middling") / "clip.mp4"
    write_clip(path, synthesise(320, 180, 50), Recipe(ticks=tuple(range(0, 50 * 512, 512)), audio=SOUND))
    return path


@pytest.fixture(scope="module")
def coded(middling, tmp_path_factory) -> dict[str, Path]:
    """The same by base."""
    folder = tmp_path_factory.mktemp("coded")
    for base in ("av1", "none"):
        options = ("--base", base, "--preset", "fast", "--keyint", 8)
        assert start("encode", middling, "-o", folder / f"{base}.sdv", *options, folder=folder).wait(300) == 0
    return {base: folder / f"{base}.sdv" for base in ("av1", "none")}


# --- killed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base, kills",
    [
        ("av1", 10),
        ("none", 5),
        pytest.param("av1", 120, marks=pytest.mark.long),
        pytest.param("none", 80, marks=pytest.mark.long),
    ],
)
def test_killed_at_any_moment(source, tmp_path, base, kills):
    """The final name stands for a whole file or is not there, and --resume makes the file of a call in one go."""
    target, whole = tmp_path / "a.sdv", tmp_path / "whole.sdv"
    options = ("--base", base, "--preset", "fast", "--keyint", 4)
    assert start("encode", source, "-o", whole, *options, folder=tmp_path).wait(300) == 0
    expected, part, chance = whole.read_bytes(), part_of(target), random.Random(kills)
    survived = 0
    while kills:
        process = start("encode", source, "-o", target, *options, "--resume", folder=tmp_path)
        size = chance.uniform(0, 1.02) * len(expected)
        while process.poll() is None and not (part.exists() and part.stat().st_size >= size):
            time.sleep(0.001)
        time.sleep(chance.expovariate(20))
        process.kill()
        process.communicate()
        kills -= process.returncode == -signal.SIGKILL
        if target.exists():
            assert target.read_bytes() == expected and not part.exists()
            target.unlink()
            survived += 1
        else:
            assert process.returncode == -signal.SIGKILL
    process = start("encode", source, "-o", target, *options, "--resume", folder=tmp_path)
    assert process.wait(300) == 0, process.stderr.read()
    assert target.read_bytes() == expected and not part.exists()


# --- interrupted --------------------------------------------------------------------------------------------


def work_of(process: subprocess.Popen) -> float:
    """Seconds of processor time that a process has taken, with all its threads."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def interrupt(process: subprocess.Popen, by: signal.Signals = signal.SIGINT) -> str:
    """Interrupt it; it must end with one line, 2 s later, on a busy machine with no more work than 2 s of two cores."""
    before, others = work_of(process), resource.getrusage(resource.RUSAGE_CHILDREN)
    process.send_signal(by)
    begin = time.monotonic()
    said = ended(process, 128 + by)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    work = now.ru_utime + now.ru_stime - others.ru_utime - others.ru_stime - before
    assert time.monotonic() - begin < 2 or work < 4
    return said


def test_interrupted_in_the_middle_of_a_group(large, tmp_path):
    target = tmp_path / "a.sdv"
    for options in (("--preset", "best"), ("--preset", "best", "--size", "40k")):
        process = start("encode", large, "-o", target, *options, folder=tmp_path)
        while process.poll() is None and not part_of(target).exists():
            time.sleep(0.01)
        time.sleep(2)
        assert "--resume" in interrupt(process)
        assert names(tmp_path) == [".a.sdv.part"]
        part_of(target).unlink()


@pytest.mark.parametrize("base", ["av1", "none"])
def test_interrupted_while_it_decodes(coded, tmp_path, base):
    target = tmp_path / "a.mp4"
    for wait in (0, 0.1, 0.3):
        process = start("decode", coded[base], "-o", target, folder=tmp_path)
        while process.poll() is None and not part_of(target).exists():
            time.sleep(0.01)
        time.sleep(wait)
        if target.exists():  # a fast machine is through by then
            assert wait and process.wait(60) == 0
            assert names(tmp_path) == ["a.mp4"]
            return
        interrupt(process, signal.SIGTERM if wait else signal.SIGINT)
        assert names(tmp_path) == []


def test_interrupted_while_it_compares(large, tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("large")
    assert start("encode", large, "-o", folder / "a.sdv", "--preset", "fast", folder=folder).wait(300) == 0
    process = start("report", large, folder / "a.sdv", "--html", tmp_path / "a.html", folder=tmp_path)
    time.sleep(3)  # it takes an idle machine several times as long
    interrupt(process)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "module", ["sdvideo.errors", "typer", "av", "numpy", "openvino._pyopenvino", "torch._C", "torch._ops"]
)
def test_interrupted_while_it_imports(coded, tmp_path, module):
    if module.startswith("openvino"):
        needs("openvino")
    source = coded["none" if module.startswith("torch") else "av1"]  # base av1 may run without PyTorch
    process = start("decode", source, "-o", tmp_path / "a.mp4", folder=tmp_path, variables={"PYTHONVERBOSE": "1"})
    for line in process.stderr:
        if line.startswith(f"import '{module}' #".encode()):
            break
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[1].decode()
    assert (process.returncode, said.count("Error: ")) == (130, 1)
    assert "Error: interrupted\n" in said  # another thread that imports may be in the middle of a line
    assert names(tmp_path) == []


# --- no room ------------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """A folder in which little fits. options: of processes, where it is they who are limited."""

    folder: Path
    options: dict = field(default_factory=dict)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(folder)]
    if os.geteuid() == 0 and not subprocess.run(command, capture_output=True).returncode:
        yield Disk(folder)
        subprocess.run(["umount", str(folder)], check=True)
    else:
        yield Disk(folder, {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))})


def test_a_full_disk(middling, coded, disk, tmp_path):
    out = disk.folder
    for base in ("av1", "none"):
        options = ("--base", base, "--preset", "fast", "--keyint", 8, "-q", 90)
        ended(start("encode", middling, "-o", out / "a.sdv", *options, folder=tmp_path, **disk.options), 1)
        assert names(tmp_path) == ["disk"]
    for name, *options in (("a.mp4",), ("a.mkv", "--lossless"), ("a.y4m",), ("a.mp4", "--preview")):
        call = ("decode", coded["av1"], "-o", out / name, *options)
        ended(start(*call, folder=tmp_path, **disk.options), 1)
        assert names(tmp_path) == ["disk"]
    for option in ("--html", "--json"):
        ended(start("report", middling, middling, option, out / "report", folder=tmp_path, **disk.options), 1)
        assert names(tmp_path) == ["disk"]


def test_no_room_for_what_is_temporary(middling, coded, disk, tmp_path):
    """It is that folder which the line names, not the output."""
    variables = {"TMPDIR": str(disk.folder)}
    for call in (("encode", middling, "-o", tmp_path / "a.sdv"), ("decode", coded["av1"], "-o", tmp_path / "a.mp4")):
        process = start(*call, folder=tmp_path, variables=variables, **disk.options)
        assert ended(process, 1).startswith(f"Error: {disk.folder}{os.sep}sdvideo-")
        assert names(tmp_path) == ["disk"]


def test_a_reader_that_leaves(coded, tmp_path):
    for call in (("decode", coded["av1"], "-o", "-"), ("decode", coded["none"], "-o", "-")):
        process = start(*call, folder=tmp_path)
        process.stdout.close()
        assert (process.stderr.read(), process.wait(300)) == (b"", 1)
        assert names(tmp_path) == []


def test_results_that_nobody_reads_end_a_batch(source, tmp_path):
    process = start("encode", source, source.parent / "none.mp4", "-o", f"{tmp_path}/", "--json", folder=tmp_path)
    process.stdout.close()
    assert (process.stderr.read(), process.wait(300)) == (b"", 1)
    assert names(tmp_path) == ["clip.sdv"]


def test_no_exception_goes_through_torch_while_it_is_loaded(tmp_path):
    """Its C++ would abort, now and then: this stands in for it."""
    lines = (
        "import os, signal",
        "try: os.kill(os.getpid(), signal.SIGINT)",
        "except KeyboardInterrupt: print('through')",
    )
    (tmp_path / "torch.py").write_text("\n".join(lines))
    # It is ignored where tests run in the background.
    usual = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script = "from sdvideo.runtime.signals import ends_soon\nwith ends_soon('interrupted'):\n    import torch\n"
    path = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))
    command = [sys.executable, "-c", usual + script]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "interrupted")
