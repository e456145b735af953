"""The videos of a comparison of the methods, and their records."""

import os
import subprocess
import sys
from typing import NamedTuple


class Videos(NamedTuple):
    """Arguments of synthetic.make_benchmark."""

    num_videos: int
    seed: int
    kind: str
    shared: float | None = None
    microphone_db: float | None = None


def make_records(directory: str, spec: Videos, *, num_workers: int) -> None:
    """Draws and converts videos, unless they are there.

    Args:
      directory: gets videos/, manifest.csv and records/.
      spec: of the videos.
      num_workers: processes that draw and convert.
    """
    from data_prep import conversion
    from data_prep.conversion_settings import ConversionSettings
    from data_prep.worker_processes import PoolSettings

    manifest = os.path.join(directory, "manifest.csv")
    if not os.path.exists(manifest):
        # By its command: the module defines flags.
        values = {**spec._asdict(), "out": directory, "num_workers": num_workers}
        command = [sys.executable, "-m", "data_prep.synthetic"]
        command += [
            f"--{name}={value}" for name, value in values.items() if value is not None
        ]
        process = subprocess.run(command, check=False)
        if process.returncode:
            sys.exit(process.returncode)  # it has printed its error
    conversion.convert_manifest(
        manifest,
        os.path.join(directory, "records"),
        settings=ConversionSettings(fps=8.0, short_side=48),
        pool=PoolSettings(num_workers),
    )
