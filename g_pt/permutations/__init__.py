"""Which units of a network can be reordered without changing its function, and how that is found out.

`spec.py` is all that the rest of the library knows of: a spec holds the answer and reorders networks. The other
files derive one: `tracing.py` reads the graph of a network's operations, `rules.py` (with `channel_rules.py` and
`recurrent_rules.py`) and `axis_views.py` say what each operation does to the axes, `axis_groups.py` collects which of
them move together, `checks.py` compares outputs before and after.
"""

from g_pt.permutations.spec import AxisBlock as AxisBlock
from g_pt.permutations.spec import PermutationSpec as PermutationSpec
