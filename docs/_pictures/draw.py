"""Draw the bars of measured.json as SVG, once a language.

A value that is a name is a figure of the published run, and so is a name in braces; the others were
measured apart from it, as the picture's source says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent
QUOTED = FOLDER.parent / "ja" / "figures.json"
# Legible at the width of a phone: 480 units shown on 360 pixels.
_WIDTH, _LEFT, _TOP, _ROW = 480, 16, 66, 50
_BAR = 380
_COLOURS = {"raw": "#b5502b", "safe": "#2962a3"}
_FONT = (
    "system-ui,-apple-system,'Segoe UI','Hiragino Kaku Gothic ProN','Yu Gothic UI',"
    "'Noto Sans CJK JP','IPAGothic',sans-serif"
)


def draw(picture: dict[str, Any], language: str) -> str:
    """Draw one picture.

    Args:
        picture: Its entry in measured.json.
        language: ``"en"`` or ``"ja"``.

    Returns:
        The SVG. It stands on white, so that it can be read on a dark page as well.
    """
    rows = picture["rows"]
    height = _TOP + _ROW * len(rows) + 8
    size, box = f'width="{_WIDTH}" height="{height}"', f'viewBox="0 0 {_WIDTH} {height}"'
    title = escape(picture["title"][language])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} {size} role="img"',
        f'  lang="{language}" font-family="{_FONT}">',
        f"<title>{title}</title>",
        f"<desc>{escape(picture['source'])}</desc>",
        f'<rect {size} rx="8" fill="#fff"/>',
        _text(_LEFT, 30, title, 'font-size="18" font-weight="600"'),
        _text(_LEFT, 51, escape(picture["note"][language]), 'font-size="14"'),
    ]
    for number, row in enumerate(rows):
        top = _TOP + _ROW * number
        width = max(1.5, _BAR * row["value"] / picture["most"])
        value = picture["form"].format(row["value"])
        lines += [
            _text(_LEFT, top + 16, escape(row[language]), 'font-size="16"'),
            f'<rect x="{_LEFT}" y="{top + 23}" width="{width:.1f}" height="17" rx="2"',
            f'  fill="{_COLOURS[row["kind"]]}"/>',
            _text(_LEFT + width + 7, top + 37, value, 'font-size="16" font-weight="600"'),
        ]
    return "\n".join([*lines, "</svg>", ""])


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" fill="#1b1b1b" {style}>{words}</text>'


def pictures() -> dict[Path, str]:
    """Draw all pictures.

    Returns:
        File -> SVG.
    """
    quoted = json.loads(QUOTED.read_text(encoding="utf-8"))
    text = (FOLDER / "measured.json").read_text(encoding="utf-8")
    measured = json.loads(text, object_hook=lambda one: _filled(one, quoted))
    return {
        FOLDER / f"{name}{'' if language == 'en' else '.ja'}.svg": draw(picture, language)
        for name, picture in measured.items()
        for language in ("en", "ja")
    }


def _filled(one: dict[str, Any], quoted: dict[str, str]) -> dict[str, Any]:
    filled = {
        key: value.format(**quoted) if isinstance(value, str) and key != "form" else value
        for key, value in one.items()
    }
    if isinstance(name := filled.get("value"), str):
        filled["value"] = float(quoted[name].replace(",", ""))
    return filled


if __name__ == "__main__":
    for path, svg in pictures().items():
        path.write_text(svg, encoding="utf-8")
