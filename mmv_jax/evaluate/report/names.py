"""Names that people read: `Heart (CT)`, not `ct_heart`."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from mmv_jax.evaluate.tasks.task import Task

# the first or last word of a task's name that says what kind of image it is about
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
# of them those that are no other word, and are written so anywhere in a name
ABBREVIATIONS = ("ct", "cxr", "mri")
ENCODERS = {
    "random": "random weights",
    "pixels": "pixels alone",
    "scratch-vit": "same network, from scratch",
    "supervised-unet": "supervised U-Net",
    "supervised-cnn": "supervised CNN",
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
    """A name as a person writes it: a modality goes to the end, in brackets.

    Args:
      modalities: further ones, as the store calls them.

    Example:
      >>> readable("ct_heart"), readable("cxr_cardiothoracic_ratio"), readable("left in CT")
      ('Heart (CT)', 'Cardiothoracic ratio (CXR)', 'Left in CT')
    """
    known = MODALITIES | {m.lower().replace("-", "_"): m for m in modalities if m}
    # A name with spaces was written for readers, and is not cut up.
    words = name.strip("_ ").replace("-", "_").split("_") if " " not in name else [name]
    if name.lower() in known:
        return known[name.lower()]
    # A modality may be of several words; the longest wins, and one word must stay as the name.
    for size in range(min(3, len(words) - 1), 0, -1):
        for part, rest in ((words[:size], words[size:]), (words[-size:], words[:-size])):
            if (modality := known.get("_".join(part).lower())) is not None:
                return f"{_capital(' '.join(rest))} ({modality})"
    return _capital(" ".join(words))


def _capital(words: str) -> str:
    """With a first capital, and abbreviations in capitals."""
    each = [w.upper() if w in ABBREVIATIONS else w for w in words.split(" ")]
    return " ".join(each)[:1].upper() + " ".join(each)[1:]


@dataclass(frozen=True)
class Names:
    """What the report calls tasks, encoders and columns."""

    tasks: dict[str, str] = field(default_factory=dict)
    words: ClassVar[dict[str, str]] = {
        "no difference told": "no significant difference",
        "better, intervals apart": "better, intervals do not overlap",
        "worse, intervals apart": "worse, intervals do not overlap",
    }

    @classmethod
    def of(cls, tasks: Iterable[Task], modalities: Iterable[str] = ()) -> "Names":
        """From the titles of the config, or else from the tasks' names. Where two tasks would be
        called the same, each keeps its own name.
        """
        modalities = list(modalities)
        titles = {t.name: t.title or readable(t.name, modalities) for t in tasks}
        times = Counter(titles.values())
        return cls({name: t if times[t] == 1 else name for name, t in titles.items()})

    def task(self, name: str) -> str:
        return self.tasks.get(name) or readable(name)

    def encoder(self, name: str) -> str:
        """'trained, CLS alone' for `trained/cls`; the name of an encoder of others stays."""
        # A slash joins a pooling, a plus a head or protocol: both are read alike.
        first, *rest = name.replace("+", "/").split("/")
        return ", ".join([ENCODERS.get(first, first), *(PARTS.get(part, part) for part in rest)])

    def column(self, name: str) -> str:
        return readable(name)

    def said(self, words: str) -> str:
        """What `comparisons.json` says, in a sentence's words."""
        return self.words.get(words, words)
