"""What `stjax bench` measures, and the references it is compared with."""

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]  # {"what", "case", "method", "seconds", "speedup", "temp_bytes", "machine"} and what a case adds
Interleave = Callable[..., dict[str, float]]  # `stjax.bench.interleave`


def row_of(case: str, method: str, seconds: float, reference: float | None = None, **more: Any) -> Row:
    """A row, without what all have of the command; `reference`: the seconds that the speed-up is against."""
    speedup = None if reference is None else reference / seconds
    return {"case": case, "method": method, "seconds": seconds, "speedup": speedup, "temp_bytes": None} | more
