import pytest

from xdc_tf.training.schedules import Schedule, learning_rate

pytestmark = pytest.mark.once


def rates(schedule, num_steps):
    return [learning_rate(schedule, step, num_steps) for step in range(num_steps)]


def test_warm_up_grows_linearly_to_the_peak():
    schedule = Schedule("constant", peak=0.4, warmup_steps=4)
    assert rates(schedule, 6) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert rates(Schedule("constant", 0.4, 0), 3) == [0.4] * 3
    assert rates(Schedule("cosine", 0.4, 0), 3)[0] == 0.4


def test_cosine_falls_from_the_peak_after_warm_up_towards_zero():
    # After two steps of warm-up: 1/2 (1 + cos) at 0, 1/4, 1/2 and 3/4 of pi.
    wanted = [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]
    assert rates(Schedule("cosine", 1.0, 2), 6) == pytest.approx(wanted, abs=1e-6)


def test_cosine_stays_at_zero_past_the_end():
    assert learning_rate(Schedule("cosine", 1.0, 2), 9, 6) == pytest.approx(0.0)


def test_steps_multiply_by_the_factor_at_each_share_of_the_round():
    schedule = Schedule("steps", 1.0, 0, decay_shares=(0.5, 0.75), decay_factor=0.1)
    wanted = [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert rates(schedule, 8) == pytest.approx(wanted)


def test_steps_warm_up_too():
    schedule = Schedule("steps", 1.0, 2, decay_shares=(0.5,), decay_factor=0.1)
    assert rates(schedule, 4) == pytest.approx([0.5, 1.0, 0.1, 0.1])


def test_a_round_shorter_than_its_warm_up_stays_below_the_peak():
    assert rates(Schedule("cosine", 1.0, 4), 2) == pytest.approx([0.25, 0.5])
