"""Label maps of a folder: which files are masks, and to which studies they belong.

Layouts, each after its own documentation:

- nnU-Net: imagesTr/NAME_0000, labelsTr/NAME (its documentation/dataset_format.md)
- Medical Segmentation Decathlon: imagesTr/NAME, labelsTr/NAME, imagesTs (arXiv 2106.05735)
- TotalSegmentator: CASE/ct, CASE/segmentations/STRUCTURE (its README)
- BIDS: sub-01/anat/sub-01_T1w, derivatives/*/sub-01/anat/sub-01_label-x_mask (bids-specification,
  derivatives/imaging)
- BraTS: NAME_t1, NAME_flair, NAME_seg
- KiTS: CASE/imaging, CASE/segmentation
- LiTS: volume-0, segmentation-0
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from mmv_jax.manifests.manifest import MASK

WORD = (
    r"(masks?|seg|dseg|labels?|labelmap|segmentations?|gt|ground[-_ ]?truth|annotations?|contours?"
    r"|roi)"
)
MASK_END = re.compile(rf"[-_. ]{WORD}$", re.IGNORECASE)
# `1_mask2`, `1_seg_v2`, `1_mask_left`; and `1Mask`, where no separator stands before the word.
# Not of `label`: `1_label_2` may well be an image of class 2.
MASK_PART = re.compile(
    r"[-_. ](masks?|seg|segmentations?|ground[-_ ]?truth)[-_. ]?(v?\d+|left|right|l|r)$",
    re.IGNORECASE,
)
CAMEL_END = re.compile(r"(?<=[a-z0-9])(Mask|Seg|Segmentation)$")
# A word that stands alone or before a number: `mask`, `segmentation-0`, but not `segment`.
MASK_NAME = re.compile(rf"^{WORD}(?=$|[-_. ]?\d)", re.IGNORECASE)
# Training, test or validation: imagesTr belongs to labelsTr and not to labelsTs.
KIND = r"(Tr|Ts|Te|Val)?"
LABEL_FOLDER = re.compile(
    r"(labels?|masks?|segmentations?|segs?|annotations?|gt|contours?|rois?|ground[-_ ]?truth)"
    rf"{KIND}",
    re.IGNORECASE,
)
# Words of a folder's name: `leftMask`, `lung_masks`, `masks_png`. Not `label`: `label_0` may hold
# the images of class 0.
MASK_WORDS = {"mask", "masks", "seg", "segs", "segmentation", "segmentations", "groundtruth"}
NO_STRUCTURE = MASK_WORDS | {"manual", "png", "nii", "nifti", "train", "test", "val"}
IMAGE_FOLDER = re.compile(rf"(images?|imgs?|scans?|volumes?|cts?){KIND}", re.IGNORECASE)
# nnU-Net's channel of a case, from `_0000` on.
CHANNEL = re.compile(r"_\d{4}$")
TEST_FOLDER = re.compile(r"(images?|imgs?)(Ts|Te)")
VAL_FOLDER = re.compile(r"(images?|imgs?)Val")


@dataclass
class FolderStudy:
    """An image file of a folder that is a study.

    Attributes:
      path: relative to the root.
      patient: name of the patient, shared by all channels and sequences of one person.
      masks: column of the manifest -> path of a mask.
    """

    path: PurePosixPath
    patient: str
    masks: dict[str, str] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return stem_of(self.path.name)


def stem_of(name: str) -> str:
    """File name without its ending; the last number of a UID is not an ending."""
    # Endings begin with a letter: the last number of `1.2.840.1` is part of the name.
    name = re.sub(r"\.gz$", "", name, flags=re.IGNORECASE)
    return re.sub(r"\.[A-Za-z][A-Za-z0-9]{0,5}$", "", name)


def studies_and_masks(paths: Sequence[PurePosixPath]) -> tuple[list[FolderStudy], int, int]:
    """Studies among the image files, with their masks attached.

    Returns:
      The studies, the number of masks without an image, and the number of derived images (BIDS)
        left out.
    """
    maps = [path for path in paths if is_label_map(path)]
    others = [path for path in paths if path not in set(maps)]
    # Derived images of BIDS are a raw one, smoothed or registered: the same study twice.
    raw = [path for path in others if not ("derivatives" in path.parts and _entities(path))]
    studies = [FolderStudy(path, _person(path)) for path in raw]
    orphans = sum(not _attach(path, studies) for path in maps)
    return studies, orphans, len(others) - len(raw)


def is_label_map(path: PurePosixPath) -> bool:
    """Whether the file's name or a folder of its path marks it as a mask."""
    stem = stem_of(path.name)
    by_folder = any(
        LABEL_FOLDER.fullmatch(part) or _words_of(part) & MASK_WORDS for part in path.parts[:-1]
    )
    endings = (MASK_END.search(stem), MASK_PART.search(stem), CAMEL_END.search(stem))
    return by_folder or bool(MASK_NAME.match(stem)) or any(endings)


def _words_of(folder: str) -> set[str]:
    """Words of a folder's name, in lower case: `leftMask` and `lung_masks` have two."""
    parts = re.split(r"[^A-Za-z]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", folder))
    return {part.lower() for part in parts if part}


def _person(path: PurePosixPath) -> str:
    """Patient of a study: the BIDS subject, the nnU-Net case of a channel, or the study itself."""
    subject = next((part for part in path.parts if part.startswith("sub-")), None)
    if subject:
        return subject.split("_")[0]
    if any(IMAGE_FOLDER.fullmatch(part) for part in path.parts[:-1]):
        stem = stem_of(path.name)
        if CHANNEL.search(stem):
            return (path.parent / CHANNEL.sub("", stem)).as_posix()
    return path.as_posix()


def _attach(path: PurePosixPath, studies: list[FolderStudy]) -> bool:
    """Attach a mask to its studies; return False if there are none."""
    beside = [study for study in studies if study.path.parent == path.parent]
    # From the strongest sign to the weakest: name beside it, BIDS entities, folder.
    owners, column = _by_name(path, beside)
    if not owners:
        owners, column = _by_entities(path, studies)
    if not owners:
        owners, column = _by_folder(path, studies)
    if not owners:
        owners, column = _by_words_of_folder(path, studies)
    for study in owners:
        # A second mask for the same column keeps its own file name.
        name = column if column not in study.masks else f"{stem_of(path.name)}{MASK}"
        # The index joins mask names by commas.
        study.masks[name.replace(",", "_")] = path.as_posix()
    if len(owners) > 1:  # sequences of one person must stay in one split
        for study in owners:
            study.patient = owners[0].patient
    return bool(owners)


def _by_name(path: PurePosixPath, beside: list[FolderStudy]) -> tuple[list[FolderStudy], str]:
    """Studies of a mask's own folder that match its name, and the mask's column.

    A match is, in this order: the longest study name that the mask's name begins with; all names
    that begin with the mask's name (BraTS); the study with its number (LiTS), or the only one
    (KiTS).
    """
    stem = stem_of(path.name)
    # With `case_1` and `case_1_b`, the mask `case_1_b_seg` belongs to the longer one.
    longest = max(
        (one for one in beside if re.match(rf"{re.escape(one.stem)}[-_. ]", stem)),
        key=lambda one: len(one.stem),
        default=None,
    )
    if longest is not None:
        rest = stem[len(longest.stem) + 1 :].lower()
        part = re.fullmatch(rf"(?:{WORD})[-_. ]?(left|right|l|r)", rest)
        if part:
            rest = f"{part.groups()[-1]}{MASK}"
        return [longest], rest if rest.endswith(MASK) else f"region{MASK}"
    camel = CAMEL_END.sub("", stem)
    same = [one for one in beside if camel != stem and one.stem == camel]
    if same:
        return same, f"region{MASK}"
    base = MASK_END.sub("", stem)
    # BraTS: NAME_seg is the mask of every sequence NAME_t1, NAME_flair and so on.
    if base != stem and not stem.startswith("sub-"):
        return [
            one for one in beside if re.match(rf"{re.escape(base)}[-_]", one.stem)
        ], "region_mask"
    # LiTS: segmentation-0 belongs to volume-0.
    number = MASK_NAME.sub("", stem)
    if number:
        bare = number.lstrip("-_. ")
        beside = [one for one in beside if one.stem.endswith(number) or one.stem == bare]
    return (beside if MASK_NAME.match(stem) and len(beside) == 1 else []), f"region{MASK}"


def _entities(path: PurePosixPath) -> dict[str, str]:
    """BIDS entities of a file name, with its `suffix`; empty if the name is not BIDS."""
    words = stem_of(path.name).split("_")
    if not words[0].startswith("sub-") or len(words) < 2:
        return {}
    pairs = dict(word.partition("-")[::2] for word in words[:-1])
    return {**pairs, "suffix": words[-1]}


def _by_entities(path: PurePosixPath, studies: list[FolderStudy]) -> tuple[list[FolderStudy], str]:
    """Image of a BIDS mask with the same subject, session and so on, and the mask's column.

    Among several, `space-` or `orig-` decides. No image is returned if that is not clear.
    """
    mask = _entities(path)
    if not mask:
        return [], ""
    # Entities that a mask shares with its image. `label` and `desc` belong to the mask only.
    own = {key: mask[key] for key in ("sub", "ses", "acq", "run", "ce", "rec") if key in mask}
    images = [(study, _entities(study.path)) for study in studies]
    # The image must have each of them, with the same value; it may have more.
    images = [(study, have) for study, have in images if have and own.items() <= have.items()]
    if len(images) > 1:
        named = {mask.get("space", ""), mask.get("orig", "")}
        images = [(study, have) for study, have in images if have["suffix"] in named]
    name = mask.get("label") or mask.get("desc") or "region"
    return ([images[0][0]] if len(images) == 1 else []), f"{name.lower()}{MASK}"


def _by_folder(path: PurePosixPath, studies: list[FolderStudy]) -> tuple[list[FolderStudy], str]:
    """Studies of the mask's name in the matching image folder, and the mask's column.

    Otherwise the only study beside the mask's folder; then the files name the structures
    (TotalSegmentator).
    """
    if not any(LABEL_FOLDER.fullmatch(part) for part in path.parts[:-1]):
        return [], ""
    key = _key(path, LABEL_FOLDER)
    named = [one for one in studies if _key(one.path, IMAGE_FOLDER) == key]
    if named:
        return named, f"region{MASK}"
    beside = [study for study in studies if study.path.parent == path.parent.parent]
    return (beside if len(beside) == 1 else []), f"{stem_of(path.name)}{MASK}"


def _by_words_of_folder(
    path: PurePosixPath, studies: list[FolderStudy]
) -> tuple[list[FolderStudy], str]:
    """The only study of the mask's name beside its folder, whose other words name the structure.

    Source: Montgomery's radiographs have CXR_png/NAME and ManualMask/leftMask/NAME.
    """
    marked = [n for n, part in enumerate(path.parts[:-1]) if _words_of(part) & MASK_WORDS]
    if not marked:
        return [], ""
    top = PurePosixPath(*path.parts[: marked[0]])
    stem = MASK_END.sub("", stem_of(path.name))
    own = [one for one in studies if one.stem == stem and one.path.is_relative_to(top)]
    words = [w for n in marked for w in sorted(_words_of(path.parts[n]) - NO_STRUCTURE)]
    return (own if len(own) == 1 else []), f"{words[-1] if words else 'region'}{MASK}"


def _key(path: PurePosixPath, folder: re.Pattern) -> tuple[str, ...]:
    """Common key of a mask and its image.

    It has their folders, without the words for masks and images, and the name without mask ending
    and channel.
    """
    parts = []
    for part in path.parts[:-1]:
        word = folder.fullmatch(part)
        # Marked by a star and its kind: imagesTr and labelsTr both become `*tr`.
        parts.append(f"*{(word.groups()[-1] or '').lower()}" if word else part)
    stem = MASK_END.sub("", stem_of(path.name))
    return (*(part for part in parts if part != "*"), CHANNEL.sub("", stem))
