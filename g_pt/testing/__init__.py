"""Does a task keep its promises? `check_task(MyTask())` in a test of yours says what is wrong, and what to do."""

from g_pt.testing.task_checks import check_task as check_task
