"""Readers in other processes: forked with one that was used, or pickled."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Clips

import sdvideo
from sdvideo.codecs import registry

FORK = """
import os, signal, sys
import numpy as np
import sdvideo

def alike(a, b):  # OpenVINO gives way to PyTorch in forked processes, and the two round differently
    return np.abs(a.astype(int) - b).max() <= 2

with sdvideo.open(sys.argv[1], device="cpu") as video:
    frames = iter(video)
    first = [next(frames) for _ in range(3)]  # leaves threads that prefetch
    second = video[6]
    child = os.fork()
    if not child:
        signal.alarm(60)
        again = [video[number].picture.y for number in (0, 1, 2, 6)]
        expected = [frame.picture.y for frame in (*first, second)]
        same = all(map(alike, again, expected)) and len(list(video)) == len(video)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(video[6].picture.y, second.picture.y)  # the parent's file position is its own
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("base", registry.names())
def test_a_forked_process_reads_on(base: str, clips: Clips, tmp_path: Path) -> None:
    path = tmp_path / "a.sdv"
    sdvideo.encode(clips["cfr"].path, path, base=base, keyint=5)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_a_pickled_reader_opens_the_file_again(clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.sdv"
    sdvideo.encode(clips["cfr"].path, path, preset="fast")
    monkeypatch.chdir(tmp_path)
    with sdvideo.open("a.sdv", device="cpu") as video:
        expected = video[3].picture.y
        packed = pickle.dumps(video)
    monkeypatch.chdir(tmp_path.parent)
    with pickle.loads(packed) as again:
        assert np.array_equal(again[3].picture.y, expected)


def test_a_data_loader_with_workers(clips: Clips, tmp_path: Path) -> None:
    """What users do: a dataset that holds an open reader, and worker processes."""
    from torch.utils.data import DataLoader, Dataset

    path = tmp_path / "a.sdv"
    sdvideo.encode(clips["cfr"].path, path, preset="fast", keyint=4)

    class Frames(Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.video = sdvideo.open(path, device="cpu")
            self.first = self.video[0].picture.y

        def __len__(self) -> int:
            return len(self.video)

        def __getitem__(self, index: int) -> np.ndarray:
            return self.video[index].picture.y

    frames = Frames()
    context = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    loader = DataLoader(frames, batch_size=None, num_workers=2, multiprocessing_context=context, timeout=60)
    found = [np.asarray(luma) for luma in loader]
    assert len(found) == clips["cfr"].frames
    # OpenVINO gives way to PyTorch in forked processes, and the two round differently.
    assert all(np.abs(luma.astype(int) - frames[number]).max() <= 2 for number, luma in enumerate(found))
