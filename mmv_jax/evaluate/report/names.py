"""Names for readers: `Heart (CT)`, not `ct_heart`."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from mmv_jax.evaluate.tasks.task import Task

# Modalities by the first or last word of a task's name.
MODALITIES = {
    "ct": "CT",
    "cxr": "CXR",
    "xr": "XR",
    "dx": "DX",
    "mg": "MG",
    "mr": "MR",
    "mri": "MRI",
    "pet": "PET",
    "us": "US",
}
# Modalities that are no other word: they are written in capitals anywhere in a name.
ABBREVIATIONS = ("ct", "cxr", "mri")
ENCODERS = {
    "random": "random weights",
    "pixels": "pixels alone",
    "scratch-vit": "same network, from scratch",
    "supervised-unet": "supervised U-Net",
    "supervised-cnn": "supervised CNN",
    "native-unet": "nnU-Net-style U-Net, native resolution",
    "native-resnet": "ResNet, native resolution",
}
PARTS = {  # what follows the name of an encoder
    "cls": "CLS alone",
    "patch_mean": "patch mean alone",
    "patch_local": "patches of the region",
    "linear": "linear head",
    "multi-scale": "multi-scale head",
    "global-local": "global-local head",
    "finetuned": "fine-tuned",
}


def readable(name: str, modalities: Iterable[str] = ()) -> str:
    """A name in words, with the modality in brackets at the end.

    Args:
      modalities: further ones, as the store calls them.

    Example:
      >>> readable("ct_heart"), readable("cxr_cardiothoracic_ratio"), readable("left in CT")
      ('Heart (CT)', 'Cardiothoracic ratio (CXR)', 'Left in CT')
    """
    known = MODALITIES | {m.lower().replace("-", "_"): m for m in modalities if m}
    # A name with spaces was written for readers and is not split.
    words = name.strip("_ ").replace("-", "_").split("_") if " " not in name else [name]
    if name.lower() in known:
        return known[name.lower()]
    # A modality may have several words. The longest wins, and one word must remain as the name.
    for size in range(min(3, len(words) - 1), 0, -1):
        for part, rest in ((words[:size], words[size:]), (words[-size:], words[:-size])):
            if (modality := known.get("_".join(part).lower())) is not None:
                return f"{_capital(' '.join(rest))} ({modality})"
    return _capital(" ".join(words))


def _capital(words: str) -> str:
    """The words joined, with a first capital and abbreviations in capitals."""
    each = [w.upper() if w in ABBREVIATIONS else w for w in words.split(" ")]
    return " ".join(each)[:1].upper() + " ".join(each)[1:]


@dataclass(frozen=True)
class Names:
    """The report's names of tasks, encoders and columns."""

    tasks: dict[str, str] = field(default_factory=dict)
    words: ClassVar[dict[str, str]] = {
        "no difference told": "no significant difference",
        "better, intervals apart": "better, intervals do not overlap",
        "worse, intervals apart": "worse, intervals do not overlap",
    }

    @classmethod
    def of(cls, tasks: Iterable[Task], modalities: Iterable[str] = ()) -> "Names":
        """The names from the config's titles, or else from the tasks' own names.

        Where two tasks would have the same name, each keeps its own.
        """
        modalities = list(modalities)
        titles = {t.name: t.title or readable(t.name, modalities) for t in tasks}
        times = Counter(titles.values())
        return cls({name: t if times[t] == 1 else name for name, t in titles.items()})

    def task(self, name: str) -> str:
        return self.tasks.get(name) or readable(name)

    def encoder(self, name: str) -> str:
        """The name of a result: 'trained, CLS alone' for `trained/cls`.

        Encoders of others keep their own name.
        """
        # A slash precedes a pooling, a plus a head or protocol: both are treated alike.
        first, *rest = name.replace("+", "/").split("/")
        return ", ".join([ENCODERS.get(first, first), *(PARTS.get(part, part) for part in rest)])

    def column(self, name: str) -> str:
        return readable(name)

    def said(self, words: str) -> str:
        """The words of `comparisons.json`, as used in a sentence."""
        return self.words.get(words, words)
