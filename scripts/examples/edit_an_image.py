# %% [markdown]
# # Edit an image
# The model that encodes images draws them too, in any order: it can redraw a part that sees all the rest.

# %%
from pathlib import Path

import torch

import randar_features as rf
from randar_features.data import labelled_sheet, load_image, tensor_center_crop, to_image, to_tensor

model = rf.load_model("randar-tiny")
photo = to_tensor(load_image(min(Path("photos").glob("*/*"))))[None]  # (1, 3, H, W) in [0, 1], at its own size
height, width = photo.shape[2:]

# %% [markdown]
# Inpainting: True in the mask is drawn anew. All other pixels stay as they are, to the bit.

# %%
mask = torch.zeros(height, width, dtype=torch.bool)
mask[height // 4 : height // 2, width // 4 : width // 2] = True
drawn = [rf.inpaint(model, photo, mask, generator=seed)[0] for seed in range(3)]
assert all(torch.equal(image[:, ~mask], photo[0][:, ~mask]) for image in drawn)
labelled_sheet([photo[0], *drawn], 4, column_labels=["given", "seed 0", "seed 1", "seed 2"]).save("inpainted.png")

# %% [markdown]
# The same part as another class, with guidance: how much the class counts, from the first token to the last.

# %%
as_class = rf.inpaint(model, photo, mask, classes=["lion"], guidance=(1.0, 6.0), generator=0)
to_image(as_class[0]).save("lion.png")

# %% [markdown]
# Outpainting: 32 pixels more at the left and at the right of the middle square.

# %%
square = tensor_center_crop(photo[0], model.image_size)[None]
to_image(rf.outpaint(model, square, padding=(32, 0, 32, 0), generator=0)[0]).save("wider.png")

# %% [markdown]
# What does the model find unlikely? Bright tokens are surprising, given the others, in the mean over four orders.

# %%
tokens = model.tokenizer.encode(square)
likelihood = rf.log_likelihood(model.transformer, tokens, orders=4)  # (1, N) nats
surprise = rf.surprisal_map(likelihood, model.image_size, limit=12.0)
labelled_sheet([square[0], surprise[0]], 2).save("surprise.png")
