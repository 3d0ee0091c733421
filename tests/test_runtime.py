import pathlib
import platform
import subprocess
import sys

import pytest

HEAP = """
import resource
from welfare_jax import runtime
runtime.keep_heap()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
size = 64 << 20
for _ in range(3):
    before = faults()
    b"x" * size  # given back at once; numpy would ask for large pages by itself
    last = faults() - before
flags = [line.split()[1:] for line in open("/proc/self/smaps") if line.startswith("VmFlags")]
print(last, sum("hg" in f for f in flags))
"""

LIMITED = """
import os, resource
from welfare_jax import runtime
memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (memory, resource.RLIM_INFINITY))  # room for what it would take
runtime.keep_heap()
size = next(line for line in open("/proc/self/status") if line.startswith("VmSize"))
print(int(size.split()[1]) * 1024 / memory)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library's own heap is left as it is")
def test_keep_heap_gives_nothing_back_and_uses_large_pages():
    done = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True)
    faults, asked = map(int, done.stdout.split())
    assert faults < 16, "64 MiB that were given back are 16,384 faults, or 32 in large pages"
    if pathlib.Path("/sys/kernel/mm/transparent_hugepage").exists():
        assert asked, "no part of memory is marked for large pages"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library's own heap is left as it is")
def test_keep_heap_takes_no_addresses_where_they_are_limited():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5, "the part of the addresses allowed that is gone"


SIGNALLED = """
import os, signal, sys, time
from welfare_jax import errors, runtime
if "ignored" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
before = signal.getsignal(signal.SIGTERM)
try:
    with runtime.asked_to_end():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        print("went on")
except errors.Unfinished as error:
    print(error)
assert signal.getsignal(signal.SIGTERM) == before
"""


@pytest.mark.parametrize(("word", "said"), [("heard", "asked to end; the same command again"), ("ignored", "went on")])
def test_sigterm_ends_in_one_line(word, said):
    done = subprocess.run([sys.executable, "-c", SIGNALLED, word], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said)
