"""What users install: the source distribution, the wheel, and a fresh environment with nothing but it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import needs

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    ran = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions, the wheel built from the source distribution, as an index would build it."""
    needs("build")
    folder = tmp_path_factory.mktemp("dist")
    clone = tmp_path_factory.mktemp("source") / "sdvideo"
    # A copy of what git knows, for building leaves folders behind.
    files = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--outdir", folder, cwd=clone)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def test_the_index_would_take_them(dist: Path) -> None:
    needs("twine")
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir(), cwd=dist)


def test_the_source_distribution_holds_its_tests(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in (
        "README.md",
        "constraints.txt",
        "samples/walk.mp4",
        "scripts/setup.sh",
        "tests/conftest.py",
        "tests/golden/tiny.sdv",
        "tests/system/test_packaging.py",
    ):
        assert needed in names, needed


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packaged = {name for name in names if not name.startswith("sdvideo-")}
    assert all(name.startswith("sdvideo/") for name in packaged)
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "sdvideo").rglob("*.py")}
    assert sources <= names
    for needed in ("py.typed", "templates/report.html", "weights/restore.safetensors", "weights/tiny/config.json"):
        assert f"sdvideo/{needed}" in names


def test_links_work_outside_the_repository(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links and all(link.startswith(("https://", "http://", "#")) for link in links), links
    repository = re.search(r"^Project-URL: Repository, (.+)$", text, re.MULTILINE)
    assert repository
    for link in links:
        if link.startswith(repository[1]):
            path = re.sub(r"^/(blob|raw)/main/", "", link.removeprefix(repository[1])).partition("#")[0]
            assert (ROOT / path).exists(), link


def test_a_fresh_environment_encodes_decodes_and_reports(wheel: Path, tmp_path: Path) -> None:
    """Only the wheel is installed; what it needs is borrowed from here, which spares a download of gigabytes."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    site = Path(run(scripts / "python", "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip())
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])
    run(scripts / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    where = run(scripts / "python", "-c", "import sdvideo; print(sdvideo.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(tmp_path)
    sample, sdvideo = ROOT / "samples" / "walk.mp4", scripts / "sdvideo"
    run(sdvideo, "encode", sample, "-o", "walk.sdv", "--preset", "fast", "-q", 30, cwd=tmp_path)
    run(sdvideo, "decode", "walk.sdv", "-o", "walk.mp4", cwd=tmp_path)
    report = json.loads(run(sdvideo, "report", sample, "walk.sdv", "--json", "-", cwd=tmp_path))
    assert report["summary"]["frames"] == 125
    assert (tmp_path / "walk.mp4").stat().st_size > 100_000
