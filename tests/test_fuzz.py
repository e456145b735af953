"""A small part of benchmarks.fuzz: what holds for 4,000 mutations holds for these."""

import numpy as np
import pytest

from benchmarks import fuzz

pytestmark = pytest.mark.once


def test_damaged_media_are_converted_or_refused_with_a_reason(tmp_path):
    assert fuzz.fuzz_videos(str(tmp_path), num=70, seed=1) == []


def test_every_damaged_shard_has_a_fault(tmp_path):
    assert fuzz.fuzz_records(str(tmp_path), num=40, seed=1) == []


def test_a_mutation_changes_a_byte_or_more_where_it_may():
    content = bytes(100)
    for seed in range(20):
        damaged = fuzz.mutate(content, np.random.default_rng(seed), 60)
        assert len(damaged) == 100 and damaged[:60] == content[:60]
        assert any(damaged)
