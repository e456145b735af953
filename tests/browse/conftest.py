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


@pytest.fixture(scope="session")
def browser():
    """A browser, one for all tests of a process."""
    from tests.browse import browser as chromium

    programs = chromium.find_programs()
    if programs is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium-driver)")
    with chromium.start(*programs) as driver:
        yield driver


@pytest.fixture(scope="session")
def written_page(tmp_path_factory):
    """A folder of pages of made-up tables, and these by name; not to be changed."""
    from tests.browse import page_fixture

    folder = tmp_path_factory.mktemp("browse") / "a page"
    return folder, page_fixture.write_page(folder)


@pytest.fixture
def page(browser, written_page):
    """The page; afterwards nothing has failed and nothing came from elsewhere."""
    from tests.browse import browser as chromium

    opened = chromium.Page(browser, *written_page)
    browser.get_log("browser"), list(opened.requested())  # of what was open before
    yield opened
    opened.wait("document.getElementById('main')?.ariaBusy !== 'true'")
    messages = browser.get_log("browser")
    assert [entry for entry in messages if entry["level"] == "SEVERE"] == []
    assert opened.value("window.hacked === undefined")
    own = (written_page[0].as_uri() + "/", "data:", "blob:", "about:blank")
    assert [url for url in opened.requested() if not url.startswith(own)] == []
    if opened.lone:
        opened.run("if (location.protocol === 'file:') localStorage.clear()")
        opened.leave()


@pytest.fixture
def lone_page(page):
    """The page, loaded anew, for a test that changes what it keeps."""
    page.leave()
    page.lone = True
    return page


@pytest.fixture
def copied_page(browser, written_page, tmp_path):
    """A copy of the page whose tables a test may change; its errors are no fault."""
    from tests.browse import browser as chromium

    folder = tmp_path / "copy"
    shutil.copytree(written_page[0], folder)
    yield chromium.Page(browser, folder, written_page[1])
    browser.get("about:blank")  # which ends what it loads
    browser.get_log("browser"), browser.get_log("performance")
