"""Debian's chromium, headless, and a folder of cluster pages that is open in it."""

import json
import os
import shutil
from collections.abc import Iterator

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

REQUIRE = "XDC_TF_REQUIRE_BROWSER"
# Of a machine that does much else; what is waited for is there after milliseconds.
_WAIT_SECS = 90
_SHOWN = "document.getElementById('main')?.ariaBusy === 'false'"
# Goes to a state as a link does; what was there before leaves no trace.
_GO_TO = """
const [state, done] = arguments;
scrollPositions.clear();
window.scrollTo(0, 0);
document.activeElement?.blur();
history.pushState(null, "", state);
showState().then(done);
"""

VIEWS = {
    "overview": "#view=overview",
    "clusters": "#view=clusters&round=3&source=audio",
    "cluster": "#view=clusters&round=3&source=audio&cluster=2",
    "rounds": "#view=rounds&round=3&source=audio",
    "across": "#view=across&round=3&row=1&column=1",
    "map": "#view=map&round=3&source=video",
    "search": "#view=search&query=clip",
    "names": "#view=names",
    "video": "#view=video&example=5",
}


def find_programs() -> tuple[str, str] | None:
    """Paths of chromium and of its driver; None where one of them is missing.

    Raises:
      FileNotFoundError: one is missing, and the environment says that it must not.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium and driver:
        return chromium, driver
    if os.environ.get(REQUIRE) == "1":
        raise FileNotFoundError(
            f"{REQUIRE}=1, and chromium={chromium}, chromedriver={driver}: install "
            "them (Debian: chromium, chromium-driver), or unset it, and the tests in a "
            "browser are skipped."
        )
    return None


def start(chromium: str, driver: str) -> webdriver.Chrome:
    """Starts a browser whose window has 1400 x 900 pixels, and draws without a GPU."""
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.page_load_strategy = "eager"  # views say themselves when they are shown
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--enable-unsafe-swiftshader",
        "--disable-extensions",
        "--disable-background-networking",
        "--disable-background-timer-throttling",
        "--disable-backgrounding-occluded-windows",
        "--disable-renderer-backgrounding",
        "--window-size=1400,900",
    ):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=driver)
    browser = webdriver.Chrome(options=options, service=service)
    browser.set_script_timeout(_WAIT_SECS)
    browser.get("about:blank")
    browser.get_log("performance")  # of the browser's own first page
    return browser


class Page:
    """A folder of pages in a browser."""

    def __init__(self, browser, folder, tables):
        self.browser, self.folder, self.tables = browser, folder, tables
        self.lone = False  # whether no other test may see what this one leaves

    def load(self, state="#view=overview"):
        """Loads the page anew at a state; returns when the state is shown."""
        self.browser.get("about:blank")
        self.browser.get(f"{self.folder.as_uri()}/index.html{state}")
        self.wait(_SHOWN)

    def open(self, state):
        """Goes to a state, in the page that is loaded if it is this one."""
        address = f"{self.folder.as_uri()}/index.html"
        if self.value("location.href.split('#')[0]") == address:
            self.browser.execute_async_script(_GO_TO, state)
        else:
            self.load(state)

    def leave(self):
        """Ends the page and what runs in it."""
        self.browser.get("about:blank")

    def run(self, code, *values):
        return self.browser.execute_script(code, *values)

    def value(self, expression, *values):
        return self.run(f"return {expression};", *values)

    def wait(self, expression, *values):
        """Waits until an expression is true; returns its value."""
        return WebDriverWait(self.browser, _WAIT_SECS, poll_frequency=0.02).until(
            lambda _: self.value(expression, *values), f"never true: {expression}"
        )

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        elements = f"document.querySelectorAll({json.dumps(selector)})"
        return self.value(f"[...{elements}].map((element) => element.textContent)")

    def text(self):
        return self.value("document.getElementById('main').innerText")

    def keys(self, *keys):
        self.actions().send_keys(*keys).perform()

    def choose(self, selector, value):
        Select(self.find(selector)).select_by_value(value)
        self.wait(_SHOWN)

    def listed(self, label):
        """Examples of the cards of a list, in order."""
        cards = f"[aria-label='{label}'] [data-example]"
        return self.value(
            f'[...document.querySelectorAll("{cards}")]'
            ".map((card) => Number(card.dataset.example))"
        )

    def scroll_down(self):
        """Scrolls to the end of the page and fills the lists that are seen there."""
        self.run("window.scrollTo(0, document.body.scrollHeight); updateLists();")

    def wait_for_state(self, key, value):
        self.wait(
            "new URLSearchParams(location.hash.slice(1)).get(arguments[0]) === "
            f"arguments[1] && shownHash === location.hash && {_SHOWN}",
            key,
            value,
        )

    def clusters(self, round_number=3, source="audio"):
        """What the table of a round says of the clusters of a source."""
        table = self.tables[f"round-{round_number:04d}"]
        return table["clusterings"][source]["clusters"]

    def members(self, *, round_number=3, **clusters):
        """Examples that are in one cluster of each source: audio=2, video=1."""
        labels = self.tables[f"labels-{round_number:04d}"]
        return {
            example
            for example in range(len(labels["audio"]))
            if all(labels[source][example] == clusters[source] for source in clusters)
        }

    def charts(self):
        """Waits until all charts of the view are drawn; returns their elements."""
        self.wait(
            "document.querySelector('.chart') !== null && "
            "document.querySelector('.chart:not([aria-busy=false])') === null"
        )
        return self.find_all(".chart")

    def place(self, chart, x, y):
        """Where a chart's point is in the window: pixels from its left and top."""
        return self.value(
            """(() => {
              const [chart, x, y] = arguments;
              const { xaxis, yaxis } = chart._fullLayout;
              const box = chart.getBoundingClientRect();
              const place = [box.left + xaxis._offset + xaxis.d2p(x),
                             box.top + yaxis._offset + yaxis.d2p(y)];
              return place.map(Math.round);
            })()""",
            chart,
            x,
            y,
        )

    def actions(self):
        """Actions of the pointer and the keys, without the time a hand would take."""
        return ActionChains(self.browser, duration=0)

    def point_at(self, element):
        self.actions().move_to_element(element).perform()

    def pointer(self, place, actions=None):
        """Actions that move the pointer to a place in the window."""
        actions = actions or self.actions()
        actions.w3c_actions.pointer_action.move_to_location(*place)
        actions.w3c_actions.key_action.pause()
        return actions

    def requested(self) -> Iterator[str]:
        """Addresses that were requested since this was last asked."""
        for entry in self.browser.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                yield event["params"]["request"]["url"]
