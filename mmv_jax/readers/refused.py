"""Refused: the exception for a file that does not become a Study.

Its code never changes meaning, and its reason quotes nothing of the file.
"""

from mmv_jax.errors import UserError

CODES = {
    "not_found": "no such file or folder, or no right to read it",
    "not_an_image": (
        "its content is no format that is read here, or it holds something else than an image"
    ),
    "bad_member": "an archive's member is a link, an archive, or has an unsafe or repeated name",
    "encrypted": "an archive asks for a password",
    "unreadable": "the library of its format gave up on it",
    "truncated": "it ends before its data do",
    "corrupt": "a checksum or a decoder says that bytes have changed",
    "detached_data": "its voxels lie in another file",
    "too_large": "it declares, or inflates to, more than the limits allow",
    "no_pixels": "there are no pixels",
    "bad_shape": "it does not hold exactly one image of two or three dimensions",
    "colour": "it is a colour picture",
    "burnt_in": "the header speaks of writing in the pixels",
    "unknown_encoding": "a transfer syntax or an encoding that is not read here",
    "not_finite": "a voxel is NaN or infinite",
    "constant": "every voxel has the same value",
    "bad_spacing": "a spacing is not a plausible number of millimetres",
    "no_orientation": "the file does not say how its axes lie in the patient",
    "spacing_mismatch": "the spacings of file and manifest contradict each other",
    "contradictory": "two statements of its header about one thing do not agree",
    "sheared": "its axes are not at right angles (a tilted gantry)",
    "several_series": "the folder holds more than one series",
    "mixed_orientation": "slices of one series lie in different directions",
    "mixed_size": "slices of one series differ in size or spacing",
    "mixed_unit": "slices of one series differ in what their values mean",
    "several_phases": "slices of several phases, stacks or acquisitions are mixed",
    "bad_slice": "a slice that is empty, repeated or shifted in value among the others",
    "missing_slices": "there are gaps between the slices",
    "duplicate_slices": "two slices lie at one position",
    "uneven_slices": "the distances between slices vary",
    "no_position": "slices or frames without a position",
    "not_hu": "the values cannot be Hounsfield units",
    "rescaled_twice": (
        "the values are Hounsfield units to which slope and intercept were applied once more"
    ),
    "not_binary": "a shape has other values than two",
    "fill_values": "most of its range is fill, which no tissue has",
    "mask_grid": "a mask that does not lie on its study's grid",
    "mask_values": "a mask whose values are not whole numbers from 0 to 32767",
    "lossy_mask": "a mask in a lossy format: its labels cannot be trusted",
    "missing_value": "a required cell of the manifest's line is empty",
    "rounded_id": "an id that a spreadsheet has rounded, so that several people share it",
    "bad_split": "the split is none of train, val, test",
    "duplicate_study": "the study_id stands in an earlier line",
    "patient_across_splits": "the patient's studies lie in more than one split",
    "bad_modality": "the modality is no short word",
    "timeout": "reading took too long",
    "decoder_died": "its decoder ended the process that read it",
    "bad_line": "the manifest's line has too few or too many cells",
}


class Refused(UserError):
    """A refused study. The other studies go on.

    Attributes:
      code: a word of `CODES`.
      reason: one sentence for a person. It may hold numbers of geometry, but no tag, cell or path.
    """

    def __init__(self, code: str, reason: str):
        assert code in CODES, code
        super().__init__(code, reason)
        self.code, self.reason = code, reason

    def __str__(self) -> str:
        return f"{self.reason} ({self.code})"
