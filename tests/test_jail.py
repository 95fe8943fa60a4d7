"""Attacks on the sandbox for model-written Python. Each says what it got; none may get anything."""

from __future__ import annotations

import os
import shutil
import socket
import time

import psutil
import pytest

from tasks import jail as jails
from tasks.agents.actions import program
from tasks.jail import Finished, Jail
from tasks.sandbox import SandboxError, SandboxUnavailable
from tasks.agents.tools import Action, ActionError

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason=f"no bubblewrap here: {jails.REMEDY}")


@pytest.fixture(scope="module")
def jail():
    try:
        return Jail(seconds=1.5)
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@needs_bubblewrap
def test_it_computes_with_the_standard_library_and_scratch_files(jail):
    code = ("import json, math\nopen('x.json', 'w').write(json.dumps(math.factorial(5)))\n"
            "print(open('x.json').read(), '茶')")
    assert jail.run(code) == Finished(0, "120 茶\n")
    assert jail.run("import os; print(os.listdir('.'))") == Finished(0, "[]\n"), "nothing is carried over"


READS = ["/etc/passwd", "/etc/shadow", "/root", "/home", "/proc/1/root/etc/passwd", "/proc/self/root/etc/passwd",
         "/proc/sys/kernel/core_pattern", "/proc/kcore", "/sys", "/dev/sda", "/dev/mem", "/run", "/var", __file__]


@needs_bubblewrap
def test_secrets_and_environment(jail, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    code = f"""
import os
got = []
for path in {READS!r}:
    try:
        got.append((path, os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(64)))
    except OSError:
        pass
print([name for name, value in got if name != '/proc/sys/kernel/core_pattern'], 'hunter2' in str(os.environ))
others = [p for p in os.listdir('/proc') if p.isdigit() and p != '1']
print(any(b'hunter2' in open(f'/proc/{{p}}/environ', 'rb').read() for p in others))
try:
    open('/proc/sys/kernel/core_pattern', 'w').write('|/bin/sh')
except OSError as error:
    print('refused')
"""
    assert jail.run(code) == Finished(0, "[] False\nFalse\nrefused\n")


WRITES = ["/usr/x", "/etc/x", "/x", "/bin/x", "/proc/x", "/dev/x", "/lib/x", "../x"]


@needs_bubblewrap
def test_writes_outside_links_and_devices(jail):
    code = f"""
import os
for path in {WRITES!r}:
    try:
        open(path, 'w').write('x'); print('wrote', path)
    except OSError:
        pass
os.symlink('/etc/passwd', 'link')
for attempt in (lambda: open('link').read(), lambda: os.link('/usr/bin/python3', 'hard'),
                lambda: os.mknod('device', 0o60600, os.makedev(8, 0)), lambda: os.chroot('/tmp'),
                lambda: os.chmod('/usr', 0o777), lambda: os.setuid(0)):
    try:
        attempt(); print('done')
    except OSError:
        pass
"""
    assert jail.run(code) == Finished(0, "")


@needs_bubblewrap
def test_ways_through_proc(jail):
    """Other roots, open files, memory and directories of processes, and the terminal: none leads out."""
    code = """
import fcntl, glob, os, termios
host = []
for path in glob.glob('/proc/[0-9]*/root/etc/*') + glob.glob('/proc/*/cwd/etc/*') + glob.glob('/proc/*/fd/*'):
    try:
        name = os.readlink(path)
        if name.startswith('/') and not name.startswith(('/dev', '/proc', '/usr', '/tmp')):
            host.append((path, name))
    except OSError:
        pass
for path in glob.glob('/proc/[0-9]*/root/root') + glob.glob('/proc/[0-9]*/root/home'):
    host.append(path)
print(host)
for path in ('/proc/1/mem', '/proc/1/environ', '/proc/sysrq-trigger', '/proc/self/uid_map', '/proc/self/attr/current',
             '/proc/self/oom_score_adj', '/proc/sys/kernel/hostname', '/proc/sys/vm/overcommit_memory'):
    try:
        with open(path, 'r+b') as file:
            file.write(b'0 0 1' if path.endswith('map') else b'-1000'); file.flush(); print('wrote', path)
    except OSError:
        pass
try:
    fcntl.ioctl(0, termios.TIOCSTI, b'x'); print('typed')
except OSError:
    pass
try:
    os.open('/dev/tty', os.O_RDWR); print('terminal')
except OSError:
    pass
print(os.getuid(), sorted(name for name in os.listdir('/dev') if name in ('sda', 'mem', 'kmsg', 'kvm', 'fuse', 'net')))
print(sum(map(str.isdigit, os.listdir('/proc'))) <= 3)
"""
    assert jail.run(code) == Finished(0, f"[]\n{jails.NOBODY if os.geteuid() == 0 else os.getuid()} []\nTrue\n")


@needs_bubblewrap
def test_links_laid_for_the_next_run_lead_nowhere(jail):
    jail.run("import os\nos.symlink('/', 'out'); os.mkfifo('pipe'); os.symlink('/proc/1/root', 'root')")
    assert jail.run("import os; print(os.listdir('/tmp'))") == Finished(0, "[]\n")
    assert jail.run("import os\nos.symlink('/proc/1/root', 'r'); print(os.path.exists('r/etc/passwd'), "
                    "os.path.exists('r/root'))") == Finished(0, "False False\n")


@needs_bubblewrap
def test_network(jail):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        code = f"""
import socket
for family, address in ((socket.AF_INET, ('127.0.0.1', {server.getsockname()[1]})), (socket.AF_INET, ('8.8.8.8', 53)),
                        (socket.AF_UNIX, '/run/docker.sock'), (socket.AF_UNIX, '\\0abstract')):
    try:
        socket.socket(family, socket.SOCK_STREAM).connect(address); print('reached', address)
    except OSError:
        pass
print(socket.gethostname())
"""
        assert jail.run(code) == Finished(0, "sandbox\n")
        with pytest.raises(BlockingIOError):  # nobody has connected
            server.accept()


@needs_bubblewrap
def test_kernel_doors(jail):
    """ptrace, namespaces, mounts, foreign memory, BPF, io_uring, keyrings: EPERM from the filter."""
    code = """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
calls = dict(ptrace=(101, 16, os.getppid(), 0, 0), unshare=(272, 0x10000000), mount=(165, 0, 0, 0, 0, 0),
             process_vm_readv=(310, os.getppid(), 0, 0, 0, 0, 0), bpf=(321, 0, 0, 0), io_uring=(425, 1, 0),
             keyctl=(250, 0, 0), setns=(308, 0, 0), userfaultfd=(323, 0), x32_getpid=(0x40000000 + 39,),
             memfd_create=(319, b'm', 0), memfd_secret=(447, 0), shmget=(29, 0, 1 << 30, 0o1777))
for name, call in calls.items():
    done, error = c.syscall(*call), ctypes.get_errno()
    if (done, error) != (-1, 1):
        print(name, done, error)
print('tried', len(calls))
"""
    if os.uname().machine != "x86_64":
        pytest.skip("the call numbers above are x86-64's")
    assert jail.run(code) == Finished(0, "tried 13\n")


@needs_bubblewrap
def of_others(pid, before):
    """Whether another test's process, beside us, started it; one that outlived its sandbox has init for a parent."""
    ours = {1, os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    try:
        return any(str(parent.pid) in before and parent.pid not in ours for parent in psutil.Process(pid).parents())
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("code, reason", [
    ("while True: pass", "stopped after"), ("import time; time.sleep(60)", "stopped after"),
    ("import os\nwhile os.fork() >= 0: pass", None),
    ("import signal\nsignal.signal(15, 1)\nwhile 1: pass", "stopped after"),
    ("while True: print('x' * 1000)", "wrote more"), ("import sys\nwhile True: sys.stderr.write('x')", "wrote more"),
    ("x = 'a' * (4 << 30)", None), ("x = []\nwhile True: x.append(bytes(1 << 20))", None),
    ("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))", None),
    ("import os\nfor n in range(10**6): open(f'f{n}', 'w').write('x' * 10**5)", None),
    ("import os\nif os.fork() == 0:\n os.setsid()\n import time; time.sleep(60)\nos._exit(0)", None),
    ("def f(): f()\nimport sys; sys.setrecursionlimit(10**9); f()", None),
    ("import os; os.kill(1, 9); os.kill(-1, 9)", None),
    # each process within its own limit, all together beyond it
    ("import os, time\nfor _ in range(5): os.fork()\nx = bytearray(200 << 20); time.sleep(9)", "took more than"),
    ("import threading\nwhile True: threading.Thread(target=threading.Event().wait).start()", None),
    ("print('x' * (1 << 30))", None), ("import os\nwhile True: os.write(2, b'x' * 65536)", "wrote more"),
])
def test_bombs_end(jail, code, reason):
    before, start = set(os.listdir("/proc")), time.monotonic()
    try:
        finished = jail.run(code)
        assert reason is None and finished.status != 0 or "fork" in code or "kill" in code
    except SandboxError as error:
        assert "\n" not in str(error) and (reason is None or reason in str(error))
    assert time.monotonic() - start < jail.seconds + 3
    time.sleep(0.2)
    left = [pid for pid in set(os.listdir("/proc")) - before
            if pid.isdigit() and b"-I\0-S\0-B" in cmdline(pid) and not of_others(int(pid), before)]
    assert not left, "a process outlived its sandbox"


def cmdline(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


@needs_bubblewrap
def test_bad_programs(jail):
    assert jail.run("print(").status == 1 and "SyntaxError" in jail.run("print(").output
    assert jail.run("") == Finished(0, "")
    assert jail.run("x = '\x00'").status == 1
    with pytest.raises(SandboxError, match="at most"):
        jail.run("#" * (jails.SOURCE + 1))


@needs_bubblewrap
def test_as_an_action(jail):
    action = Action.of(program.action(jail))
    assert action.call('{"code": "print(sum(range(10)))"}') == "45"
    with pytest.raises(ActionError, match="ZeroDivisionError"):
        action.call('{"code": "1 / 0"}')


def test_where_isolation_is_missing_it_refuses(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="bwrap not found; install bubblewrap"):
        Jail()


def test_a_bubblewrap_that_does_not_isolate_is_refused(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != "--" ]; do shift; done; shift; exec "$@"\n')
    fake.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxUnavailable, match="sandbox"):
        Jail()


@needs_bubblewrap
def test_a_processor_without_a_filter_is_refused(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "mips")
    with pytest.raises(SandboxUnavailable, match="no seccomp filter for mips"):
        Jail()
