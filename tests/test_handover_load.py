"""The small form of benchmarks/handover.py: many users, shared workers, pools beside them."""

import json

from tests.lines import ROOT
from tests.programs import child_environment, good, python


def test_no_item_and_no_context_changes_hands() -> None:
    """For each kind of queue and for ``each``; waits are right within 2 ms at the median."""
    script = ROOT / "benchmarks" / "handover.py"
    options = ("--users", 20, "--items", 200, "--json")
    rows = json.loads(good(python(script, *options, env=child_environment())).stdout)
    assert len(rows) == 14
    for name, row in rows.items():
        assert (row["items"], row["wrong"], row["contexts_changed"]) == (200, 0, 0), name
        assert row["wait_error_ms"] < 2, name
        assert row["used_beside"] == 100
