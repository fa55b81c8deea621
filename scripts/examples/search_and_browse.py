# %% [markdown]
# # Search a collection, and browse it
# An index of the images in `photos/`. Call it again when the folder has grown: new images are added.

# %%
import numpy as np

import randar_features as rf
from randar_features.data import adm_center_crop, labelled_sheet, load_image, to_tensor

index = rf.build_index("photos/", "index/", spec="reverse/image/3")
print(index)

# %% [markdown]
# The nearest images of one of them. A query that is in the index does not find itself; any other image will do too.

# %%
query = index.paths[0]
hits = index.search([query], k=5)
print(hits.to_pandas())


# %%
def show(paths, names, file):
    """Images side by side, each under its name."""
    images = [to_tensor(adm_center_crop(load_image(path), 128)) for path in paths]
    labelled_sheet(images, columns=len(images), column_labels=names).save(file)


show([query, *hits.paths[0]], ["query", *(f"{score:.2f}" for score in hits.scores[0])], "found.png")

# %% [markdown]
# Images whose neighbours are of other classes: hard ones, odd ones, and wrong labels.

# %%
numbers = np.setdiff1d(np.arange(len(index.paths)), index.vectors.left_out)  # without those that could not be read
neighbours = index.search_own(numbers, k=5)
agreement = (neighbours.labels == index.labels[numbers, None]).mean(axis=1)
print(f"{agreement.mean():.1%} of the five nearest images are of the same class")
odd = numbers[np.argsort(agreement, kind="stable")[:6]]
show([index.paths[number] for number in odd], [neighbours.label_of(index.labels[number]) for number in odd], "odd.png")
