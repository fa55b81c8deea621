"""The classifiers as scikit-learn's: what its own checks say, and how they are used with its tools."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from probes import AttentiveProbe, LinearProbe, LogisticProbe
from probes.classifier import TunedProbe
from tests.probes.test_contract import clusters

FLOATS = "features are float arrays or tensors, so that nothing is converted, and copied, unseen"
INTEGERS = "labels are integers ≥ 0, so that a missing one or a score never becomes a class"
WORDS = "the message names what is wrong in other words than scikit-learn's"
TUNING = "options are chosen on images held back, which takes more than these few, and two classes"
EXPECTED = {
    "check_fit_score_takes_y": "fit(features, labels, …) names its arguments so that they can be read",
    "check_dont_overwrite_parameters": "what fit finds has the names that papers use, such as C, without _ at the end",
    "check_do_not_raise_errors_in_init_or_set_params": "a bad option is refused at once, before any work",
    "check_n_features_in_after_fitting": TUNING,
    "check_fit2d_1sample": TUNING,
    "check_classifiers_one_label": TUNING,
    "check_estimators_dtypes": FLOATS,
    "check_complex_data": FLOATS,
    "check_dtype_object": FLOATS,
    "check_classifier_data_not_an_array": FLOATS,
    "check_classifiers_train": FLOATS,
    "check_estimator_sparse_tag": FLOATS,
    "check_estimator_sparse_array": FLOATS,
    "check_estimator_sparse_matrix": FLOATS,
    "check_classifiers_classes": INTEGERS,
    "check_estimators_nan_inf": INTEGERS,
    "check_supervised_y_no_nan": INTEGERS,
    "check_supervised_y_2d": INTEGERS,
    "check_classifiers_regression_target": WORDS,
    "check_estimators_empty_data_messages": WORDS,
    "check_fit2d_predict1d": WORDS,
    "check_requires_y_none": WORDS,
}
"""What the classifiers do not do, and why. `KNNProbe` answers for several k at once, and is none of these."""

PROBES = {
    "logistic": LogisticProbe(C_grid=(1e-3, 1e-2)),
    "linear": LinearProbe(learning_rates=(0.1, 1.0), epochs=5, batch_size=32),
}


@pytest.mark.parametrize("name", PROBES)
def test_scikit_learns_checks(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(PROBES[name], expected_failed_checks=EXPECTED, on_skip=None)
    assert {check["check_name"] for check in found if check["status"] == "xfail"} == set(EXPECTED)
    assert sum(check["status"] == "passed" for check in found) >= 30


def test_pipelines_cross_validation_and_searches() -> None:
    features, labels = clusters()
    probe = LogisticProbe(C_grid=(0.01, 1.0), seed=3)
    scores = cross_val_score(make_pipeline(StandardScaler(), probe), features, labels, cv=3)
    assert scores.tolist() == [1.0, 1.0, 1.0]
    search = GridSearchCV(LinearProbe(epochs=3, batch_size=32), {"learning_rates": [(1e-5,), (0.1,)]}, cv=2)
    assert search.fit(features, labels).best_params_ == {"learning_rates": (0.1,)}
    assert probe.fit(features, labels).score(features, labels) == 1.0
    np.testing.assert_array_equal(probe.classes_, [3, 7, 42])


@pytest.mark.parametrize(
    "probe",
    [LogisticProbe(C_grid=[1.0, 0.1], refit=False), LinearProbe(momentum=0.5, seed=2), AttentiveProbe(num_heads=3)],
    ids=lambda probe: type(probe).__name__,
)
def test_a_clone_has_the_same_options(probe: TunedProbe) -> None:
    copy = clone(probe)
    assert copy is not probe and copy.get_params() == probe.get_params()
