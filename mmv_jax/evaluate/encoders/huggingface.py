"""Vision encoders of others from a local folder, through transformers (extra: torch).

A planar encoder sees a volume slice by slice: one slice through the middle of each layer of
patches. Layers are as far apart as patches are wide. Papers on slice-based encoders use this
baseline.

Axes: S slices, h w tokens, D width.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mmv_jax.data.augment import BACKGROUND, normalise
from mmv_jax.data.crops import OVERSAMPLING, Crops, Geometry, whole_crops
from mmv_jax.data.resample import read_crop
from mmv_jax.errors import UserError
from mmv_jax.evaluate.encoders.base import Encoded, early_layers
from mmv_jax.evaluate.encoders.huggingface_folder import check_files, preprocessing
from mmv_jax.evaluate.encoders.readout import LAST, standardise_tokens
from mmv_jax.evaluate.encoders.source import EncoderSource
from mmv_jax.evaluate.encoders.stand_ins import save_stand_in
from mmv_jax.models.channels import PREPROCESSING
from mmv_jax.models.folder_files import check_numbers
from mmv_jax.models.odd_folder import odd_folder
from mmv_jax.models.public_files import CONFIG, UNREAD, read_json
from mmv_jax.report.progress import say
from mmv_jax.store.read import Store

# The largest scale of a study. These models do not know small images in a black corner.
FILLED = OVERSAMPLING | {2: float("inf")}
SLICES = 8  # that go through the model at once


@dataclass(frozen=True)
class HuggingFaceEncoder:
    """A pretrained vision model as a `StudyEncoder`.

    Images keep their aspect: they are as large as the model allows, on black. The slices of a small
    volume are enlarged at most twofold (`crops.OVERSAMPLING`), since the whole volume is resampled
    for them.

    Attributes:
      side: of the square input image, in pixels.
      patch: width of a patch token, in pixels.
      mean, std: of the three channels in the model's training.
    """

    model: Any
    side: int
    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def late(self) -> bool:
        """See `split_tokens`: CLIP's norm after the blocks is that of its pooling alone."""
        return hasattr(self.model, "post_layernorm")

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.side, self.patch, self.mean, self.std, FILLED)).encode())
        digest.update(b"late" if self.late else b"")
        if hasattr(self.model, "config"):  # number of heads, activation: not seen in the weights
            digest.update(self.model.config.to_json_string().encode())
        for name, tensor in self.model.state_dict().items():
            # Through float32, since NumPy has no bfloat16.
            digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def views(self, geometry: Geometry) -> tuple[Crops, Bool[np.ndarray, "N tz ty tx"]]:
        # A side may be no multiple of the patch: no token sees the remaining pixels.
        side = self.side - self.side % self.patch
        crops = whole_crops(
            geometry, {2: (1, side, side), 3: (side, side, side)}, (self.patch,) * 3, FILLED
        )
        # [z, y, x, 3]: a token is kept where its place lies within the study's own grid.
        places = np.stack(
            np.meshgrid(*map(np.arange, crops.tokens.max(axis=0)), indexing="ij"), axis=-1
        )
        return crops, np.all(places[None] < crops.tokens[:, None, None, None], axis=-1)

    def encode(self, store: Store, studies: Int[np.ndarray, " N"]) -> Iterator[Encoded]:
        geometry = Geometry.of(store.index)
        crops, _ = self.views(geometry[studies])
        for n, study in enumerate(studies.tolist()):
            slices = self.slices(store, geometry, study, crops[n])
            parts = [self.read(slices[at : at + SLICES]) for at in range(0, len(slices), SLICES)]
            # Slices are axis 0 of `cls`; in the others, axis 0 is the levels and slices are axis 1.
            cls, grids, before_cls, before = (
                np.concatenate(found, axis=axis) for found, axis in zip(zip(*parts), (0, 1, 1, 1))
            )
            _, ty, tx = crops.tokens[n].tolist()
            # The model's output is the last level; the ones before it come from earlier layers.
            *early, last = _lines(grids, ty, tx)
            # CLS of a volume is the mean over its slices. It stands before the patch tokens.
            joined = np.concatenate([before_cls.mean(axis=1)[:, None], _lines(before, ty, tx)], 1)
            yield Encoded(
                study,
                cls.mean(axis=0),
                last,
                np.stack(early) if early else last[None][:0],
                before=standardise_tokens(joined) if len(joined) else None,
            )

    def slices(
        self, store: Store, geometry: Geometry, study: int, crop: Crops
    ) -> Float[np.ndarray, "S side side"]:
        """The images of a study, 0 to 1; the study lies at the upper left, on black."""
        voxels, inside = read_crop(store, geometry, study, crop)
        line = store.index.iloc[study]
        shown = np.where(
            inside,
            normalise(voxels, line["unit"], line["low"], line["high"]),
            np.float32(BACKGROUND),
        )
        shown = self.layers(shown)
        out = np.zeros((len(shown), self.side, self.side), np.float32)
        # Our views are in [-1, 1]; the model's own mean and std are meant for 0 to 1.
        out[:, : shown.shape[1], : shown.shape[2]] = ((shown + 1) / 2).clip(0, 1)
        return out

    def layers(self, voxels: Shaped[np.ndarray, "Z Y X"]) -> Shaped[np.ndarray, "S Y X"]:
        """The slices of a view that the model sees.

        They pass through the middle of each layer of patches; a planar view has one.
        """
        return voxels[self.patch // 2 :: self.patch] if len(voxels) > 1 else voxels

    def tokens(
        self, images: Float[np.ndarray, "S side side"]
    ) -> tuple[Float[np.ndarray, "S D"], Float[np.ndarray, "M S h w D"]]:
        """The global vector of each image, and its patch tokens.

        Tokens after earlier layers come first, the model's output last.
        """
        cls, grids, _, _ = self.read(images)
        return cls, grids

    def read(self, images: Float[np.ndarray, "S side side"]) -> tuple[np.ndarray, ...]:
        """`tokens`, and the same of the blocks before the last one.

        Global vectors are [B, S, D], patch tokens [B, S, h, w, D].
        """
        import torch

        with torch.inference_mode():
            out = self._out(torch.from_numpy(images))
            found = *split_tokens(out, late=self.late), *split_before(out)
        return tuple(tensor.numpy() for tensor in found)

    def forward(self, images: Any) -> tuple[Any, Any]:
        """`tokens` as a function of tensors that passes gradients."""
        return split_tokens(self._out(images), late=self.late)

    def _out(self, images: Any) -> Any:
        # One grey channel [S, 1, Y, X] becomes three against the means [1, 3, 1, 1].
        mean, std = (images.new_tensor(x)[None, :, None, None] for x in (self.mean, self.std))
        return self.model(pixel_values=(images[:, None] - mean) / std)


def _lines(grids: np.ndarray, ty: int, tx: int) -> np.ndarray:
    """The tokens [M, n, D] of the study, from square grids [M, S, h, w, D]."""
    levels, slices, _, _, width = grids.shape
    return grids[:, :, :ty, :tx].reshape(levels, slices * ty * tx, width)


def split_tokens(out: Any, *, late: bool = False) -> tuple[Any, Any]:
    """Global vectors [S, D] and square grids of patch tokens [M, S, h, w, D], from any model's
    output.

    All are tensors. Convolutional models give `[S, D, h, w]`. Transformers give a row of tokens:
    first CLS and registers, then h·w patches. The global vector is CLS, or the model's own pooling
    if it has no CLS.

    If the output has hidden states, those of `early_layers` come first. They are left out if their
    shape differs from the last one's: stages of another grid or width cannot be stacked.

    Args:
      late: whether only the model's own pooling passes its last norm, as in CLIP. It is then the
        global vector, beside a CLS token that has not passed it.
    """
    import torch

    hidden = out.last_hidden_state.float()
    if hidden.ndim == 4:
        grid = hidden.permute(0, 2, 3, 1)
        return out.pooler_output.float().reshape(len(grid), -1), grid[None]
    side = int(np.sqrt(hidden.shape[1]))
    # The root rounds down to the side as long as at most 2 · side special tokens come first.
    special = hidden.shape[1] - side * side
    # The first hidden state is the input of the first layer.
    states = (getattr(out, "hidden_states", None) or ())[1:]
    early = [states[layer].float() for layer in early_layers(len(states))] if states else []
    levels = torch.stack([*(level for level in early if level.shape == hidden.shape), hidden])
    grids = levels[:, :, special:].reshape((len(levels), len(hidden), side, side, -1))
    if special and not late:
        return hidden[:, 0], grids
    pooled = getattr(out, "pooler_output", None)  # None: a tower without its pooling
    return hidden.mean(dim=1) if pooled is None else pooled.float(), grids


def split_before(out: Any) -> tuple[Any, Any]:
    """Global vectors [B, S, D] and patch grids [B, S, h, w, D] of at most three blocks before the
    last.

    Empty if stages have other shapes. Without a CLS token the global vector is the mean patch.
    """
    import torch

    hidden = out.last_hidden_state.float()
    # [1:-1] drops the embedding and the last block; then the last LAST - 1 = 3 are taken.
    states = (getattr(out, "hidden_states", None) or ())[1:-1][1 - LAST :]
    levels = [level.float() for level in states if level.shape == hidden.shape]
    if hidden.ndim == 4 or not levels:
        _, grids = split_tokens(out)
        # Empty along the first axis but of full rank, so that callers can concatenate the parts.
        return hidden.new_zeros((0, len(hidden), grids.shape[-1])), grids[:0]
    side = int(np.sqrt(hidden.shape[1]))
    special = hidden.shape[1] - side * side
    joined = torch.stack(levels)
    cls = joined[:, :, 0] if special else joined.mean(dim=2)
    return cls, joined[:, :, special:].reshape((len(levels), len(hidden), side, side, -1))


def load_huggingface(folder: str | Path) -> HuggingFaceEncoder:
    """Load the vision encoder of a Hugging Face folder.

    It reads `config.json`, `model.safetensors` and, if present, `preprocessor_config.json`. Nothing
    is downloaded, no code of the folder is run and no pickle is opened. A model of images and text
    (CLIP, SigLIP) gives its vision tower.

    Raises:
      ImportError: transformers or torch is not installed.
      UserError: a file is missing; the weights are pickled,
        incomplete, or do not fit the config.
    """
    import torch
    import transformers

    folder = Path(folder)
    check_files(folder)
    model = _load_model(folder, transformers)
    check_numbers(folder.name, model.config.to_dict())
    for odd in odd_folder(folder, model.config.to_dict()):
        say(odd)
    size, mean, std = preprocessing(folder, getattr(model.config, "image_size", None))
    try:
        with torch.inference_mode():
            # The patch size is measured on a blank image: configs spell it differently, or not at
            # all.
            _, grids = split_tokens(model(pixel_values=torch.zeros(1, 3, size, size)))
    except (AttributeError, IndexError) as error:
        # No pooled vector, or tokens in no square: of segmentation, detection and hybrid models.
        raise UserError(
            f"{folder.name}: the output of a {model.config.model_type} is no square of patch tokens"
            " with a global vector, so it has no features that can be measured here. Take the"
            " backbone that it was made from."
        ) from error
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{folder.name}: the model takes no image of {size} × {size} pixels with three"
            f" channels, which {PREPROCESSING} and {CONFIG} ask for: {_first_line(error)}"
        ) from error
    # A side that is no multiple of the patch leaves pixels over, which are no part of a patch.
    cells, own = grids.shape[2], getattr(model.config, "patch_size", None)
    patch = own if isinstance(own, int) and size // own == cells else size // cells
    return HuggingFaceEncoder(model=model, side=size, patch=patch, mean=mean, std=std)


def load_group(group: Mapping[str, Any]) -> HuggingFaceEncoder:
    """Load the encoder of a group's `folder`; if it is absent, save a stand-in of `family` there
    first.

    Raises:
      UserError: the stand-in in the folder is of another family; or as `load_huggingface`.
    """
    folder = Path(group["folder"])
    if "family" in group and group["stand_in"]:
        if not folder.exists():
            save_stand_in(group["family"], folder)
        # The config may name another family than when the stand-in was saved.
        elif (there := read_json(folder, CONFIG).get("model_type")) != group["family"]:
            raise UserError(
                f"{folder.name}: the stand-in that lies there is a {there}, and the config asks for"
                f" the family {group['family']!r}. Remove the folder, or name another one."
            )
    return load_huggingface(folder)


HUGGINGFACE = EncoderSource(load=load_group, install="mmv_jax[torch]", needs_folder=True)


def _load_model(folder: Path, transformers: Any) -> Any:
    # A masked autoencoder hides patches in every pass; without its decoder it is a ViT.
    asked, config = transformers.AutoModel, {}
    if read_json(folder, CONFIG).get("model_type") == "vit_mae":
        asked, about = transformers.ViTModel, read_json(folder, CONFIG)
        config = {"config": transformers.ViTConfig.from_dict(about | {"model_type": "vit"})}
    quiet = transformers.logging.get_verbosity()
    # The weights of an unused text tower cause long warnings.
    # Missing tensors are checked below.
    transformers.logging.set_verbosity_error()
    try:
        model, info = asked.from_pretrained(
            folder,
            **config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,  # else transformers asks whether to run the folder's code
            ignore_mismatched_sizes=True,  # they are told below, by name
            output_loading_info=True,
            dtype="float32",  # a folder may keep 16 bits, which our images are not
        )
    except Exception as error:  # of many kinds: torch, safetensors, the model's own
        raise UserError(
            f"{folder.name}: the weights do not fit config.json, or a file is damaged:"
            f" {_first_line(error)}"
        ) from error
    finally:
        transformers.logging.set_verbosity(quiet)
    # Many checkpoints have no pooler. With a CLS token it is not read, so it may be missing.
    missing = [name for name in map(str, info["missing_keys"]) if "pooler" not in name]
    if missing:
        raise UserError(
            f"{folder.name}: {len(missing)} tensors are missing from the weights or have another"
            f" name, the first is {missing[0]}."
        )
    if other := [str(found[0]) for found in info["mismatched_keys"] if "pooler" not in found[0]]:
        raise UserError(
            f"{folder.name}: {len(other)} tensors of the weights have another shape than its"
            f" {CONFIG} says, the first is {other[0]}. One of the two is another model's."
        )
    if more := _of_another(model, info["unexpected_keys"]):
        raise UserError(
            f"{folder.name}: its {CONFIG} has no place for {len(more)} tensors of the weights, the"
            f" first is {more[0]}. One of the two is another model's."
        )
    if copies := _copies(model, info["unexpected_keys"]):
        say(
            f"{folder.name}: its weights hold the model twice. {copies[0]} and its like are not"
            " read: if they are the average over the training, which papers use, save that alone."
        )
    # eval() turns dropout off, so that a study has the same features each time.
    tower = getattr(model, "vision_model", model).eval()
    tower.config.output_hidden_states = True
    return tower


def _of_another(model: Any, unexpected: Iterable[str]) -> list[str]:
    """Tensors within the tower that it has no place for: a block too many, registers, biases."""
    names = {name.split(".")[0] for name in model.state_dict()}
    tower = {"vision_model"} if "vision_model" in names else names - {"pooler"}
    own = (name.removeprefix(f"{model.base_model_prefix}.") for name in map(str, unexpected))
    return sorted(n for n in own if n.split(".")[0] in tower and not n.endswith(UNREAD))


def _copies(model: Any, unexpected: Iterable[str]) -> list[str]:
    """Tensors that are not read and have the name of one that is, behind a prefix such as ema."""
    names = {*model.state_dict()}
    # Two parts at least stay behind a prefix: "weight" alone is no tensor's own name.
    parts = {str(name): str(name).split(".") for name in unexpected}
    return sorted(
        name
        for name, own in parts.items()
        if any(".".join(own[n:]) in names for n in range(1, len(own) - 2))
    )


def _first_line(error: Exception) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )[:300]
