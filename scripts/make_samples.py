"""Make samples/walk.mp4: five natural-looking seconds whose every pixel may be given away.

Photographs that ship inside scikit-image become two shots with one hard cut between them:

    dusk   an astronaut walks past the camera in front of a rocket: slow pan and zoom, a near layer that
           covers and uncovers the far one, motion blur, failing light
    table  an espresso cup seen from a camera that drifts closer: three heights of parallax, passing light

Both get the same sensor noise; the sound is synthesised. Nothing is downloaded, and the same versions of the
libraries make the same bytes:

    pip install numpy opencv-python scikit-image av
    python scripts/make_samples.py [OUT.mp4]
"""

import argparse
import sys
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

WIDTH, HEIGHT, FPS = 640, 360, 25
FRAMES, CUT = 125, 70  # the table begins at frame CUT
OVERSAMPLE = 2  # layers are drawn this much larger, then area-averaged: clean edges, no aliasing
SHUTTER = (0.0, 0.17, 0.34, 0.5)  # moments averaged into one frame, in frame times: a 180 degree shutter
SAMPLE_RATE = 48_000
NOISE = 0.9  # standard deviation of the luma noise, 8-bit steps
CRF = 16

# Outlines drawn by hand on the photographs, in their pixels.
ASTRONAUT = [
    (182, 131), (172, 125), (158, 112), (154, 90), (153, 65), (165, 48), (185, 37), (200, 25),
    (215, 18), (235, 16), (260, 20), (280, 33), (293, 50), (298, 65), (301, 85), (297, 105),
    (287, 125), (275, 135), (267, 137), (262, 155), (256, 168), (275, 178), (290, 195), (300, 215),
    (304, 235), (322, 245), (338, 262), (350, 285), (355, 305), (360, 330), (363, 346), (380, 344),
    (400, 343), (420, 346), (440, 354), (460, 370), (475, 390), (487, 415), (494, 440), (497, 460),
    (498, 530), (42, 530), (35, 506), (23, 469), (24, 436), (21, 403), (24, 380), (26, 337),
    (37, 305), (49, 276), (70, 248), (112, 208), (115, 187), (125, 178), (135, 165), (150, 155),
    (170, 150), (183, 149),
]  # fmt: skip
SAUCER = [
    (77, 214), (81, 250), (89, 281), (107, 312), (129, 337), (156, 358), (183, 374), (214, 384),
    (250, 390), (288, 392), (339, 386), (384, 371), (424, 348), (455, 312), (472, 277), (480, 237),
    (479, 201), (470, 170), (451, 138), (417, 106), (185, 68), (156, 78), (129, 96), (105, 125),
    (89, 154), (79, 187),
]  # fmt: skip
SPOON_END = [(392, 80), (400, 70), (412, 67), (421, 71), (424, 80), (415, 110), (405, 130), (395, 120)]
CUP_RIM = ((289, 112), (118, 95))  # centre and half axes of an ellipse


def photo(name):
    """float32 RGB in [0, 1] of a photograph inside the scikit-image package, which is not imported for it."""
    path = Path(find_spec("skimage").origin).parent / "data" / name
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255


def shape(size, points):
    """Filled smooth polygon as a float32 mask; the points are corners of a curve, not of straight edges."""
    closed = np.array(points, np.float32)
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(closed * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 1.5)


def cut_out(image, outline, slack):
    """RGBA of what lies inside the outline; GrabCut places the edge within ±slack pixels of it.

    The matte is soft, and colours near the edge are grown outward from the inside, so nothing of the old
    background shines through.
    """
    inside = (outline > 0.5).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * slack + 1, 2 * slack + 1))
    mask = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[cv2.erode(inside, disc, borderValue=1) > 0] = cv2.GC_FGD
    mask[cv2.dilate(inside, disc) == 0] = cv2.GC_BGD
    cv2.setRNGSeed(1)
    bgr8 = np.round(image[..., ::-1] * 255).astype(np.uint8)
    cv2.grabCut(bgr8, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    found = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.float32)
    found = (cv2.GaussianBlur(found, (0, 0), 2.0) > 0.5).astype(np.float32)  # no single-pixel spikes
    return soft(image, found)


def soft(image, mask, inset=1.6, softness=0.9):
    """RGBA with the mask's edge moved `inset` pixels inwards and blurred, and clean colours beyond it."""
    padded = cv2.copyMakeBorder((mask > 0.5).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    alpha = cv2.GaussianBlur(np.clip(depth - inset + 0.5, 0, 1), (0, 0), softness)
    core = (depth > inset + 1.5).astype(np.float32)[..., None]
    weight, colour = (
        cv2.GaussianBlur(core, (0, 0), 2.5)[..., None],
        cv2.GaussianBlur(image * core, (0, 0), 2.5),
    )
    grown = np.where(core > 0, image, colour / np.maximum(weight, 1e-4))
    return np.dstack([grown, alpha]).astype(np.float32)


def heal(image, mask, reach):
    """The image with a ring just inside the mask, which parallax may uncover, filled from outside."""
    hole = cv2.dilate((mask > 0.02).astype(np.uint8), np.ones((5, 5), np.uint8))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    ring = hole & (1 - cv2.erode(hole, disc))
    small = np.round(image * 255).astype(np.uint8)
    filled = cv2.inpaint(small, ring, 5, cv2.INPAINT_NS).astype(np.float32) / 255
    return np.where(ring[..., None] > 0, filled, image)


def place(layer, centre, at, scale, degrees=0.0, flow=None):
    """Draw a layer so that its pixel `centre` falls on frame position `at`, `scale` times as large.

    `flow` is an optional HxWx2 offset in layer pixels, taken off the place sampled from.
    """
    turn = np.deg2rad(degrees)
    a, b = scale * np.cos(turn), scale * np.sin(turn)
    forward = np.array([[a, -b, at[0] - a * centre[0] + b * centre[1]], [b, a, at[1] - b * centre[0] - a * centre[1]]])
    # Pixel centres sit at half coordinates, so oversampling moves the origin by half a pixel too.
    forward = OVERSAMPLE * forward
    forward[:, 2] += (OVERSAMPLE - 1) / 2
    if flow is not None:
        x, y = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (layer.shape[1], layer.shape[0])))
        layer = cv2.remap(layer, x - flow[..., 0], y - flow[..., 1], cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT)
    size = (WIDTH * OVERSAMPLE, HEIGHT * OVERSAMPLE)
    border = cv2.BORDER_REFLECT if layer.shape[2] == 3 else cv2.BORDER_CONSTANT
    return cv2.warpAffine(layer, forward, size, flags=cv2.INTER_LANCZOS4, borderMode=border)


def over(far, near):
    alpha = np.clip(near[..., 3:], 0, 1)
    return far * (1 - alpha) + near[..., :3] * alpha


def sway(t, seed):
    """Handheld drift in frame pixels, (x, y)."""
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, (2, 3))
    waves = np.sin(2 * np.pi * np.array([0.37, 0.83, 1.9]) * t + phase) * np.array([1.6, 0.8, 0.25])
    return waves.sum(axis=1)


def ease(u):
    return u * u * (3 - 2 * u)


def dusk():
    """The first shot, as a function of time in seconds -> RGB at OVERSAMPLE size."""
    sky = photo("rocket.jpg")
    person = photo("astronaut.png")
    person = np.vstack([person, person[:-65:-1]])  # some room below the picture's edge, always out of frame
    walker = cut_out(person, shape(person.shape[:2], ASTRONAUT), slack=5)
    # A studio portrait under a dusk sky: a little less light, cooler on the side away from the pad's lamps.
    cool, warm = np.array([0.60, 0.64, 0.78]), np.array([0.95, 0.86, 0.80])
    side = np.linspace(0, 1, walker.shape[1])[None, :, None] ** 1.2
    walker[..., :3] = walker[..., :3] ** 1.12 * (warm * (1 - side) + cool * side)

    def draw(t):
        u = t * FPS / CUT
        hand = sway(t, 3)
        zoom = 1.13 + 0.10 * ease(u)
        frame = place(sky, (320, 232), (320 + 26 - 44 * u + hand[0], 168 + 10 * u + hand[1]), zoom, 0.3 * hand[0])
        step = 2 * np.pi * 1.7 * t
        near = 0.66 + 0.12 * u  # she comes closer
        at = (
            505 - 330 * u + 2 * np.sin(step / 2) + 1.5 * hand[0],
            110 - 3 * np.abs(np.sin(step / 2)) + 1.5 * hand[1],
        )
        frame = over(frame, place(walker, (232, 120), at, near, 0.8 * np.sin(step / 2)))
        light = np.array([1.10, 1.06, 1.02]) * (1 - u) + np.array([0.74, 0.78, 0.92]) * u
        return frame * light

    return draw


def table():
    """The second shot: table, saucer and cup rim move by their height above the wood."""
    scene = photo("coffee.png")
    size = scene.shape[:2]
    rim = np.zeros(size, np.uint8)
    cv2.ellipse(rim, *CUP_RIM, 0, 0, 360, 255, -1, cv2.LINE_AA)
    rim = rim.astype(np.float32) / 255
    mask = np.maximum.reduce([shape(size, SAUCER), shape(size, SPOON_END), rim])
    dishes = soft(scene, mask, inset=0.8)
    wood = heal(scene, mask, reach=14)
    # The cup widens upwards: the rim is highest, and the height falls off softly, so nothing tears.
    height = cv2.GaussianBlur(rim, (0, 0), 14)[..., None]
    ys, xs = np.mgrid[: HEIGHT * OVERSAMPLE, : WIDTH * OVERSAMPLE].astype(np.float32) / OVERSAMPLE

    def draw(t):
        u = (t * FPS - CUT) / (FRAMES - CUT)
        hand = sway(t, 8)
        zoom = 1.10 + 0.16 * ease(u)
        move = np.array([34 * u - 17, 10 - 16 * u]) + hand  # of the camera, in frame pixels at the saucer's height
        lean = (0.14 * move / zoom).astype(np.float32)
        at = np.array([325.0, 176.0]) + move
        frame = place(wood, (300, 200), at - 0.10 * move, zoom, 0.8 - 1.2 * u)
        frame = over(frame, place(dishes, (300, 200), at, zoom, 0.8 - 1.2 * u, flow=height * lean))
        # A soft light passes from left to right.
        glow = np.exp(-(((xs - 80 - 560 * u) / 300) ** 2) - ((ys - 120) / 320) ** 2)[..., None]
        return frame * (0.70 + 0.36 * glow * np.array([1.0, 0.96, 0.88]))

    return draw


def pictures():
    """Finished frames, float32 RGB in [0, 1]."""
    shots = dusk(), table()
    for n in range(FRAMES):
        draw = shots[n >= CUT]
        frame = np.mean([draw((n + part) / FPS) for part in SHUTTER], axis=0)
        yield np.clip(cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), 0, 1)


def to_yuv420(rgb, noise):
    """RGB in [0, 1] -> planar 8-bit BT.709, limited range, chroma sited left; sensor noise is added here."""
    r, g, b = (rgb[..., i].astype(np.float64) for i in range(3))
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    planes = [16 + 219 * y]
    for colour, span in ((b, 1.8556), (r, 1.5748)):
        c = (colour - y) / span
        c = cv2.sepFilter2D(c, -1, np.array([0.25, 0.5, 0.25]), np.array([1.0]), borderType=cv2.BORDER_REPLICATE)
        c = c[:, ::2]  # left-sited across, halfway down
        planes.append(128 + 224 * (c[::2] + c[1::2]) / 2)
    for i, plane in enumerate(planes):
        grain = cv2.GaussianBlur(noise.standard_normal(plane.shape), (0, 0), 0.6)  # demosaicing smears real noise
        strength = NOISE / grain.std() * (1 if i == 0 else 0.6)
        planes[i] = np.clip(np.round(plane + strength * grain), 16, 235 if i == 0 else 240).astype(np.uint8)
    return np.concatenate([p.reshape(-1) for p in planes]).reshape(HEIGHT * 3 // 2, WIDTH)


def pluck(pitch, start, loudness, pan, length):
    """A plucked string: decaying partials, the higher the shorter. Returns 2 x length."""
    t = np.arange(length) / SAMPLE_RATE - start
    on = t >= 0
    t = np.where(on, t, 0)
    tone = sum(
        np.sin(2 * np.pi * pitch * k * (1 + 2e-4 * k * k) * t) * np.exp(-t * (1.1 + 0.75 * k)) * (0.62**k)
        for k in range(1, 11)
    )
    tone *= on * np.minimum(t / 0.004, 1) * loudness
    return np.outer([np.cos(pan * np.pi / 2), np.sin(pan * np.pi / 2)], tone)


def sound():
    """Stereo float32, 2 x samples: wind outdoors, a quiet room after the cut, plucked chords over both."""
    length = FRAMES * SAMPLE_RATE // FPS
    t = np.arange(length) / SAMPLE_RATE
    rng = np.random.default_rng(709)
    frequency = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)

    def hiss(low, high):
        band = 1 / (1 + (low / np.maximum(frequency, 1)) ** 4) / (1 + (frequency / high) ** 2)
        noise = np.fft.irfft(np.fft.rfft(rng.standard_normal((2, length))) * band, length)
        return noise / noise.std()

    indoors = 1 / (1 + np.exp(-(t - CUT / FPS) * 200))  # a 20 ms crossfade, no click
    gusts = 0.55 + 0.3 * np.sin(2 * np.pi * 0.31 * t + 0.4) + 0.15 * np.sin(2 * np.pi * 0.83 * t)
    mix = 0.030 * gusts * (1 - indoors) * hiss(90, 420) + 0.005 * indoors * hiss(150, 1800)
    chords = {0.15: (110.0, 164.8, 220.0, 261.6, 329.6), 1.5: (87.3, 130.8, 220.0, 261.6, 349.2),
              2.8: (98.0, 146.8, 196.0, 246.9, 392.0), 4.0: (130.8, 164.8, 196.0, 329.6, 523.3)}  # fmt: skip
    for start, pitches in chords.items():
        for i, pitch in enumerate(pitches):
            mix += pluck(pitch, start + 0.13 * i, 0.16, 0.3 + 0.1 * i, length)
    fade = np.minimum(1, np.minimum(t / 0.05, (t[-1] - t) / 0.35))
    return (mix * fade).astype(np.float32)


def write(path):
    # What depends on the machine or the date stays out of the file: same input, same bytes.
    with av.open(str(path), "w", options={"movflags": "+faststart"}, container_options={"fflags": "+bitexact"}) as out:
        video = out.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options = {"crf": str(CRF), "preset": "veryslow"}
        video.thread_count = 2
        context = video.codec_context
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        audio = out.add_stream("aac", rate=SAMPLE_RATE, layout="stereo", bit_rate=96_000)

        def mux_sound(start, stop):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, start:stop]), "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            out.mux(audio.encode(frame))

        samples, noise, step = sound(), np.random.default_rng(25), SAMPLE_RATE // FPS
        for n, rgb in enumerate(pictures()):
            frame = av.VideoFrame.from_ndarray(to_yuv420(rgb, noise), format="yuv420p")
            frame.pts, frame.time_base = (
                n,
                Fraction(1, FPS),
            )  # the stream takes another once the header is out
            frame.color_primaries, frame.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
            frame.colorspace, frame.color_range = Colorspace.ITU709, ColorRange.MPEG
            mux_sound(n * step, (n + 1) * step)
            out.mux(video.encode(frame))
            print(f"\rframe {n + 1}/{FRAMES}", end="", file=sys.stderr)
        out.mux(video.encode())
        out.mux(audio.encode())
    print(f"\r{path}: {path.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[1] / "samples" / "walk.mp4"
    parser.add_argument("target", nargs="?", type=Path, default=default, help="samples/walk.mp4 if not given")
    write(parser.parse_args().target)
