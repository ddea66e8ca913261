"""Does a task, an update rule or an optimizer keep its promises? One line in a test of yours says what is wrong."""

from g_pt.testing.learned_checks import check_learned_optimizer as check_learned_optimizer
from g_pt.testing.rule_checks import check_optimizer as check_optimizer
from g_pt.testing.rule_checks import check_rule as check_rule
from g_pt.testing.task_checks import check_task as check_task
