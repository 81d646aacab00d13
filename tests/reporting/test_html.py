"""The report's page: the contents of the file, and its behaviour in a browser that opens it from disk."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Clips, synthesise

import sdvideo.reporting.html
from sdvideo.frames import Colour, Picture
from sdvideo.reporting.html import Pair, select_frames, write_page

COUNT, RATE, CUT = 60, 25, 40
BITS, SQUARE = 6, 16  # each picture shows its number as black and white squares along its upper edge
MEASURES = (("psnr_y", "PSNR Y", "dB", "higher"), ("phi", "φ", "", "lower"), ("r_w", "R_w", "", "one"))


class FakeReport:
    """The part of a report that the page needs, its document: invented numbers, with gaps in phi and r_w."""

    def __init__(self, count: int = COUNT, path: str = "videos/coded.sdv", worst: Iterable[int] = (12, 45)) -> None:
        names = [name for name, *_ in MEASURES]
        video = {"path": "videos/clip.mp4", "width": 192, "height": 128, "frames_per_second": float(RATE)}
        made = {"path": path, "model": {"name": "tiny"}, "base": None, "settings": {"quality": 50}}
        statistics = {"clip": 1.5, "mean": 1.5, "min": 1, "p5": 1.1, "p50": 1.4, "p95": 1.9, "max": 2}
        self._document = {
            "schema": 1,
            "type": "report",
            "version": "0.1.0",
            "info": {"reference": video, "distorted": video | made, "notes": ["Aligned by time."]},
            "measures": [dict(zip(("name", "title", "unit", "better"), measure)) for measure in MEASURES],
            "summary": {
                "frames": count,
                "key_frames": -(-count // 20),
                "seconds": count / RATE,
                "bytes": 100 * count,
                "kbit_per_second": 20.0,
                "cuts": [CUT],
                "kp": 1.4,
                "worst": {"psnr_y": [number for number in worst if number < count], "phi": []},
                **dict.fromkeys(names, statistics),
            },
            "frames": [
                {
                    "frame": i,
                    "seconds": i / RATE,
                    "type": "predicted" if i % 20 else "key",
                    "bytes": 400 if i % 20 == 0 else 85,
                    "cut": i == CUT,
                    **{name: None if name != "psnr_y" and i in (0, CUT) else 1 + i % 7 / 10 for name in names},
                }
                for i in range(count)
            ],
        }

    def document(self) -> dict[str, Any]:
        return self._document


def numbered_pairs(count: int = COUNT, width: int = 192, height: int = 128) -> Iterator[Pair]:
    """A clip and a blurred copy; the pictures of both show their frame number."""
    for number, planes in enumerate(synthesise(width, height, min(count, COUNT))):
        for bit in range(BITS):
            planes[0][:SQUARE, bit * SQUARE : (bit + 1) * SQUARE] = 235 if number >> bit & 1 else 16
        blurred = (cv2.GaussianBlur(planes[0], (0, 0), 1.5), planes[1], planes[2])
        yield Pair(number, Picture(*planes), Picture(*blurred))


def built(report: FakeReport, pairs: Iterable[Pair]) -> str:
    file = io.StringIO()
    write_page(file, report.document(), pairs, Colour())
    return file.getvalue()


def embedded(page: str, id: str) -> str:
    return re.search(rf'<script type="[^"]+" id="{id}">(.*?)</script>', page, re.DOTALL)[1]


@pytest.fixture(scope="module")
def page() -> str:
    return built(FakeReport(), numbered_pairs())


# --- the file -----------------------------------------------------------------------------------------------


def test_page_refers_to_nothing_outside_it(page: str) -> None:
    own = re.sub(r"base64,[^\"]+|(?<=id=\"webm\">)[^<]+", "", page)
    assert len(own) < 100_000
    assert not re.findall(r"https?:|[\"'(]//|@import|url\(", own)
    assert "default-src 'none'" in page
    assert len(page) < 2_000_000


def test_page_holds_the_report_in_columns(page: str) -> None:
    data, document = json.loads(embedded(page, "data")), FakeReport().document()
    assert data["summary"] == document["summary"]
    assert data["columns"]["phi"] == [row["phi"] for row in document["frames"]]
    assert data["keys"] == [0, 20, 40]
    assert data["playback"] == {"rate": RATE, "kept": list(range(COUNT)), "width": 192, "height": 128}


def test_worst_frames_are_stills_with_maps_except_at_cuts() -> None:
    pairs = list(numbered_pairs())
    strange = synthesise(192, 128, 1, seed=9)[0]
    pairs[30] = Pair(30, Picture(*strange), Picture(*strange))
    stills = json.loads(embedded(built(FakeReport(worst=(45, 0, 30)), pairs), "stills"))
    assert [(still["frame"], still["heat"] is not None) for still in stills["frames"]] == [
        (0, False),
        (30, False),
        (45, True),
    ]
    assert stills["whole"]["heat"].startswith("data:image/webp;base64,")


def test_file_names_are_escaped() -> None:
    name = '</title></script><script>alert("1")</script>&.mp4'
    page = built(FakeReport(1, path=name), numbered_pairs(1))
    assert page.count("<script") == 4
    assert json.loads(embedded(page, "data"))["info"]["distorted"]["path"] == name


def test_odd_sizes_and_a_single_frame(clips: Clips) -> None:
    planes = clips["odd"].planes
    for count in (1, len(planes)):
        pairs = [Pair(i, Picture(*planes[i]), Picture(*planes[i])) for i in range(count)]
        playback = json.loads(embedded(built(FakeReport(count, worst=(0,)), pairs), "data"))["playback"]
        assert (playback["width"], playback["height"]) == (66, 48)


def test_a_playback_that_is_too_large_is_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    grey = np.full((64, 96), 128, np.uint8)
    noise = [Picture(rng.integers(16, 235, (128, 192), np.uint8), grey, grey) for _ in range(30)]
    monkeypatch.setattr(sdvideo.reporting.html, "_PLAYBACK_BYTES", 100_000)
    page = built(FakeReport(len(noise)), [Pair(i, picture, picture) for i, picture in enumerate(noise)])
    assert 20_000 < len(embedded(page, "webm")) * 3 / 4 < 100_000


@pytest.mark.slow
def test_ten_seconds_of_480p_stay_under_five_megabytes() -> None:
    rng = np.random.default_rng(2)
    planes = synthesise(854, 480, 1, speed=3)[0]
    grain = rng.integers(-6, 7, (480 + 64, 854 + 64))

    def pairs() -> Iterator[Pair]:
        for i in range(250):
            row, column = rng.integers(0, 64, 2)
            y = np.roll(planes[0], 2 * i, 1) + grain[row : row + 480, column : column + 854]
            source = Picture(np.clip(y, 0, 255).astype(np.uint8), *planes[1:])
            yield Pair(i, source, Picture(cv2.GaussianBlur(source.y, (0, 0), 1), *planes[1:]))

    report = FakeReport(250, worst=range(20, 240, 40))
    assert 1_000_000 < len(built(report, pairs())) < 5_000_000


def test_short_videos_are_played_in_full() -> None:
    assert select_frames(600, [5], Fraction(25)) == list(range(600))


@pytest.mark.parametrize("count", [601, 5000, 200_000])
@pytest.mark.parametrize("worst", [(), (0, 300), (10, 20, 200, 400, 600), tuple(range(0, 600, 7))])
def test_long_videos_keep_the_frames_around_the_worst(count: int, worst: tuple[int, ...]) -> None:
    kept = select_frames(count, worst, Fraction(25))
    assert kept == sorted(set(kept))
    assert kept[0] >= 0 and kept[-1] < count and len(kept) <= 600
    assert set(worst) <= set(kept)
    if len(worst) <= 5:
        assert {n for place in worst for n in range(place - 25, place + 26) if 0 <= n < count} <= set(kept)
    assert max(b - a for a, b in pairwise(kept)) <= -(-count // 300)


# --- in a browser -------------------------------------------------------------------------------------------


class Browser:
    """Headless Chromium showing one page at one width."""

    def __init__(self, driver: Any, url: str, width: int, height: int) -> None:
        self.driver = driver
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(url)
        self.wait(lambda: self.codes() == [0, 0])

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], bool]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 20, 0.05).until(lambda _: condition())

    def codes(self) -> list[int]:
        """The frame numbers that the pictures on the two canvases show, -1 while there is no picture."""
        return self.state()["codes"]

    def state(self) -> dict[str, Any]:
        """codes, and `said`, the frame number in the page's text; both at the same moment."""
        return self.js(
            """const [bits, side] = arguments;
            const codes = ["source", "decoded"].map((id) => {
              const canvas = document.getElementById(id);
              const size = [canvas.width, canvas.height];
              const copy = new OffscreenCanvas(...size).getContext("2d", {willReadFrequently: true});
              copy.drawImage(canvas, 0, 0);
              const level = (x, y) => copy.getImageData(x, y, 1, 1).data[1];
              if (level(bits * side + 30, 40) < 20) return -1;
              const set = (bit) => level((bit + .5) * side, 6) > 128;
              return [...Array(bits).keys()].filter(set).reduce((sum, bit) => sum + 2 ** bit, 0);
            });
            return {codes, said: +document.getElementById("number").textContent.match(/\\d+/)[0]};""",
            BITS,
            SQUARE,
        )

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click_plot(self, plot: int, frame: int) -> None:
        """Click on a plot at the position of a frame."""
        from selenium.webdriver import ActionChains

        element = self.driver.find_elements("css selector", "#plots .plot")[plot]
        self.js("arguments[0].scrollIntoView({block: 'end'})", element)
        left = self.js("return parseFloat(getComputedStyle(document.documentElement).getPropertyValue('--gutter'))")
        width = element.size["width"]
        x = left + (width - left) * (frame + 0.5) / COUNT
        ActionChains(self.driver).move_to_element_with_offset(element, round(x - width / 2), 0).click().perform()

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("no Chromium with its driver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=chromedriver)  # given, so that Selenium does not download one
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def url(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(params=[(1400, 900), (390, 844)], ids=["wide", "phone"])
def browser(request: pytest.FixtureRequest, driver: Any, url: str) -> Iterator[Browser]:
    """The page, freshly loaded. After the test: no error on the console, no request to a network."""
    for log in ("browser", "performance"):
        driver.get_log(log)  # drops entries of earlier tests
    browser = Browser(driver, url, *request.param)
    yield browser
    assert browser.js("return document.documentElement.scrollWidth") <= request.param[0]
    assert driver.get_log("browser") == []
    events = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    # Chromium's own first tab may still be loading.
    urls = {params["request"]["url"] for params in asked if not params["documentURL"].startswith("chrome:")}
    assert url in urls
    assert not [other for other in urls - {url} if not other.startswith(("data:", "blob:"))]


def test_curves_are_drawn(browser: Browser) -> None:
    curves = browser.js("return [...document.querySelectorAll('.curve')].map((path) => path.getAttribute('d'))")
    assert len(curves) == len(MEASURES)
    assert [curve.count("M") for curve in curves] == [1, 2, 2]  # gaps at the cut
    assert all(curve.count("L") > COUNT // 2 for curve in curves)
    bars = browser.js("return [...document.querySelectorAll('.bars')].map((path) => path.getAttribute('d'))")
    assert [bar.count("M") for bar in bars] == [COUNT - 3, 3]
    text = browser.find("body").text
    for words in ("coded.sdv", "higher is better", "lower is better", "best at 1", "cut 40", "Key-frame pop"):
        assert words in text or words in browser.find("body").get_attribute("textContent")
    assert "Aligned by time." in text


def test_click_on_a_curve_shows_that_frame(browser: Browser) -> None:
    for plot, frame in ((1, 37), (0, 5), (3, 58)):
        browser.click_plot(plot, frame)
        browser.wait(lambda frame=frame: browser.state() == {"codes": [frame, frame], "said": frame})
    assert browser.js("return document.querySelector('#plots .value').textContent").startswith("0.68")


def test_worst_frame_of_the_table_is_shown(browser: Browser) -> None:
    button = browser.find("tbody button")
    browser.js("arguments[0].scrollIntoView({block: 'center'})", button)
    frame = int(re.search(r"frame (\d+)", button.text)[1])
    button.click()
    browser.wait(lambda: browser.codes() == [frame, frame])


def test_keys_step_through_the_frames(browser: Browser) -> None:
    from selenium.webdriver import Keys

    steps = ((Keys.ARROW_RIGHT, 1), (Keys.ARROW_RIGHT, 2), (Keys.ARROW_LEFT, 1), (Keys.END, COUNT - 1), (Keys.HOME, 0))
    for key, frame in steps:
        browser.press(key)
        browser.wait(lambda frame=frame: browser.codes() == [frame, frame])


def test_both_pictures_play_in_step(browser: Browser) -> None:
    browser.press(" ")
    seen = []
    while len(set(map(str, seen))) < 6:
        browser.wait(lambda: not seen or browser.state() != seen[-1])
        seen.append(browser.state())
    browser.press(" ")
    assert all(state["codes"] == [state["said"]] * 2 for state in seen)
    assert browser.js("return document.getElementById('film').paused")
    browser.wait(lambda: not browser.js("return document.getElementById('film').seeking"))
    stopped = browser.state()
    assert browser.js("return new Promise((done) => setTimeout(done, 200, 1))") and browser.state() == stopped


def test_playback_repeats_the_second_before_and_after(browser: Browser) -> None:
    browser.click_plot(0, 30)
    browser.wait(lambda: browser.codes() == [30, 30])
    browser.press(" ")
    seen: list[int] = []

    def back_again() -> bool:
        seen.append(browser.state()["said"])
        return len(seen) > 1 and seen[-1] < seen[-2]

    browser.wait(back_again)
    assert min(seen) >= 5 and 50 < max(seen) < COUNT - 1


def test_sliders_move(browser: Browser) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.support.ui import Select

    Select(browser.find("#view")).select_by_value("over")
    for slider, upper in (("#split", "#stage figure + figure"), ("#pictures input", "#pictures .front")):
        element = browser.find(slider)
        browser.js("arguments[0].scrollIntoView({block: 'center'})", element)

        def border(upper: str = upper) -> float:
            style = browser.js("return getComputedStyle(arguments[0]).clipPath", browser.find(upper))
            return float(re.search(r"([\d.]+)%", style)[1])

        assert border() == 50
        drag = ActionChains(browser.driver).move_to_element(element).click_and_hold()
        drag.move_by_offset(round(element.size["width"] * 0.25), 0).release().perform()
        assert border() == pytest.approx(75, abs=1.5)
        before = border()
        element.send_keys(Keys.ARROW_LEFT)
        assert border() < before
    assert browser.state()["said"] == 0  # the arrow keys moved the slider, not the frame


def test_worst_frames_have_a_map(browser: Browser) -> None:
    chips = browser.driver.find_elements("css selector", "#chips button")
    assert [chip.text for chip in chips][:2] == ["Frame 12 PSNR Y", "Frame 45 PSNR Y"]
    browser.js("document.getElementById('worst').scrollIntoView()")
    chips[1].click()
    images = browser.driver.find_elements("css selector", "#pictures img")
    browser.wait(lambda: [browser.js("return arguments[0].naturalWidth", image) for image in images] == [192, 192, 96])
    heat = browser.find("#pictures .heat")
    assert not heat.is_displayed()
    browser.find("#map").click()
    assert heat.is_displayed()
    assert browser.find("#scale").is_displayed()
