"""Pages of the tiny run, made once, and copies of its directories to be changed."""

import csv
import json
import shutil
from typing import NamedTuple

import pytest

from xdc_tf.browse import pages
from xdc_tf.browse.pages import BrowseSettings
from xdc_tf.labels import label_tables


class Directories(NamedTuple):
    """What pages are made of, as pathlib paths."""

    workdir: object
    records: object
    videos: object

    def make(self, out, **settings):
        """Makes the pages; returns their folder."""
        settings = {"videos": str(self.videos), "num_workers": 2} | settings
        pages.make_pages(
            str(self.workdir),
            str(self.records),
            str(out),
            settings=BrowseSettings(**settings),
            command="xdc-tf browse",
        )
        return out


@pytest.fixture(scope="session")
def tiny(tiny_run, tiny_records):
    """The tiny run, its records and its originals; not to be changed."""
    return Directories(tiny_run, tiny_records / "train", tiny_records / "train_videos")


@pytest.fixture(scope="session")
def tiny_page(tiny, tmp_path_factory):
    """Pages of all rounds, with clips of the originals; not to be changed."""
    return tiny.make(tmp_path_factory.mktemp("page") / "page", examples_per_cluster=6)


@pytest.fixture
def copied(tiny, tmp_path):
    """Copies of the run and its records, to be changed."""
    workdir, records = tmp_path / "run", tmp_path / "records"
    shutil.copytree(tiny.workdir, workdir)
    shutil.copytree(tiny.records, records)
    return Directories(workdir, records, tiny.videos)


@pytest.fixture
def renamed(copied):
    """A function: new ids by example_index, and a new name of the first label."""

    def rename(ids, label=None):
        path = copied.records / "examples.csv"
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        info_path = copied.records / "dataset_info.json"
        info = json.loads(info_path.read_text(encoding="utf-8"))
        old = info["label_names"][0]
        for row in rows:
            row[1] = ids.get(int(row[0]), row[1])
            row[2] = label if label and row[2] == old else row[2]
        if label:
            info["label_names"][0] = label
            info_path.write_text(json.dumps(info), encoding="utf-8")
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
        for round_dir in (copied.workdir / "labels").iterdir():
            table = label_tables.read(round_dir)
            label_tables.write(
                round_dir,
                clusterings=table.clusterings,
                video_ids=[row[1] for row in rows],
                settings=table.settings,
            )
        return copied

    return rename
