"""The pictures of docs/reading_a_run.md, drawn from the events of a run.

    python -m benchmarks.tensorboard_pictures --workdir=run --out=docs/pictures

Contact sheets, cross tables and confusion matrices are those of TensorBoard, of the
first and of the last round; the curves are the charts that its layout puts first.
"""

import glob
import io
import os
import re

import numpy as np
from absl import app, flags

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "A finished run, with an evaluation.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Folder of the pictures.", required=True)

_SHEET_QUALITY = 78
# Name of a summary -> name of its pictures.
_PICTURES = {
    "clusters/audio/contact_sheet": "contact_sheet",
    "clusters/cross_table_of_audio_and_video": "cross_table",
    "evaluation/linear/video/confusion": "confusion",
}


def read_events(workdir):
    """Tensors by name and step of all events of a run, the later of equals."""
    import tensorflow as tf

    tensors = {}
    paths = glob.glob(os.path.join(workdir, "tensorboard", "events.*"))
    for path in sorted(paths, key=os.path.getmtime):
        for event in tf.compat.v1.train.summary_iterator(path):
            for value in event.summary.value:
                steps = tensors.setdefault(value.tag, {})
                steps[event.step] = tf.make_ndarray(value.tensor)
    return tensors


def write_pictures(tensors, out):
    """Writes the first and the last picture of each name; sheets as JPEG."""
    from PIL import Image

    for name, stem in _PICTURES.items():
        steps = tensors.get(name, {})
        for when, step in (
            (
                "first",
                min,
            ),
            ("last", max),
        ):
            if not steps or (when == "first" and len(steps) == 1):
                continue
            image = Image.open(io.BytesIO(steps[step(steps)][2])).convert("RGB")
            path = os.path.join(out, f"{stem}_{when}")
            if stem == "contact_sheet":
                image.save(f"{path}.jpg", quality=_SHEET_QUALITY, optimize=True)
            else:
                image.quantize(64).save(f"{path}.png", optimize=True)


def write_curves(tensors, out):
    """Draws the charts of the layout."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    from xdc_tf.training import charts

    figure, axes = pyplot.subplots(5, 2, figsize=(9, 12))
    for axis, (title, pattern) in zip(axes.flat, charts.FIRST_CHARTS, strict=True):
        for name in filter(re.compile(pattern).match, sorted(tensors)):
            steps = sorted(tensors[name])
            values = [np.asarray(tensors[name][step]).item() for step in steps]
            axis.plot(steps, values, marker="." if len(steps) < 20 else "", label=name)
        axis.set_title(title, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6)
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80)
    pyplot.close(figure)
    image = Image.open(drawn).convert("RGB").quantize(32)
    image.save(os.path.join(out, "first_charts.png"), optimize=True)


def main(argv):
    del argv
    os.makedirs(_OUT.value, exist_ok=True)
    tensors = read_events(_WORKDIR.value)
    write_pictures(tensors, _OUT.value)
    write_curves(tensors, _OUT.value)
    for name in sorted(os.listdir(_OUT.value)):
        num_bytes = os.path.getsize(os.path.join(_OUT.value, name))
        print(f"{num_bytes:>8} {name}")


if __name__ == "__main__":
    app.run(main)
