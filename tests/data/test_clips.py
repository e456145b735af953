import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import clips, crops
from xdc_tf.data.clips import ClipSettings

# Half a second of picture, at whose centre lies half a second (25 rows) of sound.
CLIP = ClipSettings(
    num_frames=4,
    fps=8.0,
    crop_size=6,
    crop_share=0.5,
    audio_secs=0.5,
    mel_hop_secs=0.02,
    num_mels=3,
    log_mel_mean=0.0,
    log_mel_std=1.0,
)


def secs(value):
    return tf.constant(value, tf.float64)


def frame_numbers(start_secs, *, num_available, frame_rate, settings=CLIP):
    return clips.frame_indices(
        secs(start_secs),
        num_available=tf.constant(num_available),
        frame_rate=tf.constant(frame_rate, tf.float64),
        settings=settings,
    ).numpy()


def mel_rows(start_secs, *, num_rows, settings=CLIP):
    return clips.log_mel_rows(
        secs(start_secs), num_available=tf.constant(num_rows), settings=settings
    ).numpy()


def test_two_seconds_at_a_hop_of_20_ms_are_100_mel_frames():
    assert CLIP._replace(audio_secs=2.0).num_mel_frames == 100


def test_the_duration_is_frames_by_rate():
    assert CLIP._replace(num_frames=32, fps=16.0).duration_secs == 2.0


def test_frames_of_a_faster_recording_are_skipped():
    # 8 of 30 frames per second: every 3.75th.
    numbers = frame_numbers(0.0, num_available=90, frame_rate=30.0)
    assert numbers.tolist() == [0, 3, 7, 11]


def test_frames_count_from_the_start_time():
    numbers = frame_numbers(0.5, num_available=90, frame_rate=30.0)
    assert numbers.tolist() == [15, 18, 22, 26]


def test_frames_of_a_slower_recording_repeat():
    numbers = frame_numbers(
        1.0,
        num_available=80,
        frame_rate=8.0,
        settings=CLIP._replace(num_frames=8, fps=30.0),
    )
    # 8/30 of a frame per step: 8, 8.27, 8.53, 8.8, 9.07, 9.33, 9.6, 9.87.
    assert numbers.tolist() == [8, 8, 8, 8, 9, 9, 9, 9]


@pytest.mark.parametrize("rate", [8.0, 25.0, 29.97, 30.0])
def test_at_equal_rates_a_clip_is_consecutive_frames_from_the_one_shown(rate):
    settings = CLIP._replace(fps=rate)
    in_the_first_minute = range(0, int(60 * rate), 7)
    after_an_hour = range(int(3600 * rate), int(3602 * rate))
    for first in (*in_the_first_minute, *after_an_hour):
        numbers = frame_numbers(
            first / rate, num_available=10**6, frame_rate=rate, settings=settings
        )
        assert numbers.tolist() == [first, first + 1, first + 2, first + 3]


def test_frame_numbers_are_exact_an_hour_into_a_recording():
    settings = CLIP._replace(fps=30.0)
    numbers = frame_numbers(
        3600.1, num_available=10**6, frame_rate=30.0, settings=settings
    )
    assert numbers.tolist() == [108003, 108004, 108005, 108006]


def test_a_recording_shorter_than_the_clip_starts_again():
    numbers = frame_numbers(0.0, num_available=3, frame_rate=8.0)
    assert numbers.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("rate", [8.0, 12.5, 29.97])
def test_no_clip_that_fits_starts_again(rate):
    num_available = 47
    for start in clips.uniform_starts(secs(num_available / rate), 50, CLIP):
        numbers = frame_numbers(start, num_available=num_available, frame_rate=rate)
        assert (np.diff(numbers) > 0).all()


def test_random_starts_cover_all_places_where_the_clip_fits():
    starts = np.array(
        [clips.random_start(tf.constant([0, n]), secs(10.5), CLIP) for n in range(300)]
    )
    assert starts.min() >= 0.0 and starts.max() <= 10.0
    counts, _ = np.histogram(starts, bins=5, range=(0.0, 10.0))
    assert counts.min() > 30


def test_a_random_start_is_a_function_of_its_seed():
    first, again, other = (
        float(clips.random_start(tf.constant(seed), secs(10.5), CLIP))
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert first == again != other


def test_in_a_recording_shorter_than_the_clip_it_starts_at_zero():
    assert clips.random_start(tf.constant([1, 2]), secs(0.4), CLIP) == 0.0
    assert clips.uniform_starts(secs(0.4), 1, CLIP).numpy().tolist() == [0]
    assert clips.uniform_starts(secs(0.4), 2, CLIP).numpy().tolist() == [0, 0]
    assert clips.dense_starts(secs(0.4), 0.25, CLIP).numpy().tolist() == [0]


def test_uniform_clips_go_from_the_first_to_the_last_that_fits():
    starts = clips.uniform_starts(secs(2.5), 3, CLIP)
    np.testing.assert_allclose(starts, [0.0, 1.0, 2.0])


def test_a_single_uniform_clip_lies_in_the_centre():
    np.testing.assert_allclose(clips.uniform_starts(secs(2.5), 1, CLIP), [1.0])


@pytest.mark.parametrize(
    ("stride_secs", "starts"),
    [(0.5, [0, 0.5, 1, 1.5, 2]), (0.75, [0, 0.75, 1.5]), (2.0, [0, 2]), (2.1, [0])],
)
def test_dense_clips_follow_by_the_stride_while_they_fit(stride_secs, starts):
    # Half a second of 2.5 s: the last one that fits starts at 2 s.
    found = clips.dense_starts(secs(2.5), stride_secs, CLIP)
    assert found.dtype == tf.float64
    np.testing.assert_allclose(found, starts)


@pytest.mark.parametrize("rate", [24.0, 29.97, 30.0])
@pytest.mark.parametrize("num_available", [90, 1000, 100_000])
def test_a_stride_of_one_frame_has_a_clip_for_each_frame_that_starts_one(
    rate, num_available
):
    settings = CLIP._replace(fps=rate)
    starts = clips.dense_starts(secs(num_available / rate), 1 / rate, settings)
    assert len(starts) == num_available - 3
    last = frame_numbers(
        starts[-1], num_available=num_available, frame_rate=rate, settings=settings
    )
    assert last.tolist() == [num_available - n for n in (4, 3, 2, 1)]


def test_the_sound_is_centred_on_the_picture():
    # Picture 2 to 2.5 s; one second of sound around 2.25 s is 1.75 to 2.75 s.
    rows = mel_rows(2.0, num_rows=250, settings=CLIP._replace(audio_secs=1.0))
    assert rows.tolist() == list(range(88, 138))


def test_sound_as_long_as_the_picture_starts_with_it():
    assert mel_rows(2.0, num_rows=250).tolist() == list(range(100, 125))


def test_rows_of_sound_are_exact_an_hour_into_a_recording():
    rows = mel_rows(3600.1, num_rows=180_100)
    assert rows.tolist() == list(range(180_005, 180_030))


def test_at_the_edges_the_sound_is_shifted_inwards():
    settings = CLIP._replace(audio_secs=1.0)
    first = mel_rows(0.0, num_rows=250, settings=settings)
    last = mel_rows(4.5, num_rows=250, settings=settings)
    assert first.tolist() == list(range(50))
    assert last.tolist() == list(range(200, 250))


def test_a_recording_shorter_than_the_sound_starts_again():
    assert mel_rows(0.0, num_rows=10).tolist() == [n % 10 for n in range(25)]


@pytest.mark.parametrize(
    ("top", "left", "window"),
    [
        (0.0, 0.0, [0, 0, 50, 50]),
        (1.0, 1.0, [50, 150, 50, 50]),
        (0.5, 0.5, [25, 75, 50, 50]),
    ],
)
def test_a_crop_is_a_square_by_the_short_side(top, left, window):
    found = crops.crop_window(
        tf.constant([100, 200]), top=tf.constant(top), left=left, fraction=0.5
    )
    assert found.numpy().tolist() == window


def test_a_crop_has_at_least_one_pixel():
    window = crops.crop_window(tf.constant([9, 9]), top=0.5, left=0.5, fraction=1e-3)
    assert window.numpy().tolist() == [4, 4, 1, 1]


def noise_jpegs(channels):
    """Four JPEGs of 34 x 46 pixels of noise, grey or in colour."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 34, 46, channels), np.uint8)
    frames = np.broadcast_to(pixels, (4, 34, 46, 3))
    return tf.stack([tf.io.encode_jpeg(frame, quality=90) for frame in frames])


def crop_both_ways(jpegs, *, top, left, crop_size):
    """A crop of 17 of 34 x 46 pixels: by decode_crop, and cut from decoded frames."""
    found = crops.decode_crop(
        jpegs,
        top=tf.constant(top),
        left=tf.constant(left),
        fraction=tf.constant(0.5),
        settings=CLIP._replace(crop_size=crop_size),
    )
    y, x = round(17 * top), round(29 * left)  # there is room for 17 rows, 29 columns
    whole = tf.stack([tf.image.decode_jpeg(jpeg, channels=3) for jpeg in jpegs])
    cut = crops.scale(whole[:, y : y + 17, x : x + 17], crop_size)
    return found.numpy(), cut.numpy()


PLACES = [(0.0, 0.0), (0.31, 0.77), (0.5, 0.5), (1.0, 1.0)]


@pytest.mark.parametrize(("top", "left"), PLACES)
@pytest.mark.parametrize("crop_size", [12, 17, 24])
def test_decoding_a_window_gives_the_grey_of_the_whole_frame(top, left, crop_size):
    found, cut = crop_both_ways(noise_jpegs(1), top=top, left=left, crop_size=crop_size)
    np.testing.assert_array_equal(found, cut)


@pytest.mark.parametrize(("top", "left"), PLACES)
def test_decoding_a_window_gives_the_colours_of_all_but_the_outermost_pixels(top, left):
    found, cut = crop_both_ways(noise_jpegs(3), top=top, left=left, crop_size=17)
    np.testing.assert_array_equal(found[:, 1:-1, 1:-1], cut[:, 1:-1, 1:-1])


@pytest.mark.parametrize("crop_size", [8, 17])  # decoded at a half, and whole
def test_a_mirrored_clip_is_the_clip_from_right_to_left(crop_size):
    place = {"top": tf.constant(0.3), "left": tf.constant(0.8)}
    arguments = place | {
        "fraction": tf.constant(0.5),
        "settings": CLIP._replace(crop_size=crop_size),
    }
    plain, same, mirrored = (
        crops.decode_crop(noise_jpegs(3), mirrored=mirror, **arguments).numpy()
        for mirror in (None, tf.constant(False), tf.constant(True))
    )
    np.testing.assert_array_equal(same, plain)
    # Scaling rounds alike from both sides, but for sums in another order.
    np.testing.assert_allclose(mirrored[:, :, ::-1], plain, atol=1)


@pytest.mark.parametrize(
    ("height", "fraction", "crop_size", "halvings"),
    [
        (256, 0.875, 224, 0),
        (256, 0.875, 113, 0),
        (256, 0.875, 112, 1),
        (255, 0.875, 112, 1),  # 127.5 pixels are 128
        (256, 0.875, 56, 2),
        (256, 0.875, 28, 3),
        (256, 0.875, 4, 3),
        (128, 0.875, 112, 0),
    ],
)
def test_frames_are_halved_while_the_window_stays_large_enough(
    height, fraction, crop_size, halvings
):
    found = crops.reduction(
        tf.constant([height, 455]), fraction=tf.constant(fraction), crop_size=crop_size
    )
    assert found.numpy() == halvings


def picture(height, width):
    """Noise whose amplitude falls with its frequency, as in photographs."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1.0
    noise = np.fft.rfft2(rng.normal(size=(4, height, width))) / frequency
    planes = np.fft.irfft2(noise, (height, width))
    planes = planes[:1] + 0.3 * planes[1:]  # the colours have much in common
    planes = (planes - planes.mean()) / planes.std()
    return np.clip(128 + 50 * planes, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def crop_jpeg(jpeg, *, crop_size, fraction=1.0, top=0.0, left=0.0):
    """A crop of one frame, float64 levels."""
    crop = crops.decode_crop(
        jpeg[None],
        top=tf.constant(top),
        left=tf.constant(left),
        fraction=tf.constant(fraction),
        settings=CLIP._replace(crop_size=crop_size, num_frames=1),
    )
    return crop[0].numpy().astype(np.float64)


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_a_frame_decoded_at_a_part_of_its_size_has_the_means_of_blocks(halvings):
    jpeg = tf.io.encode_jpeg(picture(128, 192), quality=90)
    block, size = 2**halvings, 128 // 2**halvings
    found = crop_jpeg(jpeg, crop_size=size)
    whole = tf.io.decode_jpeg(jpeg).numpy()[:, :128].astype(np.float64)
    means = whole.reshape(size, block, size, block, 3).mean(axis=(1, 3))
    assert np.abs(found - means).mean() < 1.5
    assert np.abs(found - means).max() < 16


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_a_frame_decoded_at_a_part_of_its_size_is_near_the_antialiased_one(halvings):
    # Which is softer: its filter is twice as wide as a block.
    jpeg = tf.io.encode_jpeg(picture(128, 192), quality=90)
    size = 128 // 2**halvings
    found = crop_jpeg(jpeg, crop_size=size)
    whole = tf.io.decode_jpeg(jpeg)[:, :128]
    resized = tf.image.resize(whole, [size, size], antialias=True).numpy()
    assert np.abs(found - resized).mean() < 8


@pytest.mark.parametrize(("top", "left"), PLACES)
@pytest.mark.parametrize("crop_size", [7, 12, 25, 40, 60])
def test_crops_of_pixels_are_those_of_the_jpeg(top, left, crop_size):
    # 101 x 135: blocks at the edges are not whole. The window has 101 pixels.
    jpeg = tf.io.encode_jpeg(picture(101, 135), quality=95)
    place = {"top": tf.constant(top), "left": tf.constant(left)}
    found = crops.crop_pixels(
        tf.io.decode_jpeg(jpeg)[None],
        **place,
        fraction=tf.constant(1.0),
        crop_size=crop_size,
    )
    of_jpeg = crop_jpeg(jpeg, crop_size=crop_size, **place)
    difference = np.abs(found[0].numpy() - of_jpeg)
    assert difference.shape == (crop_size, crop_size, 3)
    assert difference.mean() < 1.5


def test_scaling_to_the_same_size_keeps_every_pixel():
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8)
    np.testing.assert_array_equal(crops.scale(tf.constant(frames), 5), frames)


def test_scaling_down_averages_instead_of_picking():
    # Columns of 0 and 255: each pixel of a quarter of the size sees as many of both.
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    frames[:, :, ::2] = 255
    scaled = crops.scale(tf.constant(frames), 4).numpy()
    assert scaled.dtype == np.uint8
    np.testing.assert_allclose(scaled, 127.5, atol=20)


def test_levels_are_rounded_to_the_nearest():
    found = crops.to_bytes(tf.constant([0.0, 0.4, 0.6, 254.6, 255.0]))
    assert found.numpy().tolist() == [0, 0, 1, 255, 255]


def test_normalised_video_has_the_statistics_of_kinetics():
    mean = np.array([0.43216, 0.394666, 0.37645], np.float32)
    std = np.array([0.22803, 0.22145, 0.216989], np.float32)
    levels = tf.constant(255 * np.stack([mean, mean + std]))
    found = clips.normalize_video(levels, clips.video_normalization(CLIP))
    np.testing.assert_allclose(found, [[0, 0, 0], [1, 1, 1]], atol=1e-6)


def test_bytes_of_a_batch_are_normalised_and_sound_is_as_it_was():
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 6, 3), np.uint8)
    sound = np.ones((2, 25, 3, 1), np.float32)
    normalization = clips.video_normalization(CLIP)
    batch = {
        "video": tf.constant(frames),
        "video_normalization": tf.stack([normalization, normalization]),
        "audio": tf.constant(sound),
    }
    expected = (frames / 255.0 - clips.VIDEO_MEAN) / clips.VIDEO_STD
    video = clips.encoder_input(batch, "video")
    assert video.dtype == tf.float32
    np.testing.assert_allclose(video, expected, atol=2e-6)
    np.testing.assert_array_equal(clips.encoder_input(batch, "audio"), sound)
