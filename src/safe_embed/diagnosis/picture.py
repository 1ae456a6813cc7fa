"""The picture of a diagnosis or of a log: memory by call, each line with its name."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safe_embed.errors import ConfigError, MissingExtraError, both

_SUFFIXES = (".svg", ".png", ".pdf")
# A share of the height that labels keep between them.
_LABEL_STEP = 0.052
_AXES = {
    "en": ("calls", "anonymous memory above the first call, MB"),
    "ja": ("呼び出しの回数", "最初の呼び出しからの増加（MB）"),
}


class Line(NamedTuple):
    """A curve of the picture.

    Attributes:
        label: Its name.
        steps: Calls, or seconds.
        values: Bytes.
        is_dashed: Whether it measures something else than the others.
    """

    label: str
    steps: Sequence[float]
    values: Sequence[int]
    is_dashed: bool = False


def check_picture(path: str | os.PathLike[str]) -> None:
    """Refuse a file that no picture can be written to, before anything is measured.

    Args:
        path: The file.

    Raises:
        ConfigError: If its name has no known suffix, or its folder does not exist.
        MissingExtraError: If matplotlib is not installed.
    """
    file = Path(path)
    if file.suffix.lower() not in _SUFFIXES or not file.parent.is_dir():
        raise ConfigError(
            both(
                f"No picture can be written to {file.name!r}. Give a file in a folder that exists, "
                f"named {', '.join(_SUFFIXES)}.",
                f"図を {file.name!r} に保存できません。{', '.join(_SUFFIXES)} のいずれかの"
                "ファイル名を、存在するフォルダーに指定してください。",
            )
        )
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("The picture of the doctor", "matplotlib", "doctor") from error


def draw(
    path: str | os.PathLike[str],
    lines: Sequence[Line],
    title: str,
    *,
    language: Literal["en", "ja"] = "en",
    labels: Mapping[str, str] | None = None,
) -> None:
    """Draw lines that begin at 0, with their names at their ends.

    Args:
        path: File that ends in .svg, .png or .pdf.
        lines: The curves.
        title: A line above the picture.
        language: Of the axes; Japanese needs .svg, whose fonts are those of the reader.
        labels: Words of the axes, x and y; ``None`` for calls and memory.

    Raises:
        ConfigError: If the file has another suffix, or no folder.
        MissingExtraError: If matplotlib is not installed.
    """
    check_picture(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "safe_embed", "svg.fonttype": "none", "font.size": 11}
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes: Any = figure.subplots()
        ends = [_plot(axes, line, f"C{at}") for at, line in enumerate(lines)]
        _label(axes, ends)
        axes.set_title(title, loc="left", fontsize=12)
        words = labels or dict(zip(("x", "y"), _AXES[language], strict=True))
        axes.set_xlabel(words["x"])
        axes.set_ylabel(words["y"])
        axes.grid(visible=True, alpha=0.3)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.savefig(path, metadata=_METADATA if str(path).endswith(".svg") else None)


_METADATA = {"Date": None, "Creator": None}  # the same figures give the same file


def _plot(axes: Any, line: Line, color: str) -> tuple[float, float, str, str]:
    """Draw a curve; where it ends, with its name and colour."""
    first = line.values[0] if line.values else 0
    grown = [(value - first) / 1e6 for value in line.values]
    axes.plot(
        line.steps, grown, color=color, linewidth=1.4, linestyle=":" if line.is_dashed else "-"
    )
    return (line.steps[-1] if line.steps else 0, grown[-1] if grown else 0, line.label, color)


def _label(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the names right of the picture, in the order of the ends, none above another."""
    low, high = axes.get_ylim()
    step = (high - low) * _LABEL_STEP
    right = axes.get_xlim()[1]
    places: list[float] = []
    for x, y, label, color in sorted(ends, key=lambda end: end[1]):
        place = max(y, places[-1] + step) if places else y
        places.append(place)
        axes.annotate(
            label,
            xy=(x, y),
            xytext=(right, place),
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.4, "linewidth": 0.8},
        )
