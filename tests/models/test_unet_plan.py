"""Plans beside those of nnU-Net v2 for the same studies."""

import numpy as np
import pytest

from mmv_jax.models.unet_plan import plan_unet, target_spacing

# (spacing, shape) of a study -> patch, how often each axis is halved, stages, batch, as planned by
# nnunetv2 2.8.1 (`ExperimentPlanner.get_plans_for_configuration`, 8 GB, two labels). Its 2D plans
# have no z. The batch is without its limit of 5 % of the data.
ONE, TWO, FLAT = (1, 1, 1), (2, 2, 2), (1, 2, 2)
CUBE, SLICE = (3, 3, 3), (1, 3, 3)
THEIRS = {
    ((1.0, 1.0, 1.0), (300, 400, 400)): ((112, 160, 128), (ONE, *[TWO] * 4, FLAT), (CUBE,) * 6, 2),
    ((5.0, 0.8, 0.8), (30, 512, 512)): (
        (16, 320, 320),
        (ONE, FLAT, FLAT, TWO, TWO, FLAT, FLAT),
        (SLICE, SLICE, *[CUBE] * 5),
        2,
    ),
    ((2.5, 1.5, 1.5), (80, 180, 220)): ((80, 160, 192), (ONE, *[TWO] * 4, FLAT), (CUBE,) * 6, 2),
    ((2.0, 1.5, 1.5), (12, 24, 20)): ((12, 24, 20), (ONE, TWO, FLAT), (CUBE,) * 3, 926),
    ((1.0, 0.14, 0.14), (1, 2500, 2048)): ((1, 1536, 1024), (ONE, *[FLAT] * 8), (SLICE,) * 9, 2),
    ((1.0, 0.35, 0.35), (1, 1024, 1024)): ((1, 1024, 1024), (ONE, *[FLAT] * 8), (SLICE,) * 9, 3),
    ((1.0, 3.0, 3.0), (1, 128, 128)): ((1, 128, 128), (ONE, *[FLAT] * 5), (SLICE,) * 6, 199),
}


def studies(spacing, shape, n=4):
    return np.tile(np.array(spacing, float), (n, 1)), np.tile(np.array(shape), (n, 1))


@pytest.mark.parametrize("case", THEIRS, ids=str)
def test_it_is_the_plan_of_nnunet(case):
    patch, strides, kernels, batch = THEIRS[case]
    plan = plan_unet(*studies(*case))
    assert plan.patch == patch
    assert plan.strides == strides
    assert plan.kernels == kernels
    assert plan.batch == batch
    most = 512 if plan.planar else 320
    assert plan.features == tuple(min(32 * 2**n, most) for n in range(len(strides)))


def test_less_memory_gives_a_smaller_patch_and_never_less_than_two_of_them():
    own = studies((1.0, 1.0, 1.0), (300, 400, 400))
    plans = [plan_unet(*own, memory_gib=gib) for gib in (32.0, 8.0, 2.0)]
    voxels = [int(np.prod(plan.patch)) for plan in plans]
    assert voxels[0] > voxels[1] > voxels[2]
    assert all(plan.batch >= 2 for plan in plans)
    assert len({plan.spacing_mm for plan in plans}) == 1


def test_slices_of_few_and_of_many_mm_are_resampled_towards_the_fine_ones():
    spacing = np.array([[6.0, 0.8, 0.8]] * 8 + [[2.0, 0.8, 0.8]] * 2)
    shapes = np.tile([30, 512, 512], (10, 1))
    # The 10th percentile of the slices, as 6 mm is more than three times 0.8 mm.
    assert target_spacing(spacing, shapes).tolist() == pytest.approx([2.0, 0.8, 0.8])
    # Of many slices, and of slices nearly as fine as the pixels, the median.
    assert target_spacing(spacing, np.tile([300, 512, 512], (10, 1)))[0] == 6.0
    assert target_spacing(spacing / [3, 1, 1], shapes)[0] == 2.0


def test_radiographs_have_a_planar_plan():
    plan = plan_unet(*studies((1.0, 0.14, 0.14), (1, 2500, 2048)))
    assert plan.planar and plan.spacing_mm == (1.0, 0.14, 0.14)
    assert plan.features[-1] == 512
    assert all(kernel[0] == stride[0] == 1 for kernel, stride in zip(plan.kernels, plan.strides))
    # Whole patches are halved without a rest.
    factors = np.prod(plan.strides, axis=0)
    assert not (np.array(plan.patch) % factors).any()
