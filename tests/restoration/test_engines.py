"""The engines of the restoration network: they agree, strips have no seams, and OpenVINO needs no PyTorch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Clips, needs

import sdvideo
from sdvideo.restoration.engine import conditioning
from sdvideo.restoration.torch_engine import TorchEngine
from sdvideo.weights import RESTORATION, read_weights

Squares = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def openvino_engine():
    needs("openvino")
    from sdvideo.restoration import openvino_engine

    return openvino_engine


def squares(rows: int, columns: int, seed: int = 0) -> Squares:
    """Something like a picture, the same a little changed, and warp errors."""
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (rows, columns, 24)).astype(np.float32), (0, 0), 3)
    upscaled = np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
    warped = np.clip(upscaled + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)
    return upscaled, warped, rng.integers(0, 20, (rows, columns, 4)).astype(np.uint8)


@pytest.mark.parametrize("setting", [conditioning(20, 1), conditioning(45, 2 / 3), conditioning(63, 0.5)])
def test_engines_agree(openvino_engine, setting: tuple[float, float]) -> None:
    picture = squares(40, 56)
    ours = openvino_engine.OpenvinoEngine(read_weights(RESTORATION)).restore(*picture, setting)
    theirs = TorchEngine(read_weights(RESTORATION), "cpu").restore(*picture, setting)
    assert not np.array_equal(ours, picture[0])  # the network does something
    apart = np.abs(ours.astype(int) - theirs)
    assert apart.max() <= 2 and (apart > 0).mean() < 0.1


def test_parts_are_as_in_the_whole_picture(openvino_engine) -> None:
    engine, (upscaled, warped, warp_error), setting = (
        openvino_engine.OpenvinoEngine(read_weights(RESTORATION)),
        squares(40, 56),
        (0, 1),
    )
    whole = engine.restore(upscaled, warped, warp_error, setting)
    for rows, columns in [(slice(0, 25), slice(9, 56)), (slice(3, 39), slice(0, 31))]:
        part = engine.restore(
            *(np.ascontiguousarray(of[rows, columns]) for of in (upscaled, warped, warp_error)), setting
        )
        inner = np.abs(whole[rows, columns].astype(int) - part)[7:-7, 7:-7]
        assert inner.max() <= 1 and (inner > 0).mean() < 0.01  # sums in another order round differently


def test_threads_may_share_an_engine(openvino_engine) -> None:
    engine, setting = openvino_engine.OpenvinoEngine(read_weights(RESTORATION)), conditioning(45, 0.5)
    pictures = [squares(20 + seed, 24, seed) for seed in range(6)]
    alone = [engine.restore(*picture, setting) for picture in pictures]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda picture: engine.restore(*picture, setting), pictures))
    assert all(map(np.array_equal, alone, together))


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs signals of POSIX")
def test_signals_arrive_after_an_engine_was_freed_in_another_thread(openvino_engine) -> None:
    script = (
        "import gc, signal, sys, threading\n"
        "import numpy as np\n"
        "from sdvideo.restoration.engine import conditioning\n"
        "from sdvideo.restoration.openvino_engine import OpenvinoEngine\n"
        "from sdvideo.weights import RESTORATION, read_weights\n"
        "holder = [OpenvinoEngine(read_weights(RESTORATION))]\n"
        "squares = np.zeros((16, 16, 24), np.uint8)\n"
        "holder[0].restore(squares, squares, squares[..., :4].copy(), conditioning(45, 0.5))\n"
        "thread = threading.Thread(target=lambda: (holder.clear(), gc.collect()))\n"
        "thread.start(), thread.join()\n"
        "came = threading.Event()\n"
        "signal.signal(signal.SIGALRM, lambda *_: came.set())\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01)\n"
        "sys.exit(not came.wait(10))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_decoding_and_reporting_work_without_torch(openvino_engine, clips: Clips, tmp_path: Path) -> None:
    clip, path = clips["cfr"].path, tmp_path / "a.sdv"
    sdvideo.encode(clip, path, preset="fast")
    script = (
        "import sys, sdvideo\n"
        "sys.modules.update(dict.fromkeys(('torch', 'diffusers', 'constriction', 'huggingface_hub')))\n"
        f"sdvideo.decode({str(path)!r}, {str(tmp_path / 'a.mp4')!r}, device='cpu')\n"
        f"sdvideo.report({str(clip)!r}, {str(path)!r}, device='cpu')\n"
        f"assert not sdvideo.verify({str(path)!r}, device='cpu')\n"
        f"sdvideo.encode({str(clip)!r}, {str(tmp_path / 'b.sdv')!r}, preset='fast', device='cpu')\n"
        f"sdvideo.encode({str(clip)!r}, {str(tmp_path / 'c.sdv')!r}, device='cpu')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "b.sdv").read_bytes() == path.read_bytes()


def test_what_needs_torch_says_so_where_it_is_missing(clips: Clips, tmp_path: Path) -> None:
    arguments = ["sdvideo", "encode", str(clips["silent"].path), "-o", str(tmp_path / "a.sdv"), "--base", "none"]
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'diffusers', 'constriction', 'huggingface_hub')))\n"
        f"sys.argv = {arguments!r}\n"
        "from sdvideo.cli.app import main\n"
        "main()\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ)
    lines = ran.stderr.splitlines()
    assert ran.returncode == 1 and len(lines) == 1 and "which the light installation leaves out" in lines[0], ran.stderr
