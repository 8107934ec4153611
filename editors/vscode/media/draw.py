# ruff: noqa: INP001 -- a script beside what it makes, not a module
"""Draws the extension's icon (icon.png) and the glyph for the status bar (umbrella.woff) from one outline.

Needs Pillow and fontTools. Run it in this folder; what it makes is committed.
"""

from __future__ import annotations

from math import cos, pi, sin

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

Point = tuple[float, float]
CODE_POINT = 0xE000
UNITS_PER_EM = 1024
ICON_PIXELS = 128
SHAFT_WIDTH = 0.07
HOOK = 0.03
"""Inner radius of the hook; like all outlines in a square of side 1."""
BACKGROUND, CANOPY, SHAFT = "#1f3a5f", "#f2b950", "#f4f1ea"


def arc(x: float, y: float, radius: float, start: float, end: float, steps: int = 16) -> list[Point]:
    """Points on a circle, with y upwards, from `start` to `end` in units of pi."""
    angles = (pi * (start + (end - start) * step / steps) for step in range(steps + 1))
    return [(x + radius * cos(angle), y + radius * sin(angle)) for angle in angles]


def outlines() -> tuple[list[Point], list[Point]]:
    """The canopy and the shaft with its hook, each a closed outline in a square of side 1."""
    canopy = arc(0.5, 0.5, 0.42, 1, 0, 32)
    for middle in (0.78, 0.5, 0.22):
        canopy += arc(middle, 0.5, 0.14, 0, 1)
    half = SHAFT_WIDTH / 2
    hook = 0.5 - half - HOOK, 0.18
    shaft = [(0.5 - half, 0.68), (0.5 + half, 0.68)]
    shaft += arc(*hook, HOOK + SHAFT_WIDTH, 0, -1) + arc(*hook, HOOK, -1, 0)
    return canopy, shaft


def draw_icon(path: str) -> None:
    """A PNG, drawn eight times as large and scaled down so that its edges are smooth."""
    size = ICON_PIXELS * 8
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((0, 0, size - 1, size - 1), radius=size // 6, fill=BACKGROUND)
    for outline, colour in zip(outlines()[::-1], (SHAFT, CANOPY), strict=True):
        pen.polygon([(size * (0.1 + 0.8 * x), size * (0.92 - 0.8 * y)) for x, y in outline], fill=colour)
    image.resize((ICON_PIXELS, ICON_PIXELS), Image.Resampling.LANCZOS).quantize(32).save(path, optimize=True)


def draw_font(path: str) -> None:
    """A font of one glyph, as tall as the text beside it."""
    pen = TTGlyphPen(None)
    for outline in outlines():
        points = [(round(UNITS_PER_EM * x), round(UNITS_PER_EM * y)) for x, y in outline]
        pen.moveTo(points[0])
        for point in points[1:]:
            pen.lineTo(point)
        pen.closePath()
    font = FontBuilder(UNITS_PER_EM, isTTF=True)
    font.setupGlyphOrder([".notdef", "umbrella"])
    font.setupCharacterMap({CODE_POINT: "umbrella"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "umbrella": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (UNITS_PER_EM, 0), "umbrella": (UNITS_PER_EM, 0)})
    font.setupHorizontalHeader(ascent=UNITS_PER_EM, descent=0)
    font.setupNameTable({"familyName": "Umbrella", "styleName": "Regular"})
    font.setupOS2(sTypoAscender=UNITS_PER_EM, usWinAscent=UNITS_PER_EM, usWinDescent=0)
    font.setupPost()
    font.font["head"].created = font.font["head"].modified = 0
    font.font.recalcTimestamp = False
    font.font.flavor = "woff"
    font.save(path)


if __name__ == "__main__":
    draw_icon("icon.png")
    draw_font("umbrella.woff")
