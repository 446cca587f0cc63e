"""Collectives of TPU programs: the forms in which the compiler writes their groups and
reduce-scatters.
"""

import pytest

from mmv_jax.preflight import hlo

# As libtpu writes the gradient of a layer's kernel that four chips share, on two replicas: summed
# among four, of which each keeps its quarter, and then between the two.
SCATTER = """
%all-reduce-scatter.5 (input: bf16[384,1152]) -> bf16[384,288] {
  %input = bf16[384,1152]{0,1} parameter(0)
  %all-reduce.1 = bf16[384,1152]{0,1} all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %slice = bf16[384,288]{0,1} dynamic-slice(%all-reduce.1), dynamic_slice_sizes={384,288}
}

ENTRY %main (p: bf16[384,1152]) -> bf16[384,288] {
  %p = bf16[384,1152]{0,1} parameter(0)
  %fusion = bf16[384,288]{0,1} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.5
  ROOT %all-reduce.2 = bf16[384,288]{0,1} all-reduce(%fusion), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, to_apply=%add
}
"""  # noqa: E501


def test_a_reduce_scatter_that_is_written_as_an_all_reduce_is_counted_as_what_it_is():
    whole = 384 * 1152 * 2
    assert hlo.count(SCATTER).sent == {
        "reduce-scatter": 3 / 4 * whole,  # half of what an all-reduce sends
        "all-reduce": 2 * 1 / 2 * whole / 4,
    }


@pytest.mark.parametrize(
    "groups, size",
    [
        ("mesh['axis_0'=1,'axis_1'=4,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", 4),
        ("mesh['axis_0'=8,'axis_1'=2] {'axis_0','axis_1'}, use_global_device_ids=true", 16),
        ("mesh['axis_0'=8] {'axis_0':(2)4}", 4),
    ],
)
def test_groups_by_the_axes_of_a_mesh(groups, size):
    assert hlo.group_size(f"channel_id=7, replica_groups={groups}") == size
