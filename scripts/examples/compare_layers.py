# %% [markdown]
# # Which layer, and which context?
# A context is how the image is shown: `single`, a causal pass; `repeat` and `reverse`, twice, so that each feature has
# seen the whole image. One pass over the images gives all of them.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import randar_features as rf
from randar_features.sklearn import RandARFeatures

model = rf.load_model("randar-tiny")
CONTEXTS = ["single", "repeat", "reverse"]
LAYERS = range(model.transformer.config.num_layers)
table = rf.extract_features("photos/", model, layers=LAYERS, context=CONTEXTS, pool="mean")

# %%
probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
accuracy = {spec: cross_val_score(probe, *table.labelled(spec), cv=5) for spec in table.specs}

# %%
figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
for context in CONTEXTS:
    scores = [accuracy[f"{context}/image/{layer}"] for layer in LAYERS]
    axes.errorbar(LAYERS, [s.mean() for s in scores], [s.std() for s in scores], marker="o", capsize=3, label=context)
axes.set(xlabel="layer", ylabel="accuracy, mean of 5 folds", xticks=list(LAYERS))
axes.legend(title="context")
figure.savefig("layers.png", dpi=150)

# %% [markdown]
# The best of twelve scores is too good to be reported. An inner search chooses the feature, an outer one measures it on
# images that had no say; each image is encoded once a feature, whatever the folds.

# %%
usable = (table.ok & (table.labels >= 0)).numpy()
images, labels = np.array(table.paths)[usable], table.labels.numpy()[usable]
pipeline = make_pipeline(RandARFeatures("randar-tiny"), probe)
grid = {"randarfeatures__context": CONTEXTS, "randarfeatures__layer": list(LAYERS)}
search = GridSearchCV(pipeline, grid, cv=3)
nested = cross_val_score(search, images, labels, cv=3)
print(f"accuracy {nested.mean():.3f}, standard deviation over 3 folds {nested.std():.3f}")
