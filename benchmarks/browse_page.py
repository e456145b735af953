"""Time and memory that the cluster pages of many examples take in a browser.

    python -m benchmarks.browse_page --examples=100000

Writes a page of made-up tables whose examples share a few clips, opens each view in
Debian's chromium, headless, and prints for how long it was empty, for how long it
loaded, and the memory of the tab's JavaScript and of its process.
"""

import pathlib
import tempfile
import time

from absl import app, flags
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from benchmarks import process_memory
from tests.browse import browser, page_fixture

_EXAMPLES = flags.DEFINE_integer("examples", 100_000, "Number of examples.")
_CLUSTERS = flags.DEFINE_integer("clusters", 256, "Number of clusters.")
_VIEWS = {
    "overview": "",
    "clusters": "#view=clusters&source=audio",
    "cluster": "#view=clusters&source=audio&cluster=7",
    "rounds": "#view=rounds&source=audio",
    "across": "#view=across",
    "map": "#view=map&source=audio",
    "search": "#view=search&query=clip_",
}
_READY = """
return document.getElementById("main").ariaBusy === "false"
  && document.querySelector(".chart:not([aria-busy=false])") === null
  && !document.getElementById("search-status")?.textContent.includes("so far");
"""
_FIRST_PAINT = """
return performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN;
"""


def main(argv: list[str]) -> None:
    del argv
    programs = browser.find_programs()
    if programs is None:
        raise app.UsageError("chromium and chromedriver are needed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "page"
        sizes = page_fixture.Sizes(
            num_examples=_EXAMPLES.value,
            num_clusters=_CLUSTERS.value,
            num_classes=20,
            members_per_kind=8,
            examples_per_block=5000,
            shared_media=True,
        )
        page_fixture.write_page(folder, sizes)
        with browser.start(*programs) as driver:
            print("view      first paint s  shown after s  JavaScript MiB  process MiB")
            for name, state in _VIEWS.items():
                driver.get("about:blank")
                begin = time.perf_counter()
                driver.get(f"{folder.as_uri()}/index.html{state}")
                WebDriverWait(driver, 120, poll_frequency=0.05).until(
                    lambda _: driver.execute_script(_READY)
                )
                shown_secs = time.perf_counter() - begin
                paint_secs = driver.execute_script(_FIRST_PAINT) / 1000
                heap = driver.execute_cdp_cmd("Runtime.getHeapUsage", {})["usedSize"]
                print(
                    f"{name:8}  {paint_secs:13.2f}  {shown_secs:13.2f}  "
                    f"{heap / 2**20:14.0f}  {_tab_mib(driver):11.0f}"
                )


def _tab_mib(driver: webdriver.Chrome) -> float:
    """Resident memory of the browser's largest process of a tab."""
    return max(
        (
            process.mib
            for process in process_memory.processes_of(driver.service.process.pid)
            if "--type=renderer" in process.command
        ),
        default=float("nan"),
    )


if __name__ == "__main__":
    app.run(main)
