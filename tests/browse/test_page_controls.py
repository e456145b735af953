"""The cluster pages in a real browser: every control does what it says."""

import functools
import http.server
import threading

import pytest

pytest.importorskip("selenium", reason="needs selenium")
from selenium.webdriver.common.keys import Keys  # noqa: E402

from tests.browse import page_fixture  # noqa: E402
from tests.browse.browser import VIEWS  # noqa: E402

pytestmark = pytest.mark.once


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
            page.clusters(), key=lambda c: (sign * figure(c), c["cluster"])
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


@pytest.mark.slow
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


def test_clips_play_under_the_pointer_one_at_a_time_and_muted_at_first(lone_page):
    page = lone_page
    page.open(VIEWS["cluster"])
    pictures = page.find_all(".card .picture")
    for picture in pictures[:2]:
        page.point_at(picture)
        page.wait("arguments[0].querySelector('video').currentTime > 0.2", picture)
        playing = "[...document.querySelectorAll('video')].filter((v) => !v.paused)"
        assert page.value(f"{playing}.length") == 1
        assert page.value(f"{playing}[0].muted")
    assert page.find("#sound").text == "Sound: click to allow"
    page.point_at(page.find("h1"))
    page.wait(f"{playing}.length === 0")


def test_the_sound_of_a_clip_is_heard_after_a_click(lone_page):
    page = lone_page
    page.open(VIEWS["cluster"])
    page.find("#sound").click()
    assert page.find("#sound").text == "Sound: on"
    index = first_with_sound(page)
    picture = page.find_all(".card .picture")[index]
    page.point_at(picture)
    video = "arguments[0].querySelector('video')"
    page.wait(f"{video}.currentTime > 0.2 && !{video}.muted", picture)
    assert page.value(f"{video}.webkitAudioDecodedByteCount", picture) > 0
    page.keys("m")
    assert page.find("#sound").text == "Sound: off"
    assert page.value(f"{video}.muted", picture)


def test_the_sound_of_a_served_page_is_not_silent(lone_page, browser, written_page):
    page = lone_page

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *values):
            pass

    handler = functools.partial(Quiet, directory=str(written_page[0]))
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
              if (loudness > 0.1 || performance.now() - begin > 60000) done(loudness);
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
    lists = page.find_all(".grid")
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
    page.open("#view=rounds&round=1&source=audio")
    flows, _, effective = page.charts()
    assert "From round 0 to round 1" in page.text()
    counts = page.tables["round-0001"]["flows"]["audio"]["counts"]
    values = "arguments[0].data[0].link.value"
    assert sorted(page.value(values, flows)) == sorted(count for *_, count in counts)
    assert page.value("arguments[0].data.length", effective) == 4
    page.choose("#flows-into", "3")
    flows, *_ = page.charts()
    assert len(page.value(values, flows)) == sum(to == 3 for _, to, _ in counts)
    page.actions().click(page.find(".sankey-node .node-rect")).perform()
    page.wait_for_state("view", "clusters")
    page.wait_for_state("round", "0")
    page.open("#view=rounds&round=0")
    assert "nothing flows into it" in page.text()


def test_flows_from_a_round_that_is_not_shown_lead_forward_alone(page):
    page.open("#view=rounds&round=3&source=audio")
    page.charts()
    assert "From round 2 to round 3" in page.text()
    assert "Round 2 is not shown" in page.text()
    page.find("summary").click()
    links = page.value(
        "[...document.querySelectorAll('tbody a')]"
        ".map((link) => link.hash.match(/round=./)[0])"
    )
    counts = page.tables["round-0003"]["flows"]["audio"]["counts"]
    assert links == ["round=3"] * len(counts)
    before = page.value("location.hash")
    nodes = page.find_all(".sankey-node .node-rect")
    page.actions().click(nodes[0]).perform()
    assert page.value("location.hash") == before
    page.actions().click(nodes[-1]).perform()
    page.wait_for_state("view", "clusters")
    page.wait_for_state("round", "3")


def test_a_click_on_a_cell_lists_its_videos(page):
    page.open("#view=across&round=3")
    (chart,) = page.charts()
    categories = page.value("arguments[0]._fullLayout.xaxis._categories", chart)
    rows = page.value("arguments[0]._fullLayout.yaxis._categories", chart)
    place = page.place(chart, categories.index("2"), rows.index("1"))
    page.pointer(place).perform()
    page.wait("arguments[0]._hoverdata?.[0].y === '1'", chart)
    page.pointer(place).click().perform()
    page.wait_for_state("row", "1")
    assert "column=2" in page.value("location.hash")
    expected = page.members(audio=1, video=2)
    assert f"{len(expected)} videos: audio 1 and video 2" in page.text()
    assert set(page.listed("Videos of the cell")) == expected
    page.choose("#column", "0")
    expected = page.members(audio=1, video=0)
    page.wait_for_state("column", "0")
    assert set(page.listed("Videos of the cell")) == expected
    page.scroll_down()
    page.wait("document.querySelector(\"[aria-label='Disagreeing videos'] .card\")")
    shown = page.listed("Disagreeing videos")
    assert set(shown) <= set(page.tables["round-0003"]["cross"]["disagreeing"])


def map_place(page, chart, example):
    """Where an example's point is in the window."""
    table = page.tables["map-video"]
    row = table["examples"].index(example)
    return page.place(chart, table["x"][row], table["y"][row])


def hover_over(page, chart, example):
    """Moves the pointer to an example's point, and waits until its id is shown."""
    page.pointer(map_place(page, chart, example)).perform()
    video_id = page.tables["examples-0"]["ids"][example]
    page.wait(
        "document.querySelector('#map-hover bdi')?.textContent === arguments[0]",
        video_id,
    )


def test_the_map_is_coloured_hovered_and_lassoed(page):
    page.open(VIEWS["map"])
    for colour in ("audio", "labels", "video"):
        page.choose("#colour", colour)
        (chart,) = page.charts()
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
    hover_over(page, chart, 30)
    box = page.value("arguments[0].getBoundingClientRect().toJSON()", chart)
    left, right = int(box["left"]) + 8, int(box["right"]) - 8
    top, bottom = int(box["top"]) + 36, int(box["bottom"]) - 8
    draw = page.pointer((left, top)).click_and_hold()
    for place in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.pointer(place, draw)
    draw.release().perform()
    page.wait("document.querySelector('#selection h2').textContent.match(/^89 /)")
    page.wait("document.querySelectorAll('#selection .card').length > 0")
    hover_over(page, chart, 31)
    page.pointer(map_place(page, chart, 31)).click().perform()
    page.wait_for_state("example", "31")


def test_without_webgl_a_part_of_the_points_is_drawn(lone_page):
    page = lone_page
    page.open(VIEWS["overview"])
    page.run("webGl = false; location.hash = '#view=map&source=video'")
    page.wait("document.querySelector('.chart')?.data?.[0].type === 'scatter'")
    assert "Without WebGL, 89 of 89 points are drawn." in page.text()
