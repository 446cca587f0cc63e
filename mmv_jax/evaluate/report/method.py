"""How the results of a page were measured, in words."""

SPLIT = (
    "Probes are fitted on train; their strength (and the threshold of masks) is chosen on val; then"
    " they are fitted on train and val together and measured once on test."
)
FOLDED = (
    "Train and val are cut into {folds} folds by patient. Each fold is measured by probes that are"
    " fitted on the others; their strength (and the threshold of masks) is chosen on the next fold,"
    " which is what “val” means on this page, by probes that have not seen it. Metrics and"
    " intervals are of all studies together."
)
METHOD = (
    (
        "The encoder is frozen. Classification is a logistic probe, regression a ridge probe,"
        " segmentation a linear map from each patch token to the voxels of its patch. {measured}"
        " The headline features are CLS and the mean of the patch tokens, joined. Heads, fine-tuned"
        " and supervised networks are fitted by gradient descent on train alone, since val decides"
        " when to stop. So a probe has more labels than they have."
    ),
    (
        "Floors: “random” is the same encoder with fresh weights, “pixels” the first 100 principal"
        " components of the study at low resolution (segmentation: of the patch's voxels), each"
        " with the same probe. The 95 % interval of an AUROC is a score interval with a design"
        " effect for several studies of a patient; all others are bootstrap intervals over 2,000"
        " draws of patients. Below 5 patients of a class none is given. Differences are tested on"
        " the same draws, and their p-values are corrected for the number of comparisons (Holm)."
    ),
    (
        "Dice, NSD and HD95 are means over the studies that have the structure, on the voxels"
        " of the study itself, so that all encoders are scored on the same truth. NSD and HD95"
        " weight surfaces by area. What is found in studies without the structure stands beside"
        " them. Thresholds are chosen on val studies with and without it."
    ),
)


def method(folds: int) -> list[str]:
    """The paragraphs of the report.

    Args:
      folds: of cross-validation; 0 where the store's test was measured.
    """
    measured = FOLDED.format(folds=folds) if folds else SPLIT
    return [METHOD[0].format(measured=measured), *METHOD[1:]]
