"""The SVM protocol: planted features, scikit-learn itself, folds, a whole run."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from xdc_tf.evaluation import metrics, svm
from xdc_tf.evaluation.svm import SvmSettings

FEW = SvmSettings(cs=(1e-3, 1e-1), num_folds=3)


def _labels(num_rows, num_classes=5):
    return np.arange(num_rows) % num_classes


def _clips(labels, *, noise, seed, num_clips=3):
    """[N, num_clips, 5]: one-hot codes and noise of each clip's own."""
    codes = np.repeat(np.eye(5)[labels][:, None], num_clips, axis=1)
    return codes + np.random.default_rng(seed).normal(0, noise, codes.shape)


def _top1(scores, labels):
    return metrics.accuracies(scores, labels).top1


def test_planted_features_give_100_percent():
    train, test = _labels(50), _labels(25)
    found = svm.class_scores(
        _clips(train, noise=0.05, seed=0),
        train,
        _clips(test, noise=0.05, seed=1),
        settings=FEW,
    )
    assert _top1(found.scores, test) == 1.0
    assert max(found.cv_accuracy) == 1.0


def test_shuffled_labels_give_chance_in_test_and_cross_validation():
    train, test = _labels(500), _labels(500)
    shuffled = np.random.default_rng(0).permutation(train)
    found = svm.class_scores(
        _clips(train, noise=3.0, seed=0),
        shuffled,
        _clips(test, noise=3.0, seed=1),
        settings=FEW,
    )
    # 5 classes: 0.2, with a deviation of 0.018 over 500 recordings.
    assert abs(_top1(found.scores, test) - 0.2) < 0.08
    assert max(found.cv_accuracy) < 0.28


def test_the_search_is_that_of_scikit_learn_where_recordings_have_one_clip():
    train, test = _labels(120), _labels(200)
    features = _clips(train, noise=0.6, seed=0, num_clips=1) * [1, 10, 0.1, 1, 1]
    tested = _clips(test, noise=0.6, seed=1, num_clips=1) * [1, 10, 0.1, 1, 1]
    groups = np.arange(120) // 2
    settings = SvmSettings(cs=(1e-4, 1e-3, 1e-2, 1e-1, 1.0), num_folds=4, seed=3)
    found = svm.class_scores(features, train, tested, groups=groups, settings=settings)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LinearSVC(dual="auto", random_state=3)),
        {"linearsvc__C": settings.cs},
        cv=StratifiedGroupKFold(4, shuffle=True, random_state=3),
    )
    search.fit(features[:, 0], train, groups=groups)
    np.testing.assert_allclose(found.cv_accuracy, search.cv_results_["mean_test_score"])
    assert found.c == search.best_params_["linearsvc__C"]
    np.testing.assert_allclose(found.scores, search.decision_function(tested[:, 0]))


def test_scores_are_averaged_over_the_clips_of_each_recording():
    train, test = _labels(60), _labels(40)
    features = _clips(train, noise=0.6, seed=0)
    tested = _clips(test, noise=0.6, seed=1, num_clips=7)
    found = svm.class_scores(features, train, tested, settings=SvmSettings(cs=(0.01,)))
    oracle = make_pipeline(
        StandardScaler(), LinearSVC(C=0.01, dual="auto", random_state=0)
    )
    oracle.fit(features.reshape(180, 5), np.repeat(train, 3))
    by_clip = [oracle.decision_function(clips) for clips in tested]
    np.testing.assert_allclose(found.scores, np.mean(by_clip, axis=1))


def test_recordings_never_sit_on_both_sides_of_a_fold():
    # Each pair of examples is two copies of noise with a random class, which only its
    # own copy tells.
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(60, 1, 40))
    features, labels = np.repeat(noise, 2, axis=0), np.repeat(_labels(60, 2), 2)
    settings = SvmSettings(cs=(1.0, 10.0), num_folds=5)
    apart, together = (
        svm.class_scores(features, labels, features, groups=groups, settings=settings)
        for groups in (np.arange(120), np.repeat(np.arange(60), 2))
    )
    assert min(apart.cv_accuracy) > 0.8
    assert max(together.cv_accuracy) < 0.7


def test_two_classes_have_two_columns_of_scores():
    labels = _labels(20, 2)
    features = _clips(labels, noise=0.05, seed=0)
    found = svm.class_scores(features, labels, features, settings=FEW)
    assert found.scores.shape == (20, 2)
    assert _top1(found.scores, labels) == 1.0


def test_of_equally_good_penalties_the_smallest_is_chosen():
    labels = _labels(30)
    features = _clips(labels, noise=0.01, seed=0)
    settings = SvmSettings(cs=(1.0, 0.1), num_folds=3)
    found = svm.class_scores(features, labels, features, settings=settings)
    assert (found.c, found.cv_accuracy) == (0.1, (1.0, 1.0))


def test_a_single_penalty_needs_no_cross_validation():
    labels = _labels(5)
    features = _clips(labels, noise=0.01, seed=0)
    settings = SvmSettings(cs=(0.1,))
    found = svm.class_scores(features, labels, features, settings=settings)
    assert (found.c, found.cv_accuracy, found.num_folds) == (0.1, (), 0)


def test_folds_are_no_more_than_the_recordings_of_the_smallest_class():
    labels = np.array([0] * 8 + [1] * 2)
    features = np.eye(5)[labels][:, None]
    found = svm.class_scores(features, labels, features, settings=FEW)
    assert found.num_folds == 2


def test_a_choice_with_a_class_of_one_recording_is_an_error():
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="1 training recordings of the smallest class"):
        svm.class_scores(
            np.eye(5)[labels][:, None],
            labels,
            np.zeros([1, 1, 5]),
            groups=np.array([0, 1, 2, 2]),
            settings=FEW,
        )


@pytest.mark.parametrize("cs", [(), (0.1, 0.0)])
def test_penalties_that_cannot_be_are_an_error(cs):
    labels = _labels(10)
    features = _clips(labels, noise=0.1, seed=0)
    with pytest.raises(ValueError, match="cs=.* must be one or more values, each a"):
        svm.class_scores(features, labels, features, settings=SvmSettings(cs=cs))


def test_fits_that_do_not_end_are_told_and_not_warned_of(recwarn):
    labels = _labels(60)
    features = _clips(labels, noise=1.0, seed=0)
    settings = SvmSettings(cs=(1.0, 10.0), num_folds=2, max_iterations=1)
    found = svm.class_scores(features, labels, features, settings=settings)
    assert not found.converged
    assert found.cv_converged == 0.0
    assert not recwarn.list


def test_threads_change_nothing():
    labels = _labels(60)
    features = _clips(labels, noise=0.6, seed=0)
    one, two = (
        svm.class_scores(
            features, labels, features, settings=dataclasses.replace(FEW, num_jobs=n)
        )
        for n in (1, 2)
    )
    np.testing.assert_array_equal(one.scores, two.scores)
    assert one[1:] == two[1:]


def test_segments_of_one_file_are_one_recording(split):
    ids = np.array(["a.wav", "b.wav#t=0,10", "b.wav#t=10,20.5", "c.wav#t=3"])
    examples = split.train.examples._replace(video_ids=ids)
    found = svm.recordings(split.train._replace(examples=examples))
    assert found.tolist() == [0, 1, 1, 2]


def test_a_run_is_evaluated(source, split):
    settings = dataclasses.replace(FEW, num_clips=2)
    ((audio,),) = svm.run(source, [split], settings, streams=["audio"]).splits
    assert audio.stream == "audio"
    assert list(audio.metrics) == ["top1", "top5", "mean_class"]
    assert 0 <= audio.metrics["top1"] <= audio.metrics["top5"] <= 1
    assert audio.details["c"] in FEW.cs and audio.details["c_is_at_edge"]
    assert len(audio.details["cv_accuracy"]) == 2
    # 24 videos take turns through 10 classes.
    assert audio.details["num_folds"] == 2
    assert (audio.details["num_train"], audio.details["num_test"]) == (24, 12)
    assert json.loads(json.dumps(audio.details)) == audio.details
