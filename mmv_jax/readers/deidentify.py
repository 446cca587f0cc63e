"""De-identification by allow-list: about forty numbers of a DICOM file may pass, and no text.

Names become keyed hashes. A list of tags to remove would miss the tags that nobody thought of. The
attributes are defined in DICOM PS3.3. Each number must lie in a plausible range, so an identifier
typed into a wrong field does not pass either.
"""

import hashlib
import hmac
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from mmv_jax.errors import UserError

NUMBERS = {  # DICOM keyword: (name in a Study, lowest, highest)
    "KVP": ("kvp", 1, 500),
    "XRayTubeCurrent": ("xray_tube_current_ma", 0, 5000),
    "ExposureTime": ("exposure_time_ms", 0, 1e6),
    "Exposure": ("exposure_mas", 0, 1e5),
    "ExposureIndex": ("exposure_index", 0, 1e5),
    "DeviationIndex": ("deviation_index", -100, 100),
    "RelativeXRayExposure": ("relative_xray_exposure", 0, 1e5),
    "EntranceDoseInmGy": ("entrance_dose_mgy", 0, 1e4),
    "OrganDose": ("organ_dose_dgy", 0, 100),
    "HalfValueLayer": ("half_value_layer_mm", 0, 50),
    "CTDIvol": ("ctdi_vol_mgy", 0, 1e4),
    "SliceThickness": ("slice_thickness_mm", 0, 100),
    "SpacingBetweenSlices": ("spacing_between_slices_mm", 0, 100),
    "GantryDetectorTilt": ("gantry_tilt_deg", -90, 90),
    "TableHeight": ("table_height_mm", -2000, 2000),
    "ReconstructionDiameter": ("reconstruction_diameter_mm", 0, 2000),
    "DataCollectionDiameter": ("data_collection_diameter_mm", 0, 2000),
    "SingleCollimationWidth": ("single_collimation_width_mm", 0, 500),
    "TotalCollimationWidth": ("total_collimation_width_mm", 0, 500),
    "SpiralPitchFactor": ("spiral_pitch_factor", 0, 10),
    "TableSpeed": ("table_speed_mm_s", 0, 1e4),
    "RevolutionTime": ("revolution_time_s", 0, 100),
    "DistanceSourceToDetector": ("source_to_detector_mm", 0, 1e4),
    "DistanceSourceToPatient": ("source_to_patient_mm", 0, 1e4),
    "EstimatedRadiographicMagnificationFactor": ("magnification", 0.5, 5),
    "ImagerPixelSpacing": ("imager_pixel_spacing_mm", 0, 50),
    "NominalScannedPixelSpacing": ("scanned_pixel_spacing_mm", 0, 50),
    "PixelSpacing": ("pixel_spacing_mm", 0, 50),
    "BodyPartThickness": ("body_part_thickness_mm", 0, 1000),
    "CompressionForce": ("compression_force_n", 0, 1000),
    "PositionerPrimaryAngle": ("positioner_primary_angle_deg", -360, 360),
    "PositionerSecondaryAngle": ("positioner_secondary_angle_deg", -360, 360),
    "BitsStored": ("bits_stored", 1, 64),
    "RepetitionTime": ("repetition_time_ms", 0, 1e5),
    "EchoTime": ("echo_time_ms", 0, 1e5),
    "FlipAngle": ("flip_angle_deg", 0, 360),
    "MagneticFieldStrength": ("magnetic_field_t", 0, 30),
}
# DICOM keyword: (name in a Study, word -> number). A word that is not listed does not pass.
CODED = {
    "ViewPosition": (
        "view",
        {
            "PA": 1,
            "AP": 2,
            "LL": 3,
            "RL": 4,
            "LATERAL": 3,
            "CC": 11,
            "MLO": 12,
            "ML": 13,
            "LM": 14,
            "XCCL": 15,
            "XCCM": 16,
        },
    ),
    "ImageLaterality": ("laterality", {"R": 1, "L": 2, "B": 3}),
    "Laterality": ("laterality", {"R": 1, "L": 2, "B": 3}),
    "BreastImplantPresent": ("breast_implant", {"NO": 0, "YES": 1}),
    "PresentationIntentType": ("for_presentation", {"FOR PROCESSING": 0, "FOR PRESENTATION": 1}),
}
VIEW_CODES = {  # SNOMED RT and CT codes of mammographic views (PS3.16 CID 4014) -> the words above
    "R-10242": "CC",
    "399162004": "CC",
    "R-10226": "MLO",
    "399368009": "MLO",
    "R-10224": "ML",
    "399260004": "ML",
    "R-10228": "LM",
    "399352003": "LM",
    "R-1024A": "XCCL",
    "399192008": "XCCL",
    "R-1024B": "XCCM",
    "399101009": "XCCM",
}
MAGNIFICATION_CODES = ("R-102D6", "399163009")  # CID 4015, view modifier "magnification"


@dataclass(frozen=True)
class Key:
    """The user's secret key, which turns names into pseudonyms.

    One key gives the same pseudonyms everywhere; two keys give unrelated ones.
    """

    secret: bytes

    @classmethod
    def create(cls, path: Path | str) -> "Key":
        """Write a new key to `path`: 32 random bytes as 64 hex digits, readable by its owner only.

        Raises:
          UserError: the file exists. A key is never overwritten: its pseudonyms cannot be remade
            without it.
        """
        secret = secrets.token_bytes(32)
        # Whole or not at all: a process that is killed must not leave half a key in its place. The
        # mode holds from the first byte.
        part = f"{path}.{secrets.token_hex(4)}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secret.hex() + "\n")
            # Fails if the file exists, with no moment between the check and the write.
            os.link(part, path)
        except FileExistsError:
            raise UserError(
                "There is a file where the new key should go; a key is never written over. Use it,"
                " or name another file."
            ) from None
        finally:
            os.unlink(part)
        return cls(secret)

    @classmethod
    def load(cls, path: Path | str) -> "Key":
        """Read a key that `create` wrote.

        Raises:
          UserError: the file cannot be read, or does not hold 64 hex digits.
        """
        try:
            secret = bytes.fromhex(Path(path).read_text(encoding="ascii"))
        except OSError:
            raise UserError(
                "The key file cannot be read. Give the key that the store was made with: --key"
                " FILE. If the store was moved, its key lies beside its old place as OLDNAME.key."
                " Without it nothing can be added to the store or taken out of it: ingest again,"
                " into another store."
            ) from None
        except ValueError:
            secret = b""
        if len(secret) != 32:
            raise UserError("The key file does not hold a key: 64 hex digits are expected.")
        return cls(secret)

    def hash(self, kind: str, text: str) -> str:
        """Pseudonym (16 hex digits) of the name `text`; `kind` is "study" or "patient".

        HMAC-SHA-256: without the key nobody can find a name by trying many.
        """
        # The zero byte separates kind and text: no two pairs make the same message.
        return hmac.new(self.secret, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()[:16]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that identify the key without revealing it."""
        return self.hash("fingerprint", "")


def allowed_numbers(dataset: Dataset) -> Mapping[str, float]:
    """Numbers of `dataset` that may pass, by their names in a Study.

    Each is finite and in its range. Of several values the first is taken.
    """
    found: dict[str, float] = {}
    for keyword, (name, low, high) in NUMBERS.items():
        number = number_of(dataset, keyword)
        if number is not None and low <= number <= high:
            found[name] = number
    for keyword, (name, words) in CODED.items():
        word = str(dataset.get(keyword, "")).strip().upper()
        if word in words:
            # ImageLaterality comes first: it belongs to the image, Laterality to the series.
            found.setdefault(name, float(words[word]))
    codes = _codes(dataset)
    # A coded view takes precedence over the word in ViewPosition.
    for code in codes:
        if code in VIEW_CODES:
            found["view"] = float(CODED["ViewPosition"][1][VIEW_CODES[code]])
    # Without codes, magnification is unknown; 0 would claim that there is none.
    if codes:
        found["magnification_view"] = float(any(code in MAGNIFICATION_CODES for code in codes))
    return found


def number_of(dataset: Dataset, keyword: str, index: int = 0) -> float | None:
    """Finite number at `index` of an attribute.

    None where the attribute is missing, is not a number or has too few values. Text of a wrong VR
    (OB, LT) is read as the text that it is: its first byte is no number.
    """
    try:
        value = dataset.get(keyword)
        if isinstance(value, bytes):
            value = value.decode("ascii").strip("\0 ")
        if isinstance(value, str):
            value = value.split("\\")
        # A single number stands for itself alone, not for each of several.
        number = float(value[index] if hasattr(value, "__getitem__") else (value,)[index])
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _codes(dataset: Dataset) -> list[str]:
    """Code values of a mammogram's view and its modifiers."""
    views = list(dataset.get("ViewCodeSequence") or [])
    modifiers = [item for view in views for item in view.get("ViewModifierCodeSequence") or []]
    return [str(item.get("CodeValue", "")) for item in views + modifiers]
