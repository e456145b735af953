import json
import os
import resource

import numpy as np
import pytest

from xdc_tf.features import feature_store, row_arrays
from xdc_tf.features.extraction import ExampleFeatures
from xdc_tf.features.feature_store import FeatureStore, RowState

pytestmark = pytest.mark.once

FORM = {
    "num_rows": 6,
    "widths": {"video": 2, "audio": 1},
    "dtype": "float32",
    "made_with": {"clip": {"fps": 8.0, "video_mean": (0.4, 0.5)}},
}
ENCODERS = {"video": "aa", "audio": "bb"}


def open_store(tmp_path, **changes):
    return FeatureStore(str(tmp_path / "features"), **FORM | changes)


def examples(index, values):
    audio = np.array(values, np.float32)[:, None]
    streams = {"video": np.hstack([audio, -audio]), "audio": audio}
    return ExampleFeatures(np.array(index, np.int64), streams)


def filled_store(tmp_path, state=RowState.EXTRACTED, **kept):
    """With rows 1 and 4, committed."""
    store = open_store(tmp_path)
    store.keep_only(**{"harvested_in": None, "extracted_by": None} | kept)
    store.write(examples([4, 1], [4.5, 1.5]), state)
    store.commit()
    return store


def test_rows_come_back_by_index_from_standard_npy_files(tmp_path):
    filled_store(tmp_path)
    video = np.load(tmp_path / "features" / "video.npy")
    assert video.dtype == np.float32
    expected = [[0, 0], [1.5, -1.5], [0, 0], [0, 0], [4.5, -4.5], [0, 0]]
    assert video.tolist() == expected


def test_features_are_read_only_maps_with_the_filled_rows_present(tmp_path):
    found = filled_store(tmp_path).features()
    assert isinstance(found.streams["audio"], np.memmap)
    assert not found.streams["audio"].flags.writeable
    assert found.streams["audio"][:, 0].tolist() == [0, 1.5, 0, 0, 4.5, 0]
    assert found.present.tolist() == [False, True, False, False, True, False]


def test_of_equal_indices_the_last_row_wins(tmp_path):
    store = open_store(tmp_path)
    store.write(examples([2, 3, 2, 3], [1.0, 2.0, 3.0, 4.0]), RowState.HARVESTED)
    assert store.features().streams["audio"][2:4, 0].tolist() == [3.0, 4.0]


def test_a_row_is_marked_as_filled_by_a_commit(tmp_path):
    store = filled_store(tmp_path, extracted_by=ENCODERS)
    store.write(examples([0], [9.0]), RowState.EXTRACTED)
    # What a process finds that starts after this one was killed.
    assert np.flatnonzero(open_store(tmp_path).states).tolist() == [1, 4]
    store.commit()
    assert np.flatnonzero(open_store(tmp_path).states).tolist() == [0, 1, 4]


@pytest.mark.parametrize(
    ("state", "made", "wanted", "kept"),
    [
        (RowState.EXTRACTED, {"extracted_by": ENCODERS}, {}, [1, 4]),
        (RowState.EXTRACTED, {"extracted_by": ENCODERS}, {"harvested_in": 3}, [1, 4]),
        (
            RowState.EXTRACTED,
            {"extracted_by": ENCODERS},
            {"extracted_by": ENCODERS | {"audio": "cc"}},
            [],
        ),
        (RowState.EXTRACTED, {"extracted_by": ENCODERS}, {"extracted_by": None}, []),
        (RowState.EXTRACTED, {}, {"extracted_by": None}, []),
        (RowState.HARVESTED, {"harvested_in": 0}, {}, [1, 4]),
        (RowState.HARVESTED, {"harvested_in": 0}, {"extracted_by": ENCODERS}, [1, 4]),
        (RowState.HARVESTED, {"harvested_in": 0}, {"harvested_in": 1}, []),
        (RowState.HARVESTED, {"harvested_in": 0}, {"harvested_in": None}, []),
    ],
)
def test_rows_of_other_encoders_or_another_round_are_emptied(
    state, made, wanted, kept, tmp_path
):
    filled_store(tmp_path, state, **made)
    store = open_store(tmp_path)
    store.keep_only(**{"harvested_in": None, "extracted_by": None} | made | wanted)
    assert np.flatnonzero(store.states).tolist() == kept
    assert np.flatnonzero(open_store(tmp_path).states).tolist() == kept


def test_emptied_rows_stay_empty_when_their_encoders_come_back(tmp_path):
    filled_store(tmp_path, extracted_by=ENCODERS)
    for encoders in ({"video": "other"}, ENCODERS):
        store = open_store(tmp_path)
        store.keep_only(harvested_in=None, extracted_by=encoders)
    assert not store.states.any()


@pytest.mark.parametrize(
    "change",
    [
        {"num_rows": 7},
        {"dtype": "float16"},
        {"widths": {"video": 3, "audio": 1}},
        {"widths": {"video": 2}},
        {"made_with": {"clip": {"fps": 9.0, "video_mean": (0.4, 0.5)}}},
    ],
)
def test_a_store_of_another_form_is_made_anew(change, tmp_path):
    filled_store(tmp_path)
    store = open_store(tmp_path, **change)
    assert not store.states.any()
    wanted = FORM | change
    assert store.features().streams.keys() == wanted["widths"].keys()
    for stream, rows in store.features().streams.items():
        assert rows.shape == (wanted["num_rows"], wanted["widths"][stream])
        assert rows.dtype == wanted["dtype"]
        assert not rows.any()


def test_a_store_that_was_killed_while_it_was_made_is_made_anew(tmp_path):
    filled_store(tmp_path)
    os.remove(tmp_path / "features" / "store.json")
    os.remove(tmp_path / "features" / "audio.npy")
    assert not open_store(tmp_path).states.any()


def cut_short(path):
    os.truncate(path, os.path.getsize(path) - 1)


def save_other_dtype(path):
    np.save(path, np.load(path).astype(np.float64))


def save_other_dimension(path):
    np.save(path, np.zeros((6, 5), np.float32))


def write_text(path):
    path.write_text("no array")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(
            (name, damage)
            for name in ("audio.npy", "audio.crc32.npy", "rows.npy")
            for damage in (
                cut_short,
                save_other_dtype,
                save_other_dimension,
                write_text,
            )
        ),
        *((name, os.remove) for name in ("audio.npy", "rows.npy")),
    ],
)
def test_a_damaged_file_stops_with_its_name_and_a_remedy(name, damage, tmp_path):
    filled_store(tmp_path)
    path = tmp_path / "features" / name
    damage(path)
    with pytest.raises(ValueError) as error:
        open_store(tmp_path)
    assert str(error.value).startswith(f"{path} is damaged (")
    assert f"remove {tmp_path / 'features'}, and" in str(error.value)


def flip_bit(path, offset, bit=0):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "row", "row_bytes", "kept"),
    [
        ("video.npy", 1, 8, [4]),
        ("audio.npy", 4, 4, [1]),
        ("video.crc32.npy", 1, 4, [4]),
        ("audio.crc32.npy", 4, 4, [1]),
        ("video.npy", 2, 8, [1, 4]),  # an empty row
    ],
)
@pytest.mark.parametrize("bit", range(8))
def test_a_row_that_has_changed_is_emptied_with_a_warning(
    name, row, row_bytes, kept, bit, tmp_path, capsys
):
    filled_store(tmp_path)
    path = tmp_path / "features" / name
    flip_bit(path, 128 + row * row_bytes, bit)
    store = open_store(tmp_path)
    assert store.drop_damaged() == 2 - len(kept)
    assert np.flatnonzero(store.states).tolist() == kept
    assert np.flatnonzero(open_store(tmp_path).states).tolist() == kept
    stream = name.partition(".")[0]
    warning = f"{stream}.npy: 1 rows have changed on disk since they were written, fir"
    assert (warning in capsys.readouterr().err) == (len(kept) == 1)


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("row", [1, 2])
def test_a_changed_state_makes_no_row_of_what_none_was_written(row, bit, tmp_path):
    filled_store(tmp_path)
    flip_bit(tmp_path / "features" / "rows.npy", 128 + row, bit)
    store = open_store(tmp_path)
    store.drop_damaged()
    assert set(np.flatnonzero(store.states)) - {1, 4} == set()


def test_a_row_that_was_written_again_is_intact(tmp_path):
    store = filled_store(tmp_path)
    store.write(examples([1], [7.0]), RowState.HARVESTED)
    store.commit()
    assert store.drop_damaged() == 0


def test_a_store_of_an_earlier_version_gets_its_checksums_and_keeps_its_rows(tmp_path):
    filled_store(tmp_path)
    for stream in ("video", "audio"):
        os.remove(tmp_path / "features" / f"{stream}.crc32.npy")
    assert open_store(tmp_path).drop_damaged() == 0
    flip_bit(tmp_path / "features" / "audio.npy", 128 + 4)
    store = open_store(tmp_path)
    assert store.drop_damaged() == 1
    assert np.flatnonzero(store.states).tolist() == [4]


def test_rows_are_checked_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(row_arrays, "_CHECKED_BYTES", 16)
    filled_store(tmp_path)
    flip_bit(tmp_path / "features" / "video.npy", 128 + 4 * 8)
    assert open_store(tmp_path).drop_damaged() == 1


def test_a_link_among_the_files_is_not_written_through(tmp_path):
    filled_store(tmp_path)
    path = tmp_path / "features" / "audio.npy"
    path.rename(tmp_path / "elsewhere.npy")
    path.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(OSError, match="audio.npy"):
        open_store(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"form": 1})])
def test_a_damaged_record_stops_with_its_name(text, tmp_path):
    filled_store(tmp_path)
    (tmp_path / "features" / "store.json").write_text(text)
    with pytest.raises(ValueError, match=r"store\.json is damaged \("):
        open_store(tmp_path)


def test_features_beyond_float16_stop_naming_the_example_and_the_key(tmp_path):
    store = open_store(tmp_path, dtype="float16")
    told = "audio .*float16 .*1 of 2 .*example_index 5, up to 70000.*dtype=float32"
    with pytest.raises(FloatingPointError, match=told):
        store.write(
            examples([3, 5], [1.0, 7e4])._replace(
                streams={"video": np.zeros((2, 2)), "audio": np.array([[1.0], [7e4]])}
            ),
            RowState.EXTRACTED,
        )


def test_features_that_are_not_finite_stop_naming_the_example(tmp_path):
    store = open_store(tmp_path)
    with pytest.raises(FloatingPointError, match="video .*example_index 3"):
        store.write(examples([1, 3], [1.0, np.nan]), RowState.HARVESTED)


def test_a_pass_that_stops_keeps_what_it_has_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "COMMIT_SECS", 0.0)

    def groups():
        yield examples([0, 1], [1.0, 2.0])
        yield examples([2], [3.0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store(tmp_path).fill(groups())
    assert np.flatnonzero(open_store(tmp_path).states).tolist() == [0, 1, 2]


def test_too_little_room_is_found_when_the_store_is_made(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match=r"takes 0\.01 GB .*dtype=float16"):
            open_store(tmp_path, num_rows=1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not os.path.exists(tmp_path / "features")


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_memory_does_not_grow_with_what_is_written(tmp_path):
    widths, num_rows = {"video": 512}, 32768  # 64 MiB
    store = open_store(tmp_path, widths=widths, num_rows=num_rows)
    block = np.ones((1024, 512), np.float32)
    before = resident_bytes()
    for start in range(0, num_rows, 1024):
        index = np.arange(start, start + 1024)
        store.write(ExampleFeatures(index, {"video": block}), RowState.EXTRACTED)
    store.commit()
    assert resident_bytes() - before < 16 << 20
    assert store.features().streams["video"][-1].tolist() == [1.0] * 512


def test_a_store_is_read_with_what_its_rows_are_of(tmp_path):
    filled_store(tmp_path, extracted_by=ENCODERS)
    stored = feature_store.read_features(str(tmp_path / "features"))
    assert (stored.harvested_in, stored.extracted_by) == (None, ENCODERS)
    assert stored.features.streams["audio"][:, 0].tolist() == [0, 1.5, 0, 0, 4.5, 0]
    assert np.flatnonzero(stored.features.present).tolist() == [1, 4]


def test_a_row_that_has_changed_is_read_as_empty(tmp_path):
    filled_store(tmp_path)
    audio = np.load(tmp_path / "features" / "audio.npy", mmap_mode="r+")
    audio[4] = 7
    audio.flush()
    stored = feature_store.read_features(str(tmp_path / "features"))
    assert np.flatnonzero(stored.features.present).tolist() == [1]


def test_a_directory_without_a_store_is_none(tmp_path):
    assert feature_store.read_features(str(tmp_path)) is None


@pytest.mark.parametrize(
    "form", [{}, {"num_rows": 6, "widths": {"video": 3}}, {"num_rows": 7, "widths": {}}]
)
def test_a_store_that_is_not_what_its_record_says_is_refused_by_name(tmp_path, form):
    filled_store(tmp_path)
    path = tmp_path / "features" / "store.json"
    record = json.loads(path.read_text()) | {"form": form}
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="features.*is damaged"):
        feature_store.read_features(str(tmp_path / "features"))
