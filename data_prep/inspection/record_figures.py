"""A figure of an example: frames above the log-mel, on one time axis."""

import warnings

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_prep.inspection.record_reading import Example
from xdc_tf.data import log_mel as log_mel_definition
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.runtime import escaping, files

_DPI = 100
# In inches. The frames' height is about this, so that they fill the strip.
_STRIP_HEIGHT, _MAX_STRIP_HEIGHT, _LOG_MEL_HEIGHT = 1.25, 2.5, 2.6
_LEFT, _AXES_WIDTH, _RIGHT = 0.75, 12.4, 0.85
_TOP, _GAP, _BOTTOM = 0.72, 0.12, 0.55
_COLOURS_LEFT, _COLOURS_WIDTH = 0.12, 0.14
_MAX_FRAMES = 30
# Of the way from a frame to the next; the rest parts them.
_FRAME_FRACTION = 0.985
_MAX_TITLE_CHARS = 110
_TICKS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)
_GREY = "0.35"


def save_figure(path: str, example: Example, settings: LogMelSettings) -> None:
    """Draws an example into a PNG file, whole or not at all; see draw.

    Raises:
        ValueError: see draw.
        OSError: the file cannot be written.
    """
    figure = draw(example, settings)
    with warnings.catch_warnings():
        # Names in scripts that the font lacks are no reason for messages.
        warnings.filterwarnings("ignore", message="Glyph")
        with files.placing(path) as temporary:
            figure.savefig(temporary)


def draw(example: Example, settings: LogMelSettings) -> Figure:
    """Draws the strip of frames, the log-mel, or one above the other.

    Each frame's left edge is at its time. Both have the same edges, start and end of
    the segment, in seconds of its file.

    Args:
        example: with frames, log-mel or both.
        settings: what the log-mel was made with.

    Raises:
        ValueError: there is neither, no time between start and end, or a frame is no
            JPEG image.
    """
    if not example.start_secs < example.end_secs:
        raise ValueError(
            f"example_index {example.example_index} is from {example.start_secs} to "
            f"{example.end_secs} s."
        )
    images, times, shape = _choose_frames(example)
    has_log_mel = example.log_mel is not None and example.log_mel.size > 0
    if not images and not has_log_mel:
        raise ValueError(
            f"example_index {example.example_index} has neither frames nor log-mel."
        )
    heights = []
    if images:
        slot_width = _AXES_WIDTH / len(images)
        aspect = shape[1] / shape[0]
        heights.append(min(slot_width / aspect, _MAX_STRIP_HEIGHT))
    if has_log_mel:
        heights.append(_LOG_MEL_HEIGHT)
    width = _LEFT + _AXES_WIDTH + _RIGHT
    height = _TOP + sum(heights) + _GAP * (len(heights) - 1) + _BOTTOM
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    all_axes = _add_axes(figure, heights)
    if images:
        secs_per_inch = (example.end_secs - example.start_secs) / _AXES_WIDTH
        frame_secs = heights[0] * aspect * secs_per_inch * _FRAME_FRACTION
        _draw_strip(all_axes[0], images, times, frame_secs)
    if has_log_mel:
        _draw_log_mel(all_axes[-1], example, settings)
        box = (_LEFT + _AXES_WIDTH + _COLOURS_LEFT, _BOTTOM)
        box += (_COLOURS_WIDTH, _LOG_MEL_HEIGHT)
        colours = figure.add_axes(_relative(box, width, height))
        bar = figure.colorbar(all_axes[-1].images[0], cax=colours)
        bar.outline.set_visible(False)
        colours.set_title("ln power", loc="left", fontsize=9, color=_GREY)
    for axes in all_axes:
        axes.set_xlim(example.start_secs, example.end_secs)
        axes.tick_params(labelbottom=axes is all_axes[-1])
        axes.spines[:].set_visible(False)
    all_axes[-1].set_xlabel("seconds in the file")
    _draw_titles(figure, example, shape, _LEFT / width, height)
    return figure


def _add_axes(figure: Figure, heights: list[float]) -> list[Axes]:
    """Axes of these heights in inches, one below the other."""
    width, height = figure.get_size_inches()
    bottom = height - _TOP
    all_axes = []
    for axes_height in heights:
        bottom -= axes_height
        box = (_LEFT, bottom, _AXES_WIDTH, axes_height)
        all_axes.append(figure.add_axes(_relative(box, width, height)))
        bottom -= _GAP
    return all_axes


def _choose_frames(
    example: Example,
) -> tuple[list[np.ndarray], list[float], tuple[int, int]]:
    """Evenly spread frames [H, W, 3] uint8, their times in the file, and (H, W)."""
    num_frames = len(example.frames_jpeg)
    if not num_frames:
        return [], [], (0, 0)
    height, width, _ = _decode(example, 0).shape
    fitting = round(_AXES_WIDTH / (_STRIP_HEIGHT * width / height))
    num_shown = max(1, min(fitting, num_frames, _MAX_FRAMES))
    numbers = [place * num_frames // num_shown for place in range(num_shown)]
    frame_secs = (example.end_secs - example.start_secs) / num_frames
    images = [_decode(example, number) for number in numbers]
    times = [example.start_secs + number * frame_secs for number in numbers]
    return images, times, (height, width)


def _decode(example: Example, number: int) -> np.ndarray:
    try:
        return tf.io.decode_jpeg(example.frames_jpeg[number], channels=3).numpy()
    except tf.errors.OpError as error:
        raise ValueError(
            f"frame {number} of example_index {example.example_index} is no JPEG "
            f"image: {escaping.error_text(error)}"
        ) from error


def _draw_strip(
    axes: Axes, images: list[np.ndarray], times: list[float], frame_secs: float
) -> None:
    for image, secs in zip(images, times, strict=True):
        axes.imshow(image, extent=(secs, secs + frame_secs, 0, 1), aspect="auto")
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_xticks(times)
    axes.tick_params(length=4, color=_GREY)
    # Ticks at the frames' times; numbers at all of them would overlap.
    axes.set_xticklabels([f"{secs:.2f}" for secs in times], fontsize=8)


def _draw_log_mel(axes: Axes, example: Example, settings: LogMelSettings) -> None:
    values = example.log_mel
    num_rows, num_filters = values.shape
    secs = num_rows * settings.hop_samples / settings.sample_rate_hz
    edges = (example.start_secs, example.start_secs + secs, -0.5, num_filters - 0.5)
    axes.imshow(values.T, origin="lower", aspect="auto", extent=edges, cmap="magma")
    filters = log_mel_definition.mel_filters(settings)  # [bins, M]
    bins_hz = np.linspace(0, settings.sample_rate_hz / 2, len(filters))
    centres_hz = bins_hz @ filters / filters.sum(axis=0)
    ticks = [hz for hz in _TICKS_HZ if centres_hz[0] <= hz <= centres_hz[-1]]
    axes.set_yticks(
        np.interp(ticks, centres_hz, np.arange(num_filters)),
        [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in ticks],
    )
    axes.set_ylabel("Hz")


def _draw_titles(
    figure: Figure, example: Example, shape: tuple[int, int], left: float, height: float
) -> None:
    """Name and label, and below it what the record holds, from above downwards."""
    name = example.video_id + (f" — {example.label}" if example.label else "")
    facts = [
        f"example {example.example_index}",
        f"{example.start_secs:.2f} to {example.end_secs:.2f} s",
    ]
    if example.frames_jpeg:
        facts.append(
            f"{len(example.frames_jpeg)} frames of {shape[1]} × {shape[0]} at "
            f"{example.frame_rate:g} per second"
        )
    if example.log_mel is not None:
        rows, filters = example.log_mel.shape
        facts.append(f"log-mel of {rows} × {filters}")
    # Names are no formulas: a $ in them is a dollar.
    above = {"va": "top", "parse_math": False}
    figure.text(
        left,
        1 - 0.13 / height,
        escaping.terminal(name, max_chars=_MAX_TITLE_CHARS),
        fontsize=13,
        weight="bold",
        **above,
    )
    figure.text(
        left, 1 - 0.42 / height, " · ".join(facts), fontsize=9, color=_GREY, **above
    )


def _relative(
    box: tuple[float, float, float, float], width: float, height: float
) -> tuple[float, float, float, float]:
    """Left, bottom, width and height in inches as fractions of the figure."""
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height
