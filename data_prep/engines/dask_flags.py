"""The flag of the commands that can decode media on a Dask cluster."""

import contextlib
import os

from absl import flags

DASK = flags.DEFINE_string(
    "dask",
    None,
    "Dask cluster that decodes: address of its scheduler, such as tcp://host:8786; its "
    "scheduler file; or local, for one on this machine. Default: without Dask. All "
    "workers must see the same files under the same paths, and have this project.",
)


def engine(num_workers: int | None) -> contextlib.AbstractContextManager:
    """The flag's data_prep.engines.local_pool.Engine; imports TensorFlow.

    Args:
      num_workers: what --num_workers is: of a local cluster, its workers.
    """
    from data_prep.engines.dask_cluster import DaskCluster
    from data_prep.engines.local_pool import LOCAL_POOL

    if DASK.value is None:
        return contextlib.nullcontext(LOCAL_POOL)
    return DaskCluster(DASK.value, num_workers=num_workers or os.cpu_count() or 1)


def pool_size(num_workers: int | None) -> int:
    """Decoding processes here, or for each of Dask's tasks.

    Args:
      num_workers: what --num_workers is.
    """
    if DASK.value is None:
        return num_workers or os.cpu_count() or 1
    return 1 if DASK.value == "local" else num_workers or 1
