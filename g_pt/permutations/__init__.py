"""Which units of a network can be reordered without changing its function, and how that is found out.

A spec (`spec.py`) holds the answer and reorders networks; `blocks.py` is what it says of an axis, `units.py` collects
the numbers that belong to each unit, `matching.py` finds the order in which two networks are closest. The other files
derive a spec: `tracing.py` reads the graph of a network's operations, `rules.py` (with `channel_rules.py` and
`recurrent_rules.py`) and `axis_views.py` say what each operation does to the axes, `axis_groups.py` collects which of
them move together, `checks.py` compares outputs before and after.
"""

from g_pt.permutations.blocks import AxisBlock as AxisBlock
from g_pt.permutations.spec import PermutationSpec as PermutationSpec
