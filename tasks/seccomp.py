"""A seccomp filter as bubblewrap takes it: system calls that sandboxed code has no business with fail with EPERM.

Namespaces already hide files, processes and the network; this narrows the kernel that code can reach at all: no
tracing, no new namespaces, no mounts, no keyrings, no BPF, no io_uring, no foreign memory, no memory that belongs to no
process (memfd, System V: no limit of ours would count it). Classic BPF, assembled by
hand (linux/filter.h, linux/seccomp.h): the filter is forty instructions, a library for it would be larger.
"""

from __future__ import annotations

import platform
import struct

from tasks.sandbox import SandboxUnavailable

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, RETURN = 0x20, 0x15, 0x35, 0x06   # BPF_LD|W|ABS, BPF_JMP|JEQ|K, |JGE|K, BPF_RET|K
NUMBER, MACHINE = 0, 4                                                 # offsets in struct seccomp_data
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000               # SECCOMP_RET_ALLOW, _ERRNO|EPERM, _KILL_PROCESS
X32 = 0x40000000                                                       # x86-64's second numbering of the same calls
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}               # AUDIT_ARCH_*
REFUSED = {  # name -> (x86-64, AArch64), from asm/unistd.h
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430),
    "fsmount": (432, 432), "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442),
    "unshare": (272, 97), "setns": (308, 268), "clone3": (435, 435), "mknodat": (259, 33), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "quotactl": (179, 60), "pidfd_getfd": (438, 438),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "mq_open": (240, 180),
    "syslog": (103, 116), "settimeofday": (164, 170), "clock_settime": (227, 112), "personality": (135, 92),
}
NO_SUCH_CALL = 0x00050026   # ENOSYS: libc then falls back to clone, which the namespaces' own flags guard


def program() -> bytes:
    """The filter for this machine. Raises SandboxUnavailable on a processor whose call numbers are not here."""
    machine = platform.machine()
    if machine not in MACHINES:
        raise SandboxUnavailable(f"no sandbox for model-written Python: no seccomp filter for {machine}, only for "
                                 f"{', '.join(MACHINES)}")
    column = list(MACHINES).index(machine)
    lines = [(LOAD, 0, 0, MACHINE), (JUMP_EQUAL, 1, 0, MACHINES[machine]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if machine == "x86_64":
        lines += [(JUMP_GREATER_EQUAL, 0, 1, X32), (RETURN, 0, 0, REFUSE)]
    for name, numbers in sorted(REFUSED.items()):
        lines += [(JUMP_EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, NO_SUCH_CALL if name == "clone3" else REFUSE)]
    lines.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("<HBBI", *line) for line in lines)
