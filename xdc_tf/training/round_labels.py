"""A round's clusterings, and from them to the labels that its training has.

By default these are the clusters. config.labels can start from those of another run or
of clips' statistics, which stay until an encoder's are better, keep the numbers of
clusters from round to round so that heads go on, leave out what lies far from its
centroid, and have one source teach alone at first.
"""

from collections.abc import Container, Mapping

import numpy as np

from xdc_tf.data.dataset_info import NO_LABEL
from xdc_tf.distribution import workers
from xdc_tf.features.extraction import Features
from xdc_tf.kmeans import kmeans
from xdc_tf.labels import agreement, label_changes, label_tables, pseudo_labels
from xdc_tf.labels.label_makers import LABEL_MAKERS
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import arrays
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import first_features, supervision, teacher
from xdc_tf.training.run import Run


def cluster(run: Run, features: Features, round_index: int) -> dict[str, Clustering]:
    """The clusterings of each label source, with the labels of all examples."""
    if round_index == 0 and run.config.labels.first_from:
        return first_clusterings(run)
    records, settings = run.records, run.config.kmeans
    sources = supervision.clustered_sources(run.method)
    maker = LABEL_MAKERS[run.method.label_maker]

    def fit(features, names, settings):
        return maker.fit(
            features,
            # In an order of their own, of which seeds and processes' turns follow.
            {name: sources[name] for name in sources if name in names},
            fitted_rows=records.trained[records.local.rows],
            settings=settings,
            seed=round_seed(run, round_index, "clustering"),
            strategy=run.strategy,
        )

    clusterings: dict[str, Clustering] = {}
    taught = frozenset[str]()
    if round_index == 0:
        taught = teacher.sources(run.config, run.method)
    if taught:
        with first_features.of_teacher(run) as streams:
            of_teacher = features._replace(streams=streams)
            clusterings |= fit(of_teacher, taught, settings)
    others = sources.keys() - taught
    if others and are_of_statistics(run, round_index):
        # They are fewer than the encoders' features, and scaled by themselves.
        with first_features.of_statistics(run) as statistics:
            plain = settings._replace(pca_components=0)
            clusterings |= fit(statistics, others, plain)
    elif others:
        clusterings |= fit(features, others, settings)
    return {
        name: clustering._replace(
            labels=workers.labels_of_all(
                run.strategy, records.local, clustering.labels, records.info.num_rows
            )
        )
        for source in sources  # in their order, whatever they were made of
        for name, clustering in clusterings.items()
        if label_tables.source_of(name) == source
    }


def round_seed(run: Run, round_index: int, purpose: str) -> int:
    """The seed of what a round draws for a purpose."""
    entropy = [run.config.seed, round_index, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


def first_clusterings(run: Run) -> dict[str, Clustering]:
    """The clusterings of config.labels.first_from.

    Raises:
      FileNotFoundError: there is no such directory, or a file of it is missing.
      ValueError: it is damaged, of another manifest, or has other sources or clusters
        than the run.
    """
    directory = run.config.labels.first_from
    where = f"config.labels.first_from={directory}"
    table = label_tables.read(directory)
    made_of = table.settings.get("manifest_sha256")
    if made_of != run.records.info.manifest_sha256:
        raise ValueError(
            f"{where} is of the manifest with SHA-256 {made_of}, the records of "
            f"{run.records.info.manifest_sha256}; take a run on the same records."
        )
    names = [
        source
        for source in supervision.label_sources(run.method)
        if source != supervision.TRUE_LABELS
    ]
    if missing := [name for name in names if name not in table.clusterings]:
        raise ValueError(
            f"{where} has clusterings {list(table.clusterings)}, and none is named "
            f"{missing[0]}; take a run of the same method and number of heads."
        )
    for name in names:
        num_clusters = run.config.kmeans.clusters_of_heads[label_tables.head_of(name)]
        if len(table.clusterings[name].centroids) != num_clusters:
            raise ValueError(
                f"{where} has {len(table.clusterings[name].centroids)} clusters, and "
                f"config.kmeans.num_clusters is {num_clusters}; make them the same."
            )
    return {name: table.clusterings[name] for name in names}


def load(
    run: Run,
    features: Features,
    clusterings: Mapping[str, Clustering],
    round_index: int,
    *,
    given: Container[str],
) -> None:
    """Makes the clusters the labels that training steps gather.

    Args:
      run: whose label tables get them.
      features: of this process's examples, which were clustered.
      clusterings: of the round, with the labels of all examples.
      round_index: from 0.
      given: names of those that are not of these features.
    """
    config = run.config.labels
    for name, clustering in clusterings.items():
        labels = clustering.labels
        if config.nearest_fraction < 1 and name not in given:
            labels = _near_labels(run, features, name, clustering)
        source = label_tables.source_of(name)
        if round_index < config.teacher_rounds and source != config.teacher:
            labels = np.full_like(labels, NO_LABEL)
        arrays.fill_variable(
            run.state.label_tables[name], labels, strategy=run.strategy
        )


def staying(
    run: Run, clusterings: Mapping[str, Clustering], round_index: int
) -> dict[str, Clustering]:
    """The first clusterings, by name, that stay the labels of a round.

    Those of config.labels.features_from stay for features_rounds.

    Where an encoder has not learnt from the labels that it had, its clusters say no
    more than chance, and training on them would lose what the other encoder has learnt
    from the first ones. So these stay until the encoder's agree better (NMI) with the
    labels that it has learnt from. Those of an encoder that learns its own never stay.

    Args:
      run: whose label tables still have the labels of the round before.
      clusterings: of the encoders' features, with the labels of all examples.
      round_index: of the round that begins.
    """
    between = 0 < round_index < run.config.num_rounds
    given = given_sources(run, 0) if between else frozenset()
    labels = run.config.labels
    taught = frozenset[str]()
    if round_index < labels.features_rounds:
        taught = teacher.sources(run.config, run.method) & given
    if not (taught or given and labels.first_stay):
        return {}
    first, before = (
        label_tables.read(run_directory.round_dir(run.workdir, number)).clusterings
        for number in (0, round_index - 1)
    )
    return {
        name: first[name]
        for name, clustering in clusterings.items()
        # A configuration that was changed may have others.
        if name in first and len(first[name].centroids) == len(clustering.centroids)
        if label_tables.source_of(name) in given
        if np.array_equal(first[name].labels, before[name].labels)
        if label_tables.source_of(name) in taught
        or labels.first_stay
        and not _agrees_better(run, name, clustering.labels, first[name].labels)
    }


def _agrees_better(run: Run, name: str, labels: np.ndarray, before: np.ndarray) -> bool:
    """Whether labels of a source fit better than those before to what taught it."""
    streams = supervision.clustered_streams(run.method, name)
    teachers = [t for stream in streams for t in run.method.supervision.get(stream, ())]
    if label_tables.source_of(name) in map(label_tables.source_of, teachers):
        return True
    tables = [run.state.label_tables[teacher].numpy() for teacher in teachers]
    tables = [table for table in tables if np.any(table != NO_LABEL)]
    new, old = (
        sum(agreement.normalized_mutual_information(found, table) for table in tables)
        for found in (labels, before)
    )
    return not tables or new > old


def given_sources(run: Run, round_index: int) -> frozenset[str]:
    """Label sources whose clusters in a round are not of its encoders' features."""
    if round_index:
        return frozenset()
    if run.config.labels.first_from or are_of_statistics(run, round_index):
        return frozenset(supervision.clustered_sources(run.method))
    return teacher.sources(run.config, run.method)


def are_of_statistics(run: Run, round_index: int) -> bool:
    """Whether a round clusters statistics of the clips."""
    labels = run.config.labels
    wanted = labels.first_features == label_changes.STATISTICS and not labels.first_from
    return round_index == 0 and wanted and not run.pretrained_streams


def _near_labels(
    run: Run, features: Features, name: str, clustering: Clustering
) -> np.ndarray:
    streams = supervision.clustered_streams(run.method, name)
    present = np.flatnonzero(features.present)
    joined = pseudo_labels.side_by_side(
        [np.asarray(features.streams[s][present], np.float32) for s in streams]
    )
    _, squared = kmeans.assign(joined, clustering)
    local = run.records.local.rows
    kept = np.full(len(local), NO_LABEL, np.int32)
    kept[present] = label_changes.nearest_part(
        np.asarray(clustering.labels[local][present]),
        squared,
        run.config.labels.nearest_fraction,
    )
    return workers.labels_of_all(
        run.strategy, run.records.local, kept, run.records.info.num_rows
    )
