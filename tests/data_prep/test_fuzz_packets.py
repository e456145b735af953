"""The walk over packets: a few files, and that it tells right from wrong."""

import pattern_film
import pytest
import simplejpeg

from benchmarks import fuzz_packets
from data_prep.decoding.recording import Media, Segment

pytestmark = pytest.mark.once


def media(*, sound_secs):
    """Two seconds of the film, with its sound from another time on."""
    images = [pattern_film.picture(number) for number in range(50)]
    video_items = [simplejpeg.encode_jpeg(image) for image in images]
    waveform = pattern_film.sound(sound_secs, 2.0, 16000)
    return Media(video_items, 120, 160, waveform, 2.0)


def test_sound_of_another_time_is_wrong():
    assert fuzz_packets.fault(media(sound_secs=0.0), Segment()) == ""
    assert "a tick at" in fuzz_packets.fault(media(sound_secs=0.5), Segment())


@pytest.mark.parametrize("seed", [3])
def test_a_walk_over_packets_gives_no_wrong_record(tmp_path, seed):
    counts, wrong = fuzz_packets.run(str(tmp_path), num=11, seed=seed)
    assert wrong == []
    assert counts["right"] + counts["refused"] >= 3
