"""The cluster pages in a real browser: every control does what it says.

Run with XDC_TF_BROWSER_TESTS=1: on a busy machine a headless browser that draws without
a GPU takes longer than these tests wait.
"""

import csv
import functools
import http.server
import json
import os
import shutil
import threading

import pytest

pytestmark = pytest.mark.once

pytest.importorskip("selenium", reason="needs selenium")
pytest.importorskip("plotly", reason="needs plotly")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

from tests.browse import page_fixture  # noqa: E402

if os.environ.get("XDC_TF_BROWSER_TESTS") != "1":
    pytest.skip("set XDC_TF_BROWSER_TESTS=1 to run", allow_module_level=True)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

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


class Page:
    """A folder of pages in a browser."""

    def __init__(self, browser, folder, tables):
        self.browser, self.folder, self.tables = browser, folder, tables

    def open(self, state=""):
        """Loads the page anew at a state; returns when the state is shown."""
        self.browser.get("about:blank")
        self.browser.get(f"{self.folder.as_uri()}/index.html{state}")
        self.wait("document.getElementById('main').ariaBusy === 'false'")

    def run(self, code, *values):
        return self.browser.execute_script(code, *values)

    def value(self, expression, *values):
        return self.run(f"return {expression};", *values)

    def wait(self, expression, *values):
        """Waits until an expression is true; returns its value."""
        return WebDriverWait(self.browser, 15, poll_frequency=0.05).until(
            lambda _: self.value(expression, *values), f"never true: {expression}"
        )

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        elements = f"document.querySelectorAll({json.dumps(selector)})"
        return self.value(f"[...{elements}].map((element) => element.textContent)")

    def text(self):
        return self.value("document.getElementById('main').innerText")

    def keys(self, *keys):
        ActionChains(self.browser).send_keys(*keys).perform()

    def choose(self, selector, value):
        Select(self.find(selector)).select_by_value(value)
        self.wait("document.getElementById('main').ariaBusy === 'false'")

    def listed(self, label):
        """Examples of the cards of a list, in order."""
        cards = f"[aria-label='{label}'] [data-example]"
        return self.value(
            f'[...document.querySelectorAll("{cards}")]'
            ".map((card) => Number(card.dataset.example))"
        )

    def wait_for_state(self, key, value):
        self.wait(
            "new URLSearchParams(location.hash.slice(1)).get(arguments[0]) === "
            "arguments[1] && document.getElementById('main').ariaBusy === 'false'",
            key,
            value,
        )

    def chart(self):
        """Waits for a chart and returns its element."""
        self.wait(
            "document.querySelector('.chart')?._fullLayout !== undefined"
            " && document.querySelector('.chart .svg-container') !== null"
        )
        return self.find(".chart")

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

    def pointer(self, place, actions=None):
        """Actions that move the pointer to a place in the window."""
        actions = actions or ActionChains(self.browser)
        actions.w3c_actions.pointer_action.move_to_location(*place)
        actions.w3c_actions.key_action.pause()
        return actions

    def requested(self):
        """Addresses that were requested since this was last asked."""
        events = [
            json.loads(entry["message"])["message"]
            for entry in self.browser.get_log("performance")
        ]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--enable-unsafe-swiftshader",
        "--window-size=1400,900",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=DRIVER)
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.get("about:blank")
        driver.get_log("performance")  # of the browser's own first page
        yield driver


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browse") / "a page"
    return folder, page_fixture.write_page(folder)


@pytest.fixture
def page(browser, written):
    """The page; afterwards nothing has failed and nothing came from elsewhere."""
    opened = Page(browser, *written)
    yield opened
    messages = [entry for entry in browser.get_log("browser")]
    assert [entry for entry in messages if entry["level"] == "SEVERE"] == []
    assert opened.value("window.hacked === undefined")
    own = (written[0].as_uri() + "/", "data:", "blob:", "about:blank")
    assert [url for url in opened.requested() if not url.startswith(own)] == []
    opened.run("if (location.protocol === 'file:') localStorage.clear()")


@pytest.fixture
def copied(browser, written, tmp_path):
    """A copy of the page whose tables a test may change; its errors are no fault."""
    folder = tmp_path / "copy"
    shutil.copytree(written[0], folder)
    yield Page(browser, folder, written[1])
    browser.get_log("browser"), browser.get_log("performance")


def clusters_of(page, round_number=3, source="audio"):
    table = page.tables[f"round-{round_number:04d}"]
    return table["clusterings"][source]["clusters"]


def members_of(page, *, round_number=3, **clusters):
    labels = page.tables[f"labels-{round_number:04d}"]
    pairs = [(labels[source], cluster) for source, cluster in clusters.items()]
    return {
        example
        for example in range(len(labels["audio"]))
        if all(values[example] == cluster for values, cluster in pairs)
    }


def test_the_overview_tells_data_health_results_and_warnings(page):
    page.open()
    text = page.text()
    for expected in (
        "run <b>one</b>",
        "Half of the cluster is silent. <script>",
        "Remove the silent videos, or name the cluster junk.",
        "Health of the clusterings",
        "0.941",
        "xdc-tf browse --workdir=run",
    ):
        assert expected in text
    assert page.value("document.querySelector('summary').textContent") == "2 settings"
    page.find(".warning a").click()
    page.wait_for_state("cluster", "2")
    assert "audio 2 of round 3" in page.text()


@pytest.mark.parametrize("width", [1400, 390])
def test_no_view_runs_strangers_texts_or_is_wider_than_the_window(page, width):
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    for name, state in VIEWS.items():
        page.open(state)
        if name in ("rounds", "across", "map"):
            page.chart()
        assert page.value("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.value("document.querySelector('.error')") is None, name
        hostile = "body script, [onerror], [onclick], main a:not([href^='#'])"
        assert page.value(f'document.querySelectorAll("{hostile}").length') == 0
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("key", ["size", "dispersion", "purity", "churn", "agreement"])
def test_clusters_are_sorted_both_ways(page, key):
    def figure(cluster):
        return cluster["agreement"]["video"] if key == "agreement" else cluster[key]

    page.open(VIEWS["clusters"])
    page.choose("#sort", key)
    for order, sign in (("descending", -1), ("ascending", 1)):
        page.choose("#order", order)
        shown = page.value(
            "[...document.querySelectorAll('.tile')].map((t) => +t.dataset.cluster)"
        )
        expected = sorted(
            clusters_of(page), key=lambda c: (sign * figure(c), c["cluster"])
        )
        assert shown == [cluster["cluster"] for cluster in expected]


def test_the_filter_and_the_other_clustering(page):
    page.open(VIEWS["clusters"])
    page.find("#filter").send_keys("audio 4")
    page.wait("document.querySelectorAll('.tile').length === 1")
    page.wait_for_state("filter", "audio 4")
    page.find("#source-video").click()
    page.wait_for_state("source", "video")
    assert "6 video clusters of round 3" in page.text()


def test_a_cluster_shows_its_classes_its_other_names_and_its_members(page):
    page.open(VIEWS["cluster"])
    cluster = clusters_of(page)[2]
    bars = page.texts(".bars")
    assert f"{cluster['classes'][0][1]} (" in bars[0]
    other, count = cluster["others"]["video"][0]
    assert f"video {other}" in bars[1] and f"{count} (" in bars[1]
    for kind in ("typical", "borderline", "random"):
        expected = [m["example"] for m in cluster["members"] if m["kind"] == kind]
        page.run("window.scrollTo(0, document.body.scrollHeight)")
        assert page.listed(f"{kind.title()} members") == expected
    page.find("#all-members").click()
    page.wait("document.querySelector(\"[aria-label='All members']\") !== null")
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    every = members_of(page, audio=2)
    page.wait("document.querySelector(\"[aria-label='All members'] .card\") !== null")
    shown = set(page.listed("All members"))
    assert shown and shown <= every
    card = "[aria-label='All members'] .card"
    assert page.find(card).get_attribute("aria-setsize") == str(len(every))


def test_previous_and_next_follow_the_order_and_back_returns(page):
    page.open(VIEWS["clusters"] + "&sort=number&order=ascending")
    order = page.value(
        "[...document.querySelectorAll('.tile')].map((t) => +t.dataset.cluster)"
    )
    page.find(f".tile[data-cluster='{order[0]}'] a").click()
    page.wait_for_state("cluster", str(order[0]))
    page.find("#next-cluster").click()
    page.wait_for_state("cluster", str(order[1]))
    page.keys(",")
    page.wait_for_state("cluster", str(order[0]))
    page.browser.back()
    page.wait_for_state("cluster", str(order[1]))


def test_the_slider_shows_another_round(page):
    page.open("#view=clusters&source=video")
    assert "of round 3" in page.text()
    page.find("#round").send_keys(Keys.ARROW_LEFT)
    page.wait_for_state("round", "1")
    assert "of round 1" in page.text()
    assert page.value("document.activeElement.id") == "round"
    page.keys("[")
    page.wait_for_state("round", "0")
    page.keys("]")
    page.wait_for_state("round", "1")


def first_with_sound(page):
    return page.value(
        "[...document.querySelectorAll('.card')].findIndex((card) =>"
        " card.querySelector('video') && !card.textContent.includes('no sound'))"
    )


def test_clips_play_under_the_pointer_one_at_a_time_and_muted_at_first(page):
    page.open(VIEWS["cluster"])
    pictures = page.browser.find_elements(By.CSS_SELECTOR, ".card .picture")
    for picture in pictures[:2]:
        ActionChains(page.browser).move_to_element(picture).perform()
        page.wait("arguments[0].querySelector('video').currentTime > 0.2", picture)
        playing = "[...document.querySelectorAll('video')].filter((v) => !v.paused)"
        assert page.value(f"{playing}.length") == 1
        assert page.value(f"{playing}[0].muted")
    assert page.find("#sound").text == "Sound: click to allow"
    ActionChains(page.browser).move_to_element(page.find("h1")).perform()
    page.wait(f"{playing}.length === 0")


def test_the_sound_of_a_clip_is_heard_after_a_click(page):
    page.open(VIEWS["cluster"])
    page.find("#sound").click()
    assert page.find("#sound").text == "Sound: on"
    index = first_with_sound(page)
    picture = page.browser.find_elements(By.CSS_SELECTOR, ".card .picture")[index]
    ActionChains(page.browser).move_to_element(picture).perform()
    video = "arguments[0].querySelector('video')"
    page.wait(f"{video}.currentTime > 0.2 && !{video}.muted", picture)
    assert page.value(f"{video}.webkitAudioDecodedByteCount", picture) > 0
    page.keys("m")
    assert page.find("#sound").text == "Sound: off"
    assert page.value(f"{video}.muted", picture)


def test_the_sound_of_a_served_page_is_not_silent(page, browser, written):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *values):
            pass

    handler = functools.partial(Quiet, directory=str(written[0]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        browser.get(f"{address}index.html{VIEWS['cluster']}")
        page.wait("document.querySelector('.card video')?.src")
        page.find("#sound").click()
        index = first_with_sound(page)
        loudness = browser.execute_async_script(
            """
            const [index, done] = arguments;
            const card = document.querySelectorAll(".card")[index];
            const video = card.querySelector("video");
            const context = new AudioContext();
            const analyser = context.createAnalyser();
            context.createMediaElementSource(video).connect(analyser);
            playClip(video);
            const samples = new Float32Array(analyser.fftSize);
            const begin = performance.now();
            const listen = () => {
              analyser.getFloatTimeDomainData(samples);
              const loudness = Math.max(...samples.map(Math.abs));
              if (loudness > 0.1 || performance.now() - begin > 8000) done(loudness);
              else setTimeout(listen, 50);
            };
            listen();
            """,
            index,
        )
        browser.get("about:blank")
        server.shutdown()
    assert loudness > 0.1
    requested = [url for url in page.requested() if not url.startswith("data:")]
    assert all(url.startswith((address, "about:blank", "blob:")) for url in requested)


def test_clips_load_when_they_are_scrolled_into_view(page):
    page.open(VIEWS["cluster"])
    page.wait("document.querySelector('video').src !== ''")
    lists = page.browser.find_elements(By.CSS_SELECTOR, ".grid")
    last = lists[-1]
    page.run("arguments[0].style.marginTop = '3000px'", last)
    assert page.value(
        "[...arguments[0].querySelectorAll('video')].every((v) => !v.src)", last
    )
    page.run("arguments[0].scrollIntoView()", last)
    page.wait("arguments[0].querySelector('video')?.src", last)
    page.wait("document.querySelector('video')?.src !== ''")


def test_keys_move_open_and_play(page):
    page.open(VIEWS["cluster"])
    page.run("document.querySelector('.card').focus()")
    page.keys(Keys.ARROW_RIGHT)
    focused = "document.activeElement.getAttribute('aria-posinset')"
    assert page.value(focused) == "2"
    page.keys(Keys.HOME)
    assert page.value(focused) == "1"
    page.keys(Keys.SPACE)
    page.wait("document.activeElement.querySelector('video').currentTime > 0.1")
    page.keys(Keys.SPACE)
    assert page.value("document.activeElement.querySelector('video').paused")
    example = page.value("document.activeElement.dataset.example")
    page.keys(Keys.ENTER)
    page.wait_for_state("example", example)
    page.keys("/")
    page.wait("document.activeElement.id === 'query'")
    page.keys("?/", Keys.TAB)
    assert page.value("document.getElementById('query').value") == "?/"
    page.run("document.activeElement.blur()")
    page.keys("?")
    assert page.value("document.getElementById('help-dialog').open")
    page.keys(Keys.ESCAPE)
    page.wait("!document.getElementById('help-dialog').open")


def test_flows_lead_from_a_shown_round_to_the_next(page):
    page.open(VIEWS["rounds"])
    page.chart()
    assert "From round 1 to round 3" in page.text()
    flows = page.tables["round-0003"]["flows"]["audio"]["counts"]
    link = "document.querySelector('.chart').data[0].link"
    assert sorted(page.value(f"{link}.value")) == sorted(count for *_, count in flows)
    page.wait("document.querySelectorAll('.chart')[2]?.data?.length === 4")
    page.choose("#flows-into", "3")
    page.chart()
    page.wait(
        f"{link}.value.length === arguments[0]", sum(to == 3 for _, to, _ in flows)
    )
    nodes = page.browser.find_elements(By.CSS_SELECTOR, ".sankey-node .node-rect")
    ActionChains(page.browser).move_to_element(nodes[0]).click().perform()
    page.wait_for_state("view", "clusters")
    page.open("#view=rounds&round=0")
    assert "nothing flows into it" in page.text()


def test_a_click_on_a_cell_lists_its_videos(page):
    page.open("#view=across&round=3")
    chart = page.chart()
    categories = page.value("arguments[0]._fullLayout.xaxis._categories", chart)
    rows = page.value("arguments[0]._fullLayout.yaxis._categories", chart)
    place = page.place(chart, categories.index("2"), rows.index("1"))
    page.pointer(place).pause(0.1).click().perform()
    page.wait_for_state("row", "1")
    assert "column=2" in page.value("location.hash")
    expected = members_of(page, audio=1, video=2)
    assert f"{len(expected)} videos: audio 1 and video 2" in page.text()
    assert set(page.listed("Videos of the cell")) == expected
    page.choose("#column", "0")
    expected = members_of(page, audio=1, video=0)
    page.wait_for_state("column", "0")
    assert set(page.listed("Videos of the cell")) == expected
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    page.wait("document.querySelector(\"[aria-label='Disagreeing videos'] .card\")")
    shown = page.listed("Disagreeing videos")
    assert set(shown) <= set(page.tables["round-0003"]["cross"]["disagreeing"])


def map_place(page, chart, example):
    """Where an example's point is in the window."""
    table = page.tables["map-video"]
    row = table["examples"].index(example)
    return page.place(chart, table["x"][row], table["y"][row])


def test_the_map_is_coloured_hovered_and_lassoed(page):
    page.open(VIEWS["map"])
    chart = page.chart()
    for colour in ("audio", "labels", "video"):
        page.choose("#colour", colour)
        chart = page.chart()
        groups = page.tables["labels-0003"].get(colour)
        if groups is None:
            blocks = [page.tables[f"examples-{number}"] for number in range(3)]
            groups = [label for block in blocks for label in block["labels"]]
        groups = (
            groups[: page_fixture.MISSING_EXAMPLE]
            + (groups[page_fixture.MISSING_EXAMPLE + 1 :])
        )
        sizes = page.value("arguments[0].data.map((trace) => trace.x.length)", chart)
        expected = [groups.count(group) for group in set(groups)]
        assert sorted(sizes) == sorted(expected)
    page.run("arguments[0].scrollIntoView({ block: 'end' })", chart)
    page.pointer(map_place(page, chart, 30)).perform()
    page.wait("document.querySelector('#map-hover bdi')?.textContent.includes('clip')")
    box = page.value("arguments[0].getBoundingClientRect().toJSON()", chart)
    left, right = int(box["left"]) + 8, int(box["right"]) - 8
    top, bottom = int(box["top"]) + 36, int(box["bottom"]) - 8
    draw = page.pointer((left, top)).click_and_hold()
    for place in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.pointer(place, draw)
    draw.release().perform()
    page.wait("document.querySelector('#selection h2').textContent.match(/^89 /)")
    page.wait("document.querySelectorAll('#selection .card').length > 0")
    page.pointer(map_place(page, chart, 30)).pause(0.2).click().perform()
    page.wait_for_state("view", "video")


def test_without_webgl_a_part_of_the_points_is_drawn(page):
    page.open(VIEWS["overview"])
    page.run("webGl = false; location.hash = '#view=map&source=video'")
    page.wait("document.querySelector('.chart')?.data?.[0].type === 'scatter'")
    assert "Without WebGL, 89 of 89 points are drawn." in page.text()


def test_search_finds_ids_labels_and_numbers_and_loads_blocks_as_needed(page):
    page.open("#view=search")
    blocks = "[...document.scripts].filter((s) => s.src.includes('examples-')).length"
    assert page.value(blocks) == 0
    query = page.find("#query")
    for words, expected in (
        ("clip_00006", {60, 61, 62, 63, 64, 65, 66, 67, 68, 69}),
        ("#33", {33}),
        ("<SCRIPT>window", None),
        ("\u05d0\u05d1\u05d2", None),
    ):
        if expected is None:
            expected = {
                block["first"] + row
                for block in (page.tables[f"examples-{number}"] for number in range(3))
                for row, text in enumerate(block["ids"])
                for label in [block["labels"][row]]
                if words.lower() in text.lower()
                or (
                    label >= 0
                    and words.lower()
                    in page.tables["overview"]["data"]["label_names"][label].lower()
                )
            }
        page.run("arguments[0].value = ''", query)
        query.send_keys(words)
        status = f"{len(expected)} videos found."
        page.wait(
            "document.getElementById('search-status').textContent === arguments[0]",
            status,
        )
        shown = page.listed("Found videos")
        assert set(shown) <= expected and len(shown) >= min(len(expected), 10)
    assert page.value(blocks) == 3
    page.open("#view=search&label=6")
    page.wait("document.querySelectorAll('.card').length > 2")
    labels = [
        label
        for number in range(3)
        for label in page.tables[f"examples-{number}"]["labels"]
    ]
    found = f"{labels.count(6)} videos found."
    assert page.texts("#search-status") == [found]


def test_a_video_shows_its_clusters_and_its_neighbours(page):
    example = int(next(iter(page.tables["neighbours-audio"])))
    page.open(f"#view=video&round=3&example={example}")
    for source in page_fixture.SOURCES:
        cluster = page.tables["labels-0003"][source][example]
        assert f"{source} {cluster}" in page.text()
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    nearest = page.tables["neighbours-video"][str(example)]
    page.wait("document.querySelector(\"[aria-label='Nearest by video'] .card\")")
    shown = page.listed("Nearest by video")
    assert shown and shown == [other for other, _ in nearest][: len(shown)]
    assert "cosine 0.95" in page.text()


def name_cluster(page, cluster, *, name="", junk=False, merge=""):
    page.open(f"#view=clusters&round=3&source=audio&cluster={cluster}")
    page.find("#name").send_keys(name, Keys.TAB)
    if junk:
        page.find("#junk").click()
    if merge:
        Select(page.find("#merge")).select_by_value(merge)


def test_names_are_kept_exported_and_imported(page, tmp_path):
    name = '<b>drums</b>, "live"; \u05d0'
    name_cluster(page, 1, name=name, merge="2")
    name_cluster(page, 0, junk=True)
    page.open(VIEWS["clusters"])
    assert name in page.text() and "merged into 2" in page.text()
    page.choose("#junk-shown", "hidden")
    page.wait("document.querySelectorAll('.tile').length === 5")
    page.browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior",
        {"behavior": "allow", "downloadPath": str(tmp_path)},
    )
    page.open(VIEWS["names"])
    page.find("#export").click()
    path = tmp_path / "cluster_names.csv"
    WebDriverWait(page.browser, 10, poll_frequency=0.05).until(lambda _: path.exists())
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["source", "round", "cluster", "name", "junk", "merged_into"],
        ["audio", "3", "0", "", "1", ""],
        ["audio", "3", "1", name, "0", "2"],
    ]
    page.find("#clear").click()
    page.browser.switch_to.alert.accept()
    page.wait("document.getElementById('main').innerText.includes('No cluster has')")
    page.find("#import").send_keys(str(path))
    page.wait("document.getElementById('names-message').textContent.startsWith('2 ')")
    assert name in page.text()
    assert page.value("namesCsv()") == path.read_text(encoding="utf-8")


def test_merges_in_a_circle_are_refused(page):
    name_cluster(page, 1, merge="2")
    name_cluster(page, 2, merge="1")
    message = page.texts("#naming-message")
    assert message == ["Cluster 1 is merged into cluster 2 already."]
    assert page.value("document.getElementById('merge').value") == ""
    assert page.value("clusterNames.entries.size") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,round\n", "The file has no column cluster, name, junk, merged_into."),
        ("audio,3,x,a,0,\n", 'Row 2: cluster is "x", not a whole number.'),
        ("depth,3,1,a,0,\n", 'Row 2: this run has no clustering "depth".'),
        ("audio,3,1,a,yes,\n", 'Row 2: junk is "yes", not 0 or 1.'),
        ("audio,3,1,a,0,1\n", "audio 1 of round 3 is merged in a circle."),
        ('audio,3,1,"a\n', "Row 2 is no CSV."),
        ("audio,3,1,a,0,\naudio,3,1,b,0,\n", "Row 3: audio 3 1 comes twice."),
    ],
)
def test_a_faulty_file_of_names_is_refused_whole(page, tmp_path, text, message):
    header = "source,round,cluster,name,junk,merged_into\n"
    path = tmp_path / "names.csv"
    path.write_text(text if text.startswith("source") else header + text)
    page.open(VIEWS["names"])
    page.find("#import").send_keys(str(path))
    page.wait("document.getElementById('names-message').textContent !== ''")
    assert page.texts("#names-message") == [message]
    assert page.value("clusterNames.entries.size") == 0


def test_the_theme_follows_the_system_and_the_switch(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    page.open(VIEWS["rounds"])
    page.chart()
    light = page.value(ground)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    dark = page.wait(f"{ground} !== arguments[0] && {ground}", light)
    page.find("#theme").click()
    assert page.find("#theme").text == "Theme: light"
    assert page.value(ground) == light
    page.find("#theme").click()
    assert page.value(ground) == dark
    page.wait(
        "document.querySelector('.chart').layout.font.color === themeColour('--text')"
    )
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert page.value(ground) == dark


def test_a_list_of_100000_holds_what_is_seen(page):
    page.open("#view=search")
    page.run(
        """
        const list = exampleList([...Array(100000).keys()], {
          label: "Many", media: {}, state: readState(), factsOf: () => [] });
        run.data.num_rows = 100000;
        document.getElementById("main").append(list.element);
        list.update();
        """
    )
    cards = "document.querySelectorAll(\"[aria-label='Many'] .card\")"
    assert 6 < page.value(f"{cards}.length") < 60
    page.run(f"{cards}[0].focus()")
    page.run("loadExample = async () => ({ id: '', label: -1 })")
    page.keys(Keys.END)
    assert page.value("document.activeElement.dataset.example") == "99999"
    assert 2 < page.value(f"{cards}.length") < 60
    bottom = "document.activeElement.getBoundingClientRect().bottom"
    assert page.value(f"{bottom} <= innerHeight")


def test_controls_have_names_and_views_are_announced(page):
    for name, state in VIEWS.items():
        page.open(state)
        tree = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})
        nodes = [node for node in tree["nodes"] if not node["ignored"]]
        roles = {node["role"]["value"] for node in nodes}
        assert {"banner", "navigation", "main", "heading"} <= roles, name
        unnamed = [
            node
            for node in nodes
            if node["role"]["value"]
            in ("button", "link", "textbox", "searchbox", "combobox", "slider")
            and not node.get("name", {}).get("value")
        ]
        assert unnamed == [], name
    page.keys("/")
    page.wait("document.getElementById('announcer').textContent === 'Search'")
    assert page.value("document.title").startswith("Search")


def test_a_missing_table_is_named(copied):
    (copied.folder / "data" / "media.js").unlink()
    copied.open(VIEWS["clusters"])
    assert "data/media.js cannot be read" in copied.text()
    copied.find("nav a").click()
    copied.wait_for_state("view", "overview")
    assert "Health by round" in copied.text()


def test_tables_of_another_format_are_refused(copied):
    table = {**copied.tables["overview"], "format": 2}
    page_fixture.write_table(copied.folder, "overview", table)
    copied.browser.get(f"{copied.folder.as_uri()}/index.html")
    copied.wait("document.querySelector('.error') !== null")
    assert "have format 2, this page reads format 1" in copied.text()


def test_a_run_of_one_clustering_without_labels_has_every_view(copied):
    overview = copied.tables["overview"]
    data = {**overview["data"], "label_names": []}
    overview = {**overview, "sources": ["audio"], "data": data}
    overview |= {"evaluations": [], "warnings": [], "maps": {}}
    page_fixture.write_table(copied.folder, "overview", overview)
    table = json.loads(json.dumps(copied.tables["round-0003"]))
    del table["cross"], table["flows"], table["clusterings"]["video"]
    for cluster in table["clusterings"]["audio"]["clusters"]:
        cluster |= {"purity": None, "classes": [], "others": {}, "agreement": {}}
        cluster |= {"dispersion": None, "churn": None}
        for member in cluster["members"]:
            member |= {"distance": None, "margin": None}
    page_fixture.write_table(copied.folder, "round-0003", table)
    for name, state in VIEWS.items():
        copied.open(state.replace("source=video", "source=audio"))
        assert copied.value("document.querySelector('.error')") is None, name
    assert copied.browser.get_log("browser") == []
