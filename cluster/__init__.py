"""WHERE trials run: Ray sessions, placement groups and warm gangs of ranks."""

import os

# Ray prints the death of every worker on its driver's standard output, whatever ``log_to_driver``
# says, and reads this when it is imported. An executor reports a death as an outcome instead.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
