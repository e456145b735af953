"""The names of clusters in a real browser: kept, exported, imported, refused."""

import csv

import pytest

pytest.importorskip("selenium", reason="needs selenium")
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

from tests.browse.browser import VIEWS  # noqa: E402

pytestmark = pytest.mark.once


def name_cluster(page, cluster, *, name="", junk=False, merge=""):
    page.open(f"#view=clusters&round=3&source=audio&cluster={cluster}")
    page.find("#name").send_keys(name, Keys.TAB)
    if junk:
        page.find("#junk").click()
    if merge:
        Select(page.find("#merge")).select_by_value(merge)


def test_names_are_kept_exported_and_imported(lone_page, tmp_path):
    page = lone_page
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
    WebDriverWait(page.browser, 90, poll_frequency=0.02).until(lambda _: path.exists())
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


def test_merges_in_a_circle_are_refused(lone_page):
    page = lone_page
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
