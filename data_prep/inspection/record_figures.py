"""A figure of an example: frames above the audio, on one time axis."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_prep.inspection.record_tables import Example
from xdc_tf.data import log_mel, payloads
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.data.payloads import AUDIO, VIDEO, Describes
from xdc_tf.runtime import escaping, figures

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


def save_figure(path: str, example: Example, info: Describes) -> None:
    """Draws an example into a PNG file, whole or not at all; see draw.

    Raises:
        ValueError: see draw.
        OSError: the file cannot be written.
    """
    figures.write(draw(example, info), path)


@matplotlib.rc_context(figures.STYLE)
def draw(example: Example, info: Describes) -> Figure:
    """Draws the strip of frames, the rows of audio, or one above the other.

    Each frame's left edge is at its time. Both have the same edges, start and end of
    the segment, in seconds of its file.

    Args:
        example: with frames, rows of audio or both.
        info: what dataset_info.json says of its records.

    Raises:
        ValueError: there is neither, no time between start and end, or a frame cannot
            be decoded.
    """
    if not example.start_secs < example.end_secs:
        raise ValueError(
            f"example_index {example.example_index} is from {example.start_secs} to "
            f"{example.end_secs} s."
        )
    images, times, shape = _choose_frames(example, info)
    has_rows = example.audio_rows is not None and example.audio_rows.size > 0
    if not images and not has_rows:
        raise ValueError(
            f"example_index {example.example_index} has neither frames nor audio."
        )
    heights = []
    if images:
        slot_width = _AXES_WIDTH / len(images)
        aspect = shape[1] / shape[0]
        heights.append(min(slot_width / aspect, _MAX_STRIP_HEIGHT))
    if has_rows:
        heights.append(_LOG_MEL_HEIGHT)
    width = _LEFT + _AXES_WIDTH + _RIGHT
    height = _TOP + sum(heights) + _GAP * (len(heights) - 1) + _BOTTOM
    figure = figures.new_figure(width, height)
    all_axes = _add_axes(figure, heights)
    if images:
        secs_per_inch = (example.end_secs - example.start_secs) / _AXES_WIDTH
        frame_secs = heights[0] * aspect * secs_per_inch * _FRAME_FRACTION
        _draw_strip(all_axes[0], images, times, frame_secs)
    if has_rows:
        _draw_rows(all_axes[-1], example, info)
        box = (_LEFT + _AXES_WIDTH + _COLOURS_LEFT, _BOTTOM)
        box += (_COLOURS_WIDTH, _LOG_MEL_HEIGHT)
        colours = figure.add_axes(_relative(box, width, height))
        bar = figure.colorbar(all_axes[-1].images[0], cax=colours)
        bar.outline.set_visible(False)
        if payloads.stored(info, AUDIO).name == "log_mel":
            colours.set_title("ln power", loc="left", fontsize=9, color=figures.MUTED)
    for axes in all_axes:
        axes.set_xlim(example.start_secs, example.end_secs)
        axes.tick_params(labelbottom=axes is all_axes[-1])
        axes.spines[:].set_visible(False)
    all_axes[-1].set_xlabel("seconds in the file")
    _draw_titles(figure, example, info, shape, height)
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
    example: Example, info: Describes
) -> tuple[list[np.ndarray], list[float], tuple[int, int]]:
    """Evenly spread frames [H, W, 3] uint8, their times in the file, and (H, W)."""
    num_frames = _num_frames(example, info)
    if not num_frames:
        return [], [], (0, 0)
    height, width, _ = _decode(example, 0, info).shape
    fitting = round(_AXES_WIDTH / (_STRIP_HEIGHT * width / height))
    num_shown = max(1, min(fitting, num_frames, _MAX_FRAMES))
    numbers = [place * num_frames // num_shown for place in range(num_shown)]
    frame_secs = (example.end_secs - example.start_secs) / num_frames
    images = [_decode(example, number, info) for number in numbers]
    times = [example.start_secs + number * frame_secs for number in numbers]
    return images, times, (height, width)


def _num_frames(example: Example, info: Describes) -> int:
    video = payloads.stored(info, VIDEO)
    if video.row.frames_per_item(video.settings) == 1:
        return len(example.video_items)
    return round((example.end_secs - example.start_secs) * example.frame_rate)


def _decode(example: Example, number: int, info: Describes) -> np.ndarray:
    video = payloads.stored(info, VIDEO)
    item, place = divmod(number, video.row.frames_per_item(video.settings))
    try:
        return video.row.decode_item(example.video_items[item])[place]
    except (IndexError, ValueError) as error:
        raise ValueError(
            f"frame {number} of example_index {example.example_index} is {error}"
        ) from error


def _draw_strip(
    axes: Axes, images: list[np.ndarray], times: list[float], frame_secs: float
) -> None:
    for image, secs in zip(images, times, strict=True):
        axes.imshow(image, extent=(secs, secs + frame_secs, 0, 1), aspect="auto")
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_xticks(times)
    axes.tick_params(length=4, color=figures.MUTED)
    # Ticks at the frames' times; numbers at all of them would overlap.
    axes.set_xticklabels([f"{secs:.2f}" for secs in times], fontsize=8)


def _draw_rows(axes: Axes, example: Example, info: Describes) -> None:
    audio, rate_hz = payloads.stored(info, AUDIO), info.log_mel.sample_rate_hz
    num_rows, row_length = example.audio_rows.shape
    secs = num_rows * audio.row.hop_samples(audio.settings) / rate_hz
    edges = (example.start_secs, example.start_secs + secs, -0.5, row_length - 0.5)
    axes.imshow(
        example.audio_rows.T, origin="lower", aspect="auto", extent=edges, cmap="magma"
    )
    if audio.name == "log_mel":
        _label_filters(axes, audio.settings)


def _label_filters(axes: Axes, settings: LogMelSettings) -> None:
    filters = log_mel.mel_filters(settings)  # [bins, M]
    bins_hz = np.linspace(0, settings.sample_rate_hz / 2, len(filters))
    centres_hz = bins_hz @ filters / filters.sum(axis=0)
    ticks = [hz for hz in _TICKS_HZ if centres_hz[0] <= hz <= centres_hz[-1]]
    axes.set_yticks(
        np.interp(ticks, centres_hz, np.arange(settings.num_filters)),
        [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in ticks],
    )
    axes.set_ylabel("Hz")


def _draw_titles(
    figure: Figure,
    example: Example,
    info: Describes,
    shape: tuple[int, int],
    height: float,
) -> None:
    """Name and label, and below it what the record holds, from above downwards."""
    name = example.video_id + (f" — {example.label}" if example.label else "")
    facts = [
        f"example {example.example_index}",
        f"{example.start_secs:.2f} to {example.end_secs:.2f} s",
    ]
    if example.video_items:
        facts.append(
            f"{_num_frames(example, info)} frames of {shape[1]} × {shape[0]} at "
            f"{example.frame_rate:g} per second"
        )
    if example.audio_rows is not None:
        rows, length = example.audio_rows.shape
        facts.append(f"{payloads.stored(info, AUDIO).title} of {rows} × {length}")
    left = _LEFT / figure.get_size_inches()[0]
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
        left,
        1 - 0.42 / height,
        " · ".join(facts),
        fontsize=9,
        color=figures.MUTED,
        **above,
    )


def _relative(
    box: tuple[float, float, float, float], width: float, height: float
) -> tuple[float, float, float, float]:
    """Left, bottom, width and height in inches as fractions of the figure."""
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height
