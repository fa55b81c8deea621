"""Training of RandAR and its sisters on image tokens: next-token prediction, a fresh order for each image."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from reprlib import repr
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from randar_features import sequence
from randar_features.data.ahead import sent
from randar_features.data.token_store import TokenStore
from randar_features.hub.weights import build_empty, check_state_dict, file_hash, read_state_dict
from randar_features.models import ARCHITECTURES, ImageTransformer, LlamaGen, RandAR
from randar_features.models.base import order_of
from randar_features.precision import autocast
from randar_features.store.files import read_object, write_json, written_whole
from randar_features.tokenizers.folder import tokenizer_hash
from randar_features.training.auxiliary.losses import NEXT_TOKEN, Targets, TrainingPass, make_plan
from randar_features.training.auxiliary.teacher_maps import TeacherMaps
from randar_features.training.batches import Draws, draw, spread, step_generator
from randar_features.training.bundle import readable_names
from randar_features.training.distributed import (
    gathered,
    make_accelerator,
    micro_batches,
    placed_like,
    shard,
    without_sync,
)
from randar_features.training.flops import peak_flops, training_flops
from randar_features.training.generator.objective import (
    evaluation_orders,
    next_token_loss,
    training_order,
    validation_losses,
)
from randar_features.training.generator.recipe import TrainingConfig, model_config, model_type, recorded
from randar_features.training.loop import check_finite
from randar_features.training.optimizer import WeightAverage, build_optimizer, rate_multiplier


class RandARTrainer:
    """Trains a generator of `models.ARCHITECTURES` on a `TokenStore`; see `training.loop.run`.

    Images, crops, orders and dropped classes of a step follow from the seed and the step, however many processes share
    the work. Dropout follows from them and the number of the micro batch: it is the same on another number of processes
    only if `hardware.micro_batch_size` is set, to the same size.

    Args:
        config: what to train and how.
        train, validation: tokens of one tokenizer.
        preview: images (n, 3, S, S) of a model in evaluation mode, for `pictures`; None: no pictures.
        teacher: maps of the training images, for `auxiliary.alignment`.
        probe: figures of a model in evaluation mode, which `evaluate` adds to its own; None: no others.
    """

    def __init__(
        self,
        config: TrainingConfig,
        train: TokenStore,
        validation: TokenStore,
        preview: Callable[[ImageTransformer], Tensor] | None = None,
        teacher: TeacherMaps | None = None,
        probe: Callable[[ImageTransformer], dict[str, float]] | None = None,
    ) -> None:
        self.config, self.train, self.validation = config, train, validation
        self.preview, self.teacher, self.probe = preview, teacher, probe
        self.initial: str | None = None
        _check_same_kind(train, validation)
        _check_tokenizer(train)
        self.model_config = model_config(config, train)
        self.accelerator = make_accelerator()
        self.device = self.accelerator.device
        self.dtype = config.hardware.dtype(self.device)
        processes = self.accelerator.num_processes
        self.parts = micro_batches(
            config.batch_size, config.hardware.micro_batch_size, processes, self.accelerator.process_index
        )
        self.model = self._build().train()
        self.orders = evaluation_orders(self.model, config.evaluation_orders)
        order_of(self.model, self.orders[:1], 1)
        self.complete = self._with_heads()
        self.parallel = self._spread(self.model)
        self.optimizer = build_optimizer(
            self.model,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(config.adam_betas[0], config.adam_betas[1]),
            muon_learning_rate=config.muon_learning_rate,
        )
        self.average = WeightAverage(self.model, config.ema_decay)
        if self.complete is not None:
            heads = self.complete.heads
            part = torch.optim.AdamW(heads.parameters(), lr=config.learning_rate, weight_decay=0.0)
            self.optimizer.parts.append(part)
            self.optimizer.names |= {p: f"auxiliary.{name}" for name, p in heads.named_parameters()}
            self.targets = Targets(self.complete.plan, self.average.values, self.complete.transformer, teacher)
        self.skipped_steps = 0

    def _build(self) -> ImageTransformer:
        """The model with its first weights, on the device; `initial` is the hash of the file that holds them."""
        with torch.device("cpu"):
            model = ARCHITECTURES[model_type(self.config)][0](self.model_config)
        model.trained_order = self.config.order
        model.initialize(torch.Generator().manual_seed(self.config.seed))
        if self.config.initial is not None:
            path = Path(self.config.initial) / "model.safetensors"
            state = read_state_dict(path)
            check_state_dict(state, {name: tuple(value.shape) for name, value in model.state_dict().items()}, path)
            model.load_state_dict(state)
            self.initial = file_hash(path)[:16]
        return model.to(self.device)

    def _with_heads(self) -> TrainingPass | None:
        """The model with the heads of its auxiliary losses; None where there are none."""
        config = self.config
        if not config.auxiliary.on:
            return None
        plan = make_plan(config.auxiliary, self.model)
        if config.hardware.shard_weights:
            raise ValueError("auxiliary losses and hardware.shard_weights do not go together: leave one of them out")
        if config.auxiliary.alignment.weight and self.teacher is None:
            raise ValueError(
                "auxiliary.alignment needs a teacher's maps of the training images: make them with "
                "scripts/teacher_maps.py, and give their folder (--teacher)"
            )
        assert isinstance(self.model, RandAR | LlamaGen)  # as the plan has found
        channels = None if self.teacher is None else self.teacher.channels
        return TrainingPass(self.model, plan, channels, config.seed)

    def _spread(self, model: ImageTransformer) -> nn.Module:
        """`model` as the hardware is to compute it; its parameters may be others after that."""
        hardware = self.config.hardware
        if hardware.gradient_checkpointing:
            model.set_grad_checkpointing()
        if hardware.compile:
            for block in model.blocks:
                block.compile()
        if hardware.shard_weights:
            return shard(model, self.accelerator, self.dtype)
        return self.accelerator.prepare(model if self.complete is None else self.complete)

    def train_step(self, step: int) -> dict[str, float]:
        """One update on batch `step`.

        Raises:
            FloatingPointError: loss or gradient are not finite; the weights are as they were before.
        """
        draws, order = self._draw(step)
        totals: dict[str, Tensor] = {}
        for number, rows in self.parts:
            last = number == self.parts[-1][0]
            with nullcontext() if last else without_sync(self.accelerator, self.parallel):
                torch.manual_seed(draws.dropout_seed + number)  # for the dropout layers
                losses = {n: v / len(self.parts) for n, v in self._losses(step, draws, order, rows).items()}
                self.accelerator.backward(self._weighted(losses))
            for name, value in losses.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value.detach()
        norm = self.accelerator.clip_grad_norm_(self.parallel.parameters(), self.config.gradient_clip)
        figures = self._figures(totals, norm)
        check_finite(figures, step)
        figures["lr_multiplier"] = self._update(step, figures["gradient_norm"])
        return figures | ({"skipped_steps": float(self.skipped_steps)} if self.skipped_steps else {})

    def _draw(self, step: int) -> tuple[Draws, Tensor]:
        """All random choices of a step and the orders (B or 1, N), these drawn on the device."""
        config, generator = self.config, step_generator(self.config.seed, step)
        draws = draw(
            generator,
            step,
            batch_size=config.batch_size,
            size=len(self.train),
            crops=self.train.num_crops,
            class_dropout=config.class_dropout,
            seed=config.seed,
        )
        if config.order == "raster":
            return draws, sequence.raster_order(self.train.num_tokens, self.device)
        if self.device.type != "cpu":
            generator = step_generator(config.seed, step, self.device)
        return draws, training_order(self.model, config.batch_size, generator, self.device)

    def _losses(self, step: int, draws: Draws, order: Tensor, rows: slice) -> dict[str, Tensor]:
        """Next-token prediction and the auxiliary losses of a part of the batch, by name."""
        images, crops = draws.indices[rows], draws.crops[rows]
        tokens, labels = self.train.batch(images, crops)
        hidden = draws.dropped[rows] | (labels < 0)
        classes = torch.where(hidden, self.model_config.num_classes, labels)
        tokens, classes = (sent(value, self.device) for value in (tokens, classes))
        order = order if len(order) == 1 else order[rows]
        with autocast(self.device, self.dtype):
            if self.complete is None:
                return {NEXT_TOKEN: next_token_loss(self.parallel, tokens, classes, order)}
            auxiliary = self.config.auxiliary
            context = auxiliary.context if auxiliary.shows_twice(step) else "single"
            targets = self.targets.of(tokens, order, images, crops)
            unseen = torch.where(hidden, labels, -1).to(self.device)
            share = (draws.dropped & (self.train.labels[draws.indices] >= 0)).double().mean().item()
            return self.parallel(tokens, classes, order, context, unseen, targets, share)

    def _weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """Their sum, to be minimised."""
        if self.complete is None:
            return losses[NEXT_TOKEN]
        weights = self.complete.plan.weights
        return torch.stack([weights[name] * value for name, value in losses.items()]).sum()

    def _figures(self, losses: dict[str, Tensor], norm: Tensor) -> dict[str, float]:
        """Losses of the whole batch and norm of its gradient, with one wait for the device."""
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        means = [self.accelerator.reduce(value, "mean") for value in losses.values()]
        values = torch.stack([*means, norm.to(means[0])])
        return dict(zip((*losses, "gradient_norm"), values.tolist(), strict=True))

    def _update(self, step: int, norm: float) -> float:
        """Move weights and average, unless the gradient exploded; the learning rate's multiplier."""
        config = self.config
        progress = {"warmup": config.warmup_steps, "total": config.total_steps}
        multiplier = rate_multiplier(step + 1, config.schedule, **progress, floor=config.final_multiplier)
        if config.skip_gradient_norm is not None and step >= config.skip_after and norm > config.skip_gradient_norm:
            self.skipped_steps += 1
            self.optimizer.clear()
        else:
            self.optimizer.step(multiplier)
            self.average.update(self.model)
        return multiplier

    def averaged(self) -> ImageTransformer:
        """A copy of the whole model with the averaged weights, in evaluation mode, for every process."""
        architecture = ARCHITECTURES[model_type(self.config)][0]
        model = build_empty(lambda: architecture(self.model_config))
        model.trained_order = self.config.order
        model.load_state_dict(gathered(self.average.values))
        return model.to(self.device).eval()

    def evaluate(self) -> dict[str, float]:
        """`validation_loss` and `validation_loss_null` of the averaged weights: nats per token, the class given or not.

        Means over the orders and over `evaluation_images` images in their first crop, evenly spread through the
        store, so that all classes take part; each process looks at its share.
        """
        picked = spread(len(self.validation), self.config.evaluation_images)
        mine = picked[self.accelerator.process_index :: self.accelerator.num_processes]
        tokens, classes = self.validation.batch(mine, torch.zeros_like(mine))
        known = torch.where(classes < 0, self.model_config.num_classes, classes).to(self.device)
        model, (_, rows) = self.averaged(), self.parts[0]
        with autocast(self.device, self.dtype):
            sums = validation_losses(model, tokens.to(self.device), known, self.orders, rows.stop - rows.start)
        both = self.accelerator.reduce(torch.tensor(sums, device=self.device)) / (len(picked) * len(self.orders))
        figures = dict(zip(("validation_loss", "validation_loss_null"), both.tolist(), strict=True))
        if self.probe is not None and self.accelerator.is_main_process:  # which alone logs it
            with autocast(self.device, self.dtype):
                figures |= self.probe(model)
        return figures

    def pictures(self) -> dict[str, Tensor]:
        """What `preview` gives of the averaged weights, on the main process."""
        if self.preview is None:
            return {}
        model = self.averaged()
        if not self.accelerator.is_main_process:
            return {}
        with torch.no_grad(), autocast(self.device, self.dtype):
            return {"samples": self.preview(model)}

    def rates(self, steps: int, seconds: float) -> dict[str, float]:
        """`images_per_second`, `tokens_per_second` and `mfu`, the share of the devices' peak."""
        rate = steps * self.config.batch_size / seconds
        flops = training_flops(self.model_config, model_type(self.config))
        peak = self.accelerator.num_processes * peak_flops(self.device, self.dtype)
        return {
            "images_per_second": rate,
            "tokens_per_second": rate * self.train.num_tokens,
            "mfu": rate * flops / peak,
        }

    def settings(self) -> dict[str, Any]:
        """The configuration, and which tokens and first weights are trained on."""
        data = {
            "tokenizer": self.train.manifest["tokenizer"],
            "images": len(self.train),
            "views": self.train.num_crops,
            "content": self.train.content,
        }
        if self.initial is not None:
            data["initial"] = self.initial
        if self.teacher is not None and self.config.auxiliary.alignment.weight:
            data["teacher"] = self.teacher.about
        return recorded(self.config, self.dtype) | {"data": data}

    def state_dict(self) -> dict[str, Any]:
        """Weights, their average, and the optimizer's state: all that the next step depends on."""
        keep = self.accelerator.is_main_process
        heads = {} if self.complete is None else {"auxiliary": gathered(self.complete.heads.state_dict(), keep)}
        return heads | {
            "weights": gathered(self.model.state_dict(), keep),
            "optimizer": self.optimizer.state_dict(keep),
            "average": self.average.state_dict(keep),
            "skipped_steps": self.skipped_steps,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state; RuntimeError if it is of a model of other sizes."""
        present = self.model.state_dict()
        weights = {n: placed_like(v, present[n]) if n in present else v for n, v in state["weights"].items()}
        self.model.load_state_dict(weights)
        if self.complete is not None:
            self.complete.heads.load_state_dict(state["auxiliary"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.skipped_steps = state["skipped_steps"]

    def export(self, folder: Path) -> None:
        """Write the averaged weights in float16, with configuration and tokenizer, as `load_model` reads them.

        Where the tokens have no tokenizer beside them, the folder is one that cannot encode images.
        """
        weights = gathered(self.average.values, keep=self.accelerator.is_main_process)
        if not self.accelerator.is_main_process:
            return
        tokenizer, names = self.train.tokenizer, self.train.manifest["label_names"]
        config = {} if tokenizer is None else read_object(tokenizer / "config.json")
        config |= {
            "transformer": {"type": model_type(self.config), **asdict(self.model_config)},
            "training": recorded(self.config, self.dtype),
        }
        if self.teacher is not None and self.config.auxiliary.alignment.weight:
            config["teacher"] = self.teacher.about
        if self.train.manifest["tokenizer"] is not None:
            config["tokenizer_hash"] = self.train.manifest["tokenizer"]
        if self.config.initial is not None and (about := Path(self.config.initial) / "config.json").is_file():
            config |= {name: value for name, value in read_object(about).items() if name == "recommended"}
        with written_whole(folder / "model.safetensors") as file:
            file.write(save({name: value.half().contiguous() for name, value in weights.items()}))
        if tokenizer is not None:
            with written_whole(folder / "tokenizer.safetensors") as file:
                file.write((tokenizer / "tokenizer.safetensors").read_bytes())
            if names:
                write_json(folder / "classes.json", readable_names(names))
        write_json(folder / "config.json", config)


def _check_tokenizer(store: TokenStore) -> None:
    """ValueError unless the tokenizer that lies beside the tokens, if one does, is whole and made them."""
    if store.manifest["tokenizer"] is None or store.tokenizer is None:
        return
    found = tokenizer_hash(read_state_dict(store.tokenizer / "tokenizer.safetensors"))
    if found != store.manifest["tokenizer"]:
        raise ValueError(
            f"{store.folder} holds tokens made by tokenizer {store.manifest['tokenizer']}, but {store.tokenizer} is "
            f"tokenizer {found}: put the one there that made them, or make the tokens again"
        )


def _check_same_kind(train: TokenStore, validation: TokenStore) -> None:
    """ValueError unless codes, grids and labels mean the same in both."""
    if train.manifest["tokenizer"] != validation.manifest["tokenizer"]:
        raise ValueError(
            f"training tokens were made by tokenizer {train.manifest['tokenizer']}, "
            f"validation tokens by {validation.manifest['tokenizer']}: make both with one"
        )
    if train.num_tokens != validation.num_tokens:
        raise ValueError(
            f"training images have {train.num_tokens} tokens, validation images {validation.num_tokens}: "
            "make both at one image size"
        )
    check_same_classes(train.manifest["label_names"], validation.manifest["label_names"])
    if train.num_classes < validation.num_classes:
        raise ValueError(
            f"training images are of {train.num_classes} classes, validation images of "
            f"{validation.num_classes} classes: train on images of all classes"
        )


def check_same_classes(train: Sequence[str] | None, validation: Sequence[str] | None) -> None:
    """ValueError if the classes of both have names, and others; published codes have none."""
    if train and validation and list(train) != list(validation):
        raise ValueError(
            f"training images are of {len(train)} classes ({repr(train)}), validation images of {len(validation)} "
            f"classes ({repr(validation)}): their labels would not mean the same; give both splits the same class "
            "folders, a validation image of each class at least"
        )
