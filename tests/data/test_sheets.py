"""Sheets: images where they were without names, names in the margins alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from randar_features.data import contact_sheet, labelled_sheet, to_image

IMAGES = list(torch.rand(6, 3, 20, 30, generator=torch.Generator().manual_seed(0)))


def test_names_stand_above_and_at_the_left_of_the_plain_sheet():
    plain = np.asarray(to_image(contact_sheet(IMAGES, 3)))
    sheet = np.asarray(labelled_sheet(IMAGES, 3, column_labels=["a", "b", "long name"], row_labels=["lion", "alp"]))
    top, left = sheet.shape[0] - plain.shape[0], sheet.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(sheet[top:, left:], plain)
    assert (sheet[:top, left:] < 128).any() and (sheet[top:, :left] < 128).any()
    columns = (sheet[:top, left:] < 128).any(axis=(0, 2))
    assert all(columns[start : start + 30].any() for start in (0, 32, 64))


def test_without_names_it_is_the_plain_sheet():
    np.testing.assert_array_equal(labelled_sheet(IMAGES, 2), to_image(contact_sheet(IMAGES, 2)))


def test_another_number_of_names_is_refused():
    with pytest.raises(ValueError, match="2 column labels for 3 columns"):
        labelled_sheet(IMAGES, 3, column_labels=["a", "b"])
    with pytest.raises(ValueError, match="1 row labels for 2 rows"):
        labelled_sheet(IMAGES, 3, row_labels=["a"])
