"""What to do about a line that was refused or told: a sentence a code, for whoever manages data."""

AGAIN = "then run mmv ingest again: refused lines are tried anew"
ADVICE = {
    "not_found": f"correct the path or copy the file, {AGAIN}",
    "not_an_image": "take the line out of the manifest, or convert the file",
    "bad_member": "unpack the archive, and look at what it holds",
    "encrypted": "unpack the archive with its password, and list the folder",
    "unreadable": "open it with the vendor's software and export it again",
    "truncated": f"the download or copy broke off: fetch it again, {AGAIN}",
    "corrupt": f"fetch it again, {AGAIN}",
    "detached_data": "write the volume as one file (.mha, .nrrd or .nii.gz)",
    "too_large": "raise the machine's memory, or cut the volume",
    "colour": "take out the writing, or take it in with --burnt-in warn or mask",
    "burnt_in": "look at it; --burnt-in mask blanks what looks like writing",
    "unknown_encoding": "convert it to a plain transfer syntax (dcmdjpeg, gdcmconv)",
    "bad_spacing": "ask where the file comes from: its millimetres are no body's",
    "spacing_mismatch": "correct spacing_mm in the manifest, or leave it empty",
    "contradictory": "ask which of its two statements is right, and write the file anew",
    "sheared": "undo the tilt of the gantry (dcm2niix does), and list the result",
    "several_series": "list the folder by mmv manifest folder: each series becomes a line",
    "several_phases": "give each phase a folder and a line of its own",
    "missing_slices": f"fetch the whole series, {AGAIN}",
    "duplicate_slices": "remove the second copy of the slices",
    "not_hu": "leave the unit empty, or find the file's slope and intercept",
    "rescaled_twice": "use the release whose values are in HU as they stand",
    "mask_grid": "resample the mask onto its study's grid",
    "lossy_mask": "write the mask as PNG or NIfTI",
    "missing_value": "fill the cell",
    "rounded_id": "export the ids as text, with all their digits",
    "bad_split": "write train, val or test",
    "duplicate_study": "give each study an id of its own, or take the line out",
    "patient_across_splits": "put all of the patient's studies into one split",
    "bad_modality": "write a short word such as CXR or CT",
    "timeout": "raise --timeout, or copy the files to a faster disk",
    "decoder_died": "export the file again: its decoder crashed on it",
    "bad_line": "quote cells that hold the separator",
    "fill_values": "nothing, if the values outside of the body are of no interest",
    "same_slices": "look at it: one slice may have been copied",
    "mixed_settings": "look at it: two scans may have been joined to one series",
    "fewer_slices": "fetch the rest of the series, and ingest again",
    "odd_hu": "leave the unit empty, or find the values before the window",
    "stray_files": "nothing, if the files are reports or thumbnails",
    "odd_column": "rename the column as the warning says",
    "odd_numbers": "write numbers with a point, without units",
    "word_for_missing": "write another word where it is a class",
    "file_twice": "take one of the two lines out",
    "third_value": "decide what the value means, and write 0, 1 or an empty cell",
    "differs_from_store": "mmv ingest --correct takes the manifest's line",
    "image_across_splits": "remove one of the two, or put both patients into one split",
    "near_duplicate_across_splits": "look at both; put them into one split if they are one image",
}
LOOK = "look at the file"


def advice_on(code: str) -> str:
    """What can be done about a code of quarantine.jsonl or warnings.jsonl."""
    return ADVICE.get(code, LOOK)
