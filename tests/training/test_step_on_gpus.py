"""Where TensorFlow would place a training step on a GPU."""

import gpu_placement
import pytest

from benchmarks import gpu_training


@pytest.mark.parametrize(
    "precision",
    [
        "float32",
        pytest.param("float16", marks=pytest.mark.slow),
        pytest.param("bfloat16", marks=pytest.mark.slow),
    ],
)
def test_a_training_step_on_a_gpu_has_the_host_gather_labels_and_nothing_else(
    precision,
):
    streams = {
        "video": ("r2plus1d", 10, 0.125, (4, 16, 16, 3)),
        "audio": ("resnet", 10, 0.125, (20, 20, 1)),
    }
    # Tensors of more numbers than the host may have in any case.
    training = gpu_training.make(streams, 65, precision)
    graph = training.train.get_concrete_function(training.batch).graph
    on_host = list(gpu_placement.work_on_host(graph))
    # There is no kernel that gathers int32 numbers of a variable.
    assert len(on_host) == 2
    assert all("ResourceGather" in one for one in on_host)
