"""Tasks: families of networks with metrics. `get_task(name)` makes one."""

from g_pt.tasks.registry import BUILT_IN as BUILT_IN
from g_pt.tasks.registry import base_task as base_task
from g_pt.tasks.registry import get_family as get_family
from g_pt.tasks.registry import get_task as get_task
from g_pt.tasks.registry import is_family as is_family
from g_pt.tasks.registry import is_registered as is_registered
from g_pt.tasks.registry import register_task as register_task
from g_pt.tasks.registry import registered_task as registered_task
from g_pt.tasks.registry import task_names as task_names
