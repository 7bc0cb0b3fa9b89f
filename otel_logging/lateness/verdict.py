"""Was a stage late, and by how much? Pure, shared by the side that writes and the side that reads.

In: a latency and a budget, both seconds. Out: seconds. Deliberately absent:
clocks, spans, files.
"""


def late_by(latency_s: float, budget_s: float | None) -> float | None:
    """Return by how many seconds *latency_s* is over *budget_s*; None where it is not,
    or where there is no budget.
    """
    if budget_s is None or latency_s <= budget_s:
        return None
    return latency_s - budget_s
