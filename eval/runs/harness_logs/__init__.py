"""Sample logs of evaluation harnesses: lm-evaluation-harness, lmms-eval and Inspect, found by what is in the file.

log        what is taken of a log, whatever harness wrote it
sample_lines  `samples_TASK_DATE.jsonl` of lm-evaluation-harness and `DATE_samples_TASK.jsonl` of lmms-eval
inspect_log   Inspect's `.eval` archives and `.json` logs
zip_members   members of a zip archive, also those that are compressed with zstd
as_run        the log's task, rows and manifest, as a run holds them

None of the harnesses is needed to read them.
"""

from .log import HarnessLog
from .read_log import is_log, read_log

__all__ = ["HarnessLog", "is_log", "read_log"]
