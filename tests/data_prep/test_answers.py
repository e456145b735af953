"""Answers of workers, which may be of anything."""

import json
import socket
import struct

import numpy as np
import pytest

from data_prep import answers, rows
from data_prep.answers import Form, Outcome, Packed, Receiver
from data_prep.conversion_settings import ConversionSettings
from data_prep.rows import ConvertedRow

pytestmark = pytest.mark.once

FORM = Form(lambda result: Packed({}, [result]), lambda values, data: bytes(data))


def header(item=0, reason="", detail="", **others):
    values = {"item": item, "reason": reason, "detail": detail, "values": {}}
    return json.dumps(values | others).encode()


def answer(header, data=b"1", magic=b"xdca"):
    return struct.pack("<4sIQ", magic, len(header), len(data)) + header + data


def received(content, form=FORM, limit_bytes=1000):
    """What a receiver makes of bytes, and then of the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        theirs.settimeout(10)
        receiver = Receiver(form, limit_bytes)
        while content:
            content = content[theirs.send(content[:10_000]) :]
            outcome = receiver.receive(ours)
            if outcome:
                return outcome
        theirs.close()
        while not (outcome := receiver.receive(ours)):
            pass
        return outcome


def test_a_result_and_a_failure_arrive_as_they_were():
    content = answers.encode(3, Outcome(b"data"), FORM)
    assert received(content) == (3, Outcome(b"data"))
    failure = Outcome(reason="no_audio", detail="caf\u00e9")
    assert received(answers.encode(4, failure, FORM)) == (4, failure)


def test_a_detail_is_cut_and_holds_what_utf_8_does():
    failure = Outcome(reason="no_audio", detail="\udcff" + "\U0001f600" * 5000)
    _, outcome = received(answers.encode(0, failure, FORM))
    assert outcome.detail == "?" + "\U0001f600" * 1999


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 3,
        answer(header(), magic=b"xxxx"),
        answer(b"[1,"),
        answer(b"\xff\xfe"),
        answer(b"[1, 2]"),
        answer(b"[" * 60_000),
        answer(b"9" * 60_000),
        answer(header(item=-1)),
        answer(header(item=1 << 63)),
        answer(header(item=True)),
        answer(header(item=1.0)),
        answer(header(more=1)),
        answer(b"{}"),
        answer(header(reason="because"), b""),
        answer(header(reason=["no_audio"]), b""),
        answer(header(reason="no_audio")),
        answer(header(reason="no_audio", values={"a": 1}), b""),
        answer(header(reason="no_audio", detail=[1]), b""),
        answer(header(reason="no_audio", detail="x" * 3000), b""),
        answer(header(values=[])),
        answer(header(), b"1" * 1001),
        struct.pack("<4sIQ", b"xdca", 2, 1 << 62),
        struct.pack("<4sIQ", b"xdca", 0xFFFFFFFF, 0),
        struct.pack("<4sIQ", b"xdca", 0, 0),
    ],
)
def test_bytes_of_another_form_are_refused(content):
    with pytest.raises(ValueError):
        received(content)


@pytest.mark.parametrize("num_bytes", [0, 3, 16, 20, -1])
def test_an_answer_that_is_cut_off_is_none(num_bytes):
    with pytest.raises(EOFError):
        received(answer(header())[:num_bytes])


SETTINGS = ConversionSettings(fps=10.0, max_secs=2.0, store_waveform=True)
ROW = ConvertedRow(
    video_items=[b"one", b"two", b"two", b"one"],
    height=48,
    width=64,
    audio_rows=np.arange(80, dtype=np.float32).reshape(2, 40),
    waveform=np.array([0.5, -0.5], np.float32),
    duration_secs=0.4,
    truncated="",
)


def sent(row, settings=SETTINGS):
    form = rows.answer_form(settings)
    content = answers.encode(0, Outcome(row), form)
    return received(content, form, limit_bytes=10_000)[1].result


def assert_same(row, expected):
    for value, other in zip(row, expected, strict=True):
        np.testing.assert_array_equal(value, other)
        if isinstance(other, np.ndarray):
            assert value.dtype == other.dtype and value.flags.writeable


@pytest.mark.parametrize(
    ("changed", "settings"),
    [
        ({}, SETTINGS),
        ({"truncated": "sound after 3 frames"}, SETTINGS),
        ({"waveform": None}, SETTINGS._replace(store_waveform=False)),
        (
            {"audio_rows": None, "waveform": None},
            SETTINGS._replace(store_waveform=False, modalities=("video",)),
        ),
        (
            {"video_items": [], "height": 0, "width": 0},
            SETTINGS._replace(modalities=("audio",)),
        ),
        ({"audio_rows": np.zeros((0, 40), np.float32)}, SETTINGS),
    ],
)
def test_rows_arrive_as_they_were(changed, settings):
    row = ROW._replace(**changed)
    assert_same(sent(row, settings), row)


def test_a_frame_on_show_for_longer_is_sent_once():
    shown = b"x" * 1000
    row = ROW._replace(video_items=[shown] * 20)
    content = answers.encode(0, Outcome(row), rows.answer_form(SETTINGS))
    assert len(content) < 2000
    assert sent(row).video_items == [shown] * 20


@pytest.mark.parametrize(
    "changed",
    [
        {"video_items": []},
        {"video_items": [b""]},
        {"video_items": [b"one"] * 31},
        {"height": 0},
        {"width": 65536},
        {"width": 64.0},
        {"height": -48},
        {"audio_rows": np.full((2, 40), np.nan, np.float32)},
        {"audio_rows": np.full((2, 40), 1e30, np.float32)},
        {"audio_rows": np.zeros((2, 41), np.float32)},
        {"waveform": np.array([np.inf], np.float32)},
        {"duration_secs": 3.1},
        {"duration_secs": -0.1},
        {"duration_secs": float("nan")},
        {"duration_secs": "1"},
        {"truncated": None},
    ],
)
def test_rows_that_cannot_be_are_refused(changed):
    with pytest.raises(ValueError):
        sent(ROW._replace(**changed))


@pytest.mark.parametrize(
    "runs",
    [
        [[3, 1], [3, 2], [3, 10**9]],
        [[3, 1], [3, 2], [3, 2**62]],
        [[2**62, 1], [2**62, 2], [9, 1]],
        [[3, 0], [3, 2], [3, 1]],
        [[3, -1], [3, 2], [3, 1]],
        [[4, 1], [3, 2], [3, 1]],
        [[-3, 1], [9, 2], [3, 1]],
    ],
)
def test_sizes_of_images_that_cannot_be_are_refused(runs):
    form = rows.answer_form(SETTINGS)
    packed = form.pack(ROW)
    lying = Form(
        lambda row: packed._replace(
            buffers=[np.array(runs, "<i8"), *packed.buffers[1:]]
        ),
        form.unpack,
    )
    with pytest.raises(ValueError):
        received(answers.encode(0, Outcome(ROW), lying), form)


@pytest.mark.parametrize("name", ["num_items", "audio_rows", "samples"])
@pytest.mark.parametrize("count", [0, 1, 2**40, 2**62, -1, 1.5, None])
def test_counts_that_cannot_be_are_refused(name, count):
    form = rows.answer_form(SETTINGS)
    packed = form.pack(ROW)
    lying = Form(
        lambda row: packed._replace(values=packed.values | {name: count}), form.unpack
    )
    with pytest.raises(ValueError):
        received(answers.encode(0, Outcome(ROW), lying), form)
