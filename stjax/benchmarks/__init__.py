"""What `stjax bench` measures, beside what it is measured against."""

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]  # {"what", "case", "method", "seconds", "speedup", "temp_bytes", "machine"} and what a case adds
Interleave = Callable[..., dict[str, float]]  # `stjax.bench.interleave`
