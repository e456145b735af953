"""The cluster pages in a real browser: the views, whatever their tables hold."""

import json

import pytest

pytest.importorskip("selenium", reason="needs selenium")
from selenium.webdriver.common.keys import Keys  # noqa: E402

from tests.browse import page_fixture  # noqa: E402
from tests.browse.browser import VIEWS  # noqa: E402

pytestmark = pytest.mark.once


def test_the_overview_tells_data_health_results_and_warnings(page):
    page.load("")
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
            page.charts()
        assert page.value("document.documentElement.scrollWidth") <= width, name
        assert page.value("document.querySelector('.error')") is None, name
        hostile = "body script, [onerror], [onclick], main a:not([href^='#'])"
        assert page.value(f'document.querySelectorAll("{hostile}").length') == 0
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.leave()


def test_a_cluster_shows_its_classes_its_other_names_and_its_members(page):
    page.open(VIEWS["cluster"])
    cluster = page.clusters()[2]
    bars = page.texts(".bars")
    assert f"{cluster['classes'][0][1]} (" in bars[0]
    other, count = cluster["others"]["video"][0]
    assert f"video {other}" in bars[1] and f"{count} (" in bars[1]
    for kind in ("typical", "borderline", "random"):
        expected = [m["example"] for m in cluster["members"] if m["kind"] == kind]
        page.scroll_down()
        assert page.listed(f"{kind.title()} members") == expected
    page.find("#all-members").click()
    page.wait("document.querySelector(\"[aria-label='All members']\") !== null")
    page.scroll_down()
    every = page.members(audio=2)
    page.wait("document.querySelector(\"[aria-label='All members'] .card\") !== null")
    shown = set(page.listed("All members"))
    assert shown and shown <= every
    card = "[aria-label='All members'] .card"
    assert page.find(card).get_attribute("aria-setsize") == str(len(every))


def test_a_video_shows_its_clusters_and_its_neighbours(page):
    example = int(next(iter(page.tables["neighbours-audio"])))
    page.open(f"#view=video&round=3&example={example}")
    for source in page_fixture.SOURCES:
        cluster = page.tables["labels-0003"][source][example]
        assert f"{source} {cluster}" in page.text()
    page.scroll_down()
    nearest = page.tables["neighbours-video"][str(example)]
    page.wait("document.querySelector(\"[aria-label='Nearest by video'] .card\")")
    shown = page.listed("Nearest by video")
    assert shown and shown == [other for other, _ in nearest][: len(shown)]
    assert "cosine 0.95" in page.text()


def test_search_finds_ids_labels_and_numbers_and_loads_blocks_as_needed(page):
    page.load("#view=search")
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


def test_the_theme_follows_the_system_and_the_switch(lone_page):
    page = lone_page
    ground = "getComputedStyle(document.body).backgroundColor"
    page.open(VIEWS["rounds"])
    page.charts()
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


def test_a_list_of_100000_holds_what_is_seen(lone_page):
    page = lone_page
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


def test_a_missing_table_is_named(copied_page):
    (copied_page.folder / "data" / "media.js").unlink()
    copied_page.open(VIEWS["clusters"])
    assert "data/media.js cannot be read" in copied_page.text()
    copied_page.find("nav a").click()
    copied_page.wait_for_state("view", "overview")
    assert "Health by round" in copied_page.text()


def test_tables_of_another_format_are_refused(copied_page):
    table = {**copied_page.tables["overview"], "format": 2}
    page_fixture.write_table(copied_page.folder, "overview", table)
    copied_page.browser.get(f"{copied_page.folder.as_uri()}/index.html")
    copied_page.wait("document.querySelector('.error') !== null")
    assert "have format 2, this page reads format 1" in copied_page.text()


def test_a_run_of_one_clustering_without_labels_has_every_view(copied_page):
    overview = copied_page.tables["overview"]
    data = {**overview["data"], "label_names": []}
    overview = {**overview, "sources": ["audio"], "data": data}
    overview |= {"evaluations": [], "warnings": [], "maps": {}}
    page_fixture.write_table(copied_page.folder, "overview", overview)
    table = json.loads(json.dumps(copied_page.tables["round-0003"]))
    del table["cross"], table["flows"], table["clusterings"]["video"]
    for cluster in table["clusterings"]["audio"]["clusters"]:
        cluster |= {"purity": None, "classes": [], "others": {}, "agreement": {}}
        cluster |= {"dispersion": None, "churn": None}
        for member in cluster["members"]:
            member |= {"distance": None, "margin": None}
    page_fixture.write_table(copied_page.folder, "round-0003", table)
    for name, state in VIEWS.items():
        copied_page.open(state.replace("source=video", "source=audio"))
        assert copied_page.value("document.querySelector('.error')") is None, name
    assert copied_page.browser.get_log("browser") == []
