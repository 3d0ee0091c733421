"""Process-wide set-up, done once by the commands before the first compilation."""

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import signal
import sys
import threading

from welfare_jax.errors import Unfinished


def keep_heap():
    """Let glibc keep freed memory, in large pages. A no-op on other C libraries and wherever it fails.

    XLA's CPU backend takes temporary buffers from malloc at every call and glibc returns them to the kernel; the page
    faults cost up to a third of a rollout. Library users who want it call it themselves: importing never does.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    # Threads keep arenas of their own for what is small: in one for all they wait for each other, and large buffers
    # come back between small ones that are still in use.
    mmap_max, trim_threshold, top_pad = -4, -1, -2
    for option, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 256 << 20)):
        libc.mallopt(option, value)
    if _address_space_is_free():
        _large_pages(libc)


def _address_space_is_free() -> bool:
    """Whether addresses cost nothing until they are touched: no limit on them, and no strict account of them."""
    try:
        with open("/proc/sys/vm/overcommit_memory") as mode:
            strict = mode.read().strip() == "2"
    except OSError:
        return False
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return not strict and all(limit == resource.RLIM_INFINITY for limit in limits)


def _large_pages(libc):
    """Take half of the machine's memory as heap, ask the kernel for pages of 2 MB there, give it back to malloc."""
    page, advice = 2 << 20, 14  # MADV_HUGEPAGE
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if heap := libc.malloc(room):
        first = -(-heap // page) * page
        libc.madvise(first, (heap + room - first) // page * page, advice)
        libc.free(heap)


def peak_bytes() -> int:
    """The most memory that this process has held, in bytes.

    `getrusage` would count what a parent held when it started this process, so Linux's own figure goes first.
    """
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def asked_to_end():
    """SIGTERM ends what runs inside as Ctrl-C does: after the computation under way, with what was written kept.

    It raises `Unfinished`, so that launchers start the same command again. What handles the signal better meanwhile
    (`train.monitors.PreemptionNotice`) does. Outside the main thread, and where the signal is ignored, nothing
    changes.
    """

    def end(*_):
        raise Unfinished("asked to end; the same command again goes on with what is not done yet")

    main = threading.current_thread() is threading.main_thread()
    old = signal.signal(signal.SIGTERM, end) if main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL else None
    try:
        yield
    finally:
        if old is not None:
            signal.signal(signal.SIGTERM, old)


def claim_gpu():
    """Let JAX have 92 % of a GPU's memory, where its own default is 75 %; the environment's own value goes first."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")


def quiet():
    """Silence C++ and tokenizer chatter that would bury the one line a user needs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    shown = sys.unraisablehook

    def hook(unraisable):
        # TensorStore's threads say this where a write failed and nobody waits for its other parts any more.
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = hook


FULL = tuple(os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO))


def no_room(error) -> str | None:
    """The file system's complaint that something could not be written, where `error` is one or carries one."""
    while error is not None:
        said = next((text for text in FULL if text in str(error)), None)
        if said:
            return said
        error = error.__cause__ or error.__context__
    return None


def write_whole(path, text: str):
    """Write a file whole or not at all, whoever else writes it meanwhile."""
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(text)
    fresh.replace(path)


def write_json(path, tree):
    write_whole(path, json.dumps(tree, indent=1) + "\n")
