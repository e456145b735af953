"""The layout and the sentences of charts, as TensorBoard's own parts read them."""

import glob
import json
import os
import re

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import (
    data_provider,
    plugin_event_multiplexer,
)
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar import custom_scalars_plugin
from tensorboard.plugins.scalar import metadata
from werkzeug.test import Client

from xdc_tf.training import charts


@pytest.fixture(scope="module")
def described(tiny_run):
    """Of each name in the events of a run the texts of its descriptions, in order."""
    found = {}
    # Others of the folder are of evaluations, by other tests.
    paths = glob.glob(f"{tiny_run}/tensorboard/events.*")
    path = min(paths, key=lambda path: int(os.path.basename(path).split(".")[3]))
    for event in tf.compat.v1.train.summary_iterator(path):
        for value in event.summary.value:
            texts = found.setdefault(value.tag, [])
            texts.append(value.metadata.summary_description)
    return found


def test_every_summary_of_a_run_says_how_to_read_it_once(described):
    described = dict(described)
    assert described.pop("custom_scalars__config__") == [""]
    for name, texts in described.items():
        assert texts[0] == charts.describe(name), name
        assert not any(texts[1:]), name


def test_sentences_are_sentences():
    for pattern, sentence in charts.SENTENCES:
        assert sentence[0].isupper() and sentence.endswith("."), pattern
        assert "  " not in sentence and re.compile(pattern)


def test_a_name_without_a_sentence_is_named():
    with pytest.raises(KeyError, match="other/thing; add one"):
        charts.describe("other/thing")


def test_tensorboard_serves_the_ten_charts_with_the_curves_of_a_run(tiny_run):
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(f"{tiny_run}/tensorboard")
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(tiny_run))
    context = base_plugin.TBContext(data_provider=provider, multiplexer=multiplexer)
    plugin = custom_scalars_plugin.CustomScalarsPlugin(context)
    client = Client(plugin.get_plugin_apps()["/layout"])
    (category,) = json.loads(client.get("/layout").get_data())["category"]
    assert [chart["title"] for chart in category["chart"]] == [
        title for title, _ in charts.FIRST_CHARTS
    ]
    names = multiplexer.PluginRunToTagToContent(metadata.PLUGIN_NAME)["."]
    for chart in category["chart"]:
        (pattern,) = chart["multiline"]["tag"]
        assert any(re.match(pattern, name) for name in names), chart["title"]
    assert len(category["chart"]) == 10


def test_texts_show_names_and_values_as_they_are():
    texts = charts.run_texts(
        name="a *run*",
        config={"a": {"b": "x|y"}},
        data={"records": "<b>"},
        command="",
    )
    assert texts["run/configuration"].startswith("**a \\*run\\***")
    assert "| a.b | x&#124;y |" in texts["run/configuration"]
    assert "| records | &lt;b&gt; |" in texts["run/data"]
    assert "called from Python" in texts["run/command"]
