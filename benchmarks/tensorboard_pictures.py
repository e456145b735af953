"""The pictures of docs/reading_a_run.md, drawn from the events of a run.

    python -m benchmarks.tensorboard_pictures --workdir=run --out=docs/pictures

Contact sheets, cross tables and confusion matrices are those of TensorBoard, of the
first and of the last round; the curves are the charts that its layout puts first. The
projector's picture is left out where there is no chromium.
"""

import glob
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "A finished run, with an evaluation.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Folder of the pictures.", required=True)

_SHEET_QUALITY = 78
_PAGE_MS, _STARTING_SECS = 40_000, 120
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


def write_projector(workdir, out):
    """Takes a picture of TensorBoard's projector in Debian's chromium, headless."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        log_path, taken = (os.path.join(folder, name) for name in ("log", "page.png"))
        logdir = os.path.join(workdir, "tensorboard")
        with open(log_path, "wb") as log:
            board = subprocess.Popen(
                [sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}"]
                + ["--port=0"],
                stderr=log,
            )
        try:
            address = _wait_for_address(log_path)
            subprocess.run(
                ["chromium", "--headless", "--no-sandbox", "--use-gl=angle"]
                + ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
                + [f"--user-data-dir={folder}/profile", "--window-size=1200,800"]
                + [f"--virtual-time-budget={_PAGE_MS}", f"--screenshot={taken}"]
                + [f"{address}#projector"],
                check=True,
                capture_output=True,
            )
        finally:
            board.terminate()
            board.wait()
        image = Image.open(taken).convert("RGB").resize((780, 520))
        image.quantize(48).save(os.path.join(out, "projector.png"), optimize=True)


def _wait_for_address(log_path):
    """The address that TensorBoard prints when it serves."""
    for _ in range(_STARTING_SECS):
        with open(log_path, encoding="utf-8", errors="replace") as log:
            if found := re.search(r"at (http://\S+)", log.read()):
                return found[1]
        time.sleep(1)
    raise TimeoutError(f"TensorBoard has not started within {_STARTING_SECS} s.")


def main(argv):
    del argv
    os.makedirs(_OUT.value, exist_ok=True)
    tensors = read_events(_WORKDIR.value)
    write_pictures(tensors, _OUT.value)
    write_curves(tensors, _OUT.value)
    if shutil.which("chromium"):
        write_projector(_WORKDIR.value, _OUT.value)
    for name in sorted(os.listdir(_OUT.value)):
        num_bytes = os.path.getsize(os.path.join(_OUT.value, name))
        print(f"{num_bytes:>8} {name}")


if __name__ == "__main__":
    app.run(main)
