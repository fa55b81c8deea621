# %% [markdown]
# # Probe your folder
# `photos/` has a folder for each class. How well does a linear classifier tell the classes apart, by features of a
# frozen model, and by pixels?

# %%
from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.model_selection import cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import randar_features as rf
from benchmarks.encoders import extract, load_encoder

PHOTOS = Path("photos")
table = rf.extract_features(PHOTOS, model="randar-tiny", layers=3, context="reverse")
print(table)  # `table.status` says which images could not be read, and why

# %% [markdown]
# One vector for each image that is readable and labelled.

# %%
X, y = table.labelled("reverse/image/3")
probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
scores = cross_val_score(probe, X, y, cv=5)
print(f"randar-tiny: accuracy {scores.mean():.3f}, standard deviation over 5 folds {scores.std():.3f}")

# %% [markdown]
# Features are worth what they add to the pixels.

# %%
pixels = extract(load_encoder("pixels"), PHOTOS, folder="runs/features", outputs=["32x32"])
known = pixels.ok & (pixels.labels >= 0)
baseline = cross_val_score(probe, pixels.array("32x32", known), pixels.labels[known], cv=5)
print(f"pixels: accuracy {baseline.mean():.3f}, standard deviation over 5 folds {baseline.std():.3f}")

# %% [markdown]
# Which classes are told apart, and which are not?

# %%
predicted = cross_val_predict(probe, X, y, cv=5)
print(classification_report(y, predicted, target_names=table.label_names, zero_division=0))
