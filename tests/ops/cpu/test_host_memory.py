import subprocess
import sys

import pytest

FREE_IN_THE_MIDDLE = """
import re
from stjax.ops.cpu import host_memory

def resident():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmRSS:\\s+(\\d+) kB", status.read())[1]) / 1000

assert host_memory.keep_freed_memory()
blocks = [bytearray(b"x") * 1_000_000 for _ in range(300)]
last = blocks.pop()
full = resident()
del blocks
kept = resident()
host_memory.return_freed_memory()
print(full - kept, kept - resident(), len(last))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_kept_until_it_is_returned():
    result = subprocess.run([sys.executable, "-c", FREE_IN_THE_MIDDLE], capture_output=True, text=True, check=True)
    freed_at_once, returned, _ = map(float, result.stdout.split())
    assert freed_at_once < 10
    assert returned > 270
