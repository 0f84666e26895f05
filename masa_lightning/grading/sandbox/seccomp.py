"""The system calls that a sandbox refuses: what namespaces do not cover."""

from __future__ import annotations

import platform
import struct
import sys
from functools import cache
from typing import Final

from masa_lightning.grading.sandbox.remedy import REMEDY

# By machine: the name of its calls to the audit system, and the numbers of those that are refused.
CALLS: Final = {
    "x86_64": (0xC000003E, (41, 29, 64, 68, 319, 447, 101, 310, 311, 272, 308, 248, 249, 250, 298, 321, 323, 425)),
    "aarch64": (0xC00000B7, (198, 194, 190, 186, 279, 447, 117, 270, 271, 97, 268, 217, 218, 219, 241, 280, 282, 425)),
    # socket, shmget, semget, msgget, memfd_create, memfd_secret, ptrace, process_vm_readv, process_vm_writev, unshare,
    # setns, add_key, request_key, keyctl, perf_event_open, bpf, userfaultfd, io_uring_setup
}


@cache
def seccomp_filter() -> bytes:
    """Returns the seccomp filter as a classic BPF program: eight bytes an instruction.

    Raises:
        RuntimeError: If the numbers of this machine's calls are not known here.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in CALLS:
        raise RuntimeError(f"there is no sandbox for {sys.platform} on {machine}.\n{REMEDY}")
    audit, refused = CALLS[machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    program = [
        (load, 0, 0, 4),  # the machine of the call
        (equal, 1, 0, audit),
        (give, 0, 0, 0x80000000),  # calls of a 32-bit program: end the process
        (load, 0, 0, 0),  # its number
        (at_least, len(refused) + 1, 0, 0x40000000),  # x32's numbers
        *((equal, len(refused) - index, 0, number) for index, number in enumerate(refused)),
        (give, 0, 0, 0x7FFF0000),  # allow
        (give, 0, 0, 0x00050001),  # EPERM
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
