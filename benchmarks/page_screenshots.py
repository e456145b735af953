"""Pictures of cluster pages, as the README shows them.

    python -m benchmarks.page_screenshots --page=demo_run/page --out=docs/pictures

Opens a folder of pages in Debian's chromium, headless, and writes two pictures of its
last round: cluster.webp, a cluster with its members, and across.webp, the clusters of
two modalities against each other. --all writes every view instead, as PNG.
"""

import io
import pathlib

from absl import app, flags
from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from tests.browse import browser

_PAGE = flags.DEFINE_string("page", None, "Folder of the pages.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder of the pictures.", required=True)
_CLUSTER = flags.DEFINE_integer("cluster", 0, "Cluster that is shown.")
_SOURCE = flags.DEFINE_string("source", "audio", "Its clustering.")
_ALL = flags.DEFINE_bool("all", False, "Every view instead of the two.")
_WIDTH = flags.DEFINE_integer("width", 1200, "Pixels of the window.")
_HEIGHT = flags.DEFINE_integer("height", 820, "Pixels of the window.")
_DARK = flags.DEFINE_bool("dark", False, "Whether the pages are dark.")
# Drawn, and every picture in the window loaded.
_READY = """
return document.getElementById("main").ariaBusy === "false"
  && document.querySelector(".chart:not([aria-busy=false])") === null
  && [...document.querySelectorAll("main img")].every(
    (image) => image.complete || image.getBoundingClientRect().top > innerHeight)
  && [...document.querySelectorAll("main video[src]")].every(
    (video) => video.readyState >= 1);
"""
_QUALITY = 80
_WAIT_SECS = 60


def main(argv: list[str]) -> None:
    del argv
    programs = browser.find_programs()
    if programs is None:
        raise app.UsageError("chromium and chromedriver are needed")
    page = pathlib.Path(_PAGE.value).resolve() / "index.html"
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    cluster = f"source={_SOURCE.value}&cluster={_CLUSTER.value}"
    states = {"cluster": f"view=clusters&{cluster}", "across": "view=across"}
    if _ALL.value:
        states = {
            "overview": "view=overview",
            "clusters": f"view=clusters&source={_SOURCE.value}",
            **states,
            "rounds": f"view=rounds&source={_SOURCE.value}",
            "map": f"view=map&source={_SOURCE.value}",
            "search": "view=search&query=0000",
            "names": "view=names",
            "video": "view=video&example=0",
        }
    with browser.start(*programs) as driver:
        _set_window(driver)
        for name, state in states.items():
            path = out / f"{name}.{'png' if _ALL.value else 'webp'}"
            _write_picture(driver, f"{page.as_uri()}#{state}", path)
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


def _set_window(driver: webdriver.Chrome) -> None:
    size = {"width": _WIDTH.value, "height": _HEIGHT.value, "deviceScaleFactor": 1}
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", size | {"mobile": _WIDTH.value < 500}
    )
    colours = "dark" if _DARK.value else "light"
    features = [{"name": "prefers-color-scheme", "value": colours}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def _write_picture(driver: webdriver.Chrome, address: str, path: pathlib.Path) -> None:
    driver.get("about:blank")
    driver.get(address)
    WebDriverWait(driver, _WAIT_SECS).until(lambda _: driver.execute_script(_READY))
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.save(path, quality=_QUALITY)


if __name__ == "__main__":
    app.run(main)
