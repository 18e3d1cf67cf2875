"""Runs a program again and again, and makes one of its system calls fail, tears it, or kills the program there.

Each line of standard input is `MODE NUMBER ROOT ARGUMENT...`: the program is run with ARGUMENT... and ROOT, and its NUMBERth
call that may change the file system is dealt with:

  count  nothing is done
  kill   the program is killed before the call
  tear   the call is done, a write half of it, and the program is killed
  fail   the call does not happen and returns EIO
  full   this call and all later ones that need space do not happen and return ENOSPC

The answer is a line `exit STATUS CALLS` or `signal NUMBER CALLS`: how it ended, and the names of such calls, joined by
commas: of all of them, or only of the one that NUMBER meant.
"""

import ctypes
import os
import signal
import sys

CALLS = {
    1: "write", 18: "pwrite64", 20: "writev", 74: "fsync", 75: "fdatasync", 76: "truncate", 77: "ftruncate",
    82: "rename", 83: "mkdir", 84: "rmdir", 85: "creat", 86: "link", 87: "unlink", 88: "symlink", 90: "chmod",
    91: "fchmod", 92: "chown", 93: "fchown", 94: "lchown", 133: "mknod", 188: "setxattr", 189: "lsetxattr",
    190: "fsetxattr", 258: "mkdirat", 259: "mknodat", 260: "fchownat", 263: "unlinkat", 264: "renameat",
    265: "linkat", 266: "symlinkat", 268: "fchmodat", 280: "utimensat", 285: "fallocate", 316: "renameat2",
    452: "fchmodat2", 2: "open", 257: "openat", 306: "syncfs", 326: "copy_file_range",
}
NEED_SPACE = {"write", "pwrite64", "writev", "ftruncate", "mkdir", "creat", "symlink", "mknod", "mkdirat", "mknodat",
              "symlinkat", "fallocate", "open", "openat", "copy_file_range"}
TORN = {"write", "pwrite64"}
REGISTERS = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base "
             "ds es fs gs").split()
TRACEME, GETREGS, SETREGS, SYSCALL, SETOPTIONS = 0, 12, 13, 24, 0x4200
SYSGOOD, EXITKILL = 1, 0x100000
EIO, ENOSPC = 5, 28
O_CREAT = 0o100


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in REGISTERS]


libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request, pid, data=None):
    if libc.ptrace(request, pid, None, data) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace {request}: {os.strerror(error)}")


def start(program, arguments):
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            ptrace(TRACEME, 0)
            os.execv(program, [program, *arguments])
        finally:
            os._exit(126)
    return pid


def call_of(registers):
    """The name of a call that may change the file system."""
    name = CALLS.get(registers.orig_rax)
    if name in ("write", "writev") and registers.rdi <= 2:
        return None
    if name == "open" and not registers.rsi & O_CREAT or name == "openat" and not registers.rdx & O_CREAT:
        return None
    return name


def run(program, mode, number, arguments):
    pid = start(program, arguments)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        raise OSError(f"the program could not be traced: status {status}")
    ptrace(SETOPTIONS, pid, SYSGOOD | EXITKILL)
    registers = Registers()
    count, meant, entering, pending = 0, [], True, None
    deliver = None
    while True:
        try:
            ptrace(SYSCALL, pid, deliver)
        except ProcessLookupError:
            # It has been killed, and is waited for.
            pass
        deliver = None
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            return f"exit {os.WEXITSTATUS(status)} {','.join(meant)}"
        if os.WIFSIGNALED(status):
            return f"signal {os.WTERMSIG(status)} {','.join(meant)}"
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            deliver = os.WSTOPSIG(status)
            continue
        if entering:
            ptrace(GETREGS, pid, ctypes.byref(registers))
            name = call_of(registers)
            if name:
                count += 1
                if number in (0, count):
                    meant.append(name)
                pending = enter(pid, mode, count - number, name, registers)
        elif pending == "kill":
            os.kill(pid, signal.SIGKILL)
        elif pending is not None:
            ptrace(GETREGS, pid, ctypes.byref(registers))
            registers.rax = 2**64 - pending
            ptrace(SETREGS, pid, ctypes.byref(registers))
            pending = None
        entering = not entering


def enter(pid, mode, distance, name, registers):
    """Deals with a call that begins. What is to be done when it ends: nothing, the error to return, or `kill`."""
    if mode == "full" and distance >= 0 and name in NEED_SPACE:
        error = ENOSPC
    elif mode == "fail" and distance == 0:
        error = EIO
    elif mode == "kill" and distance == 0:
        os.kill(pid, signal.SIGKILL)
        return "kill"
    elif mode == "tear" and distance == 0:
        if name in TORN:
            registers.rdx //= 2
            ptrace(SETREGS, pid, ctypes.byref(registers))
        return "kill"
    else:
        return None
    # A call that does not exist does nothing.
    registers.orig_rax = 2**64 - 1
    ptrace(SETREGS, pid, ctypes.byref(registers))
    return error


def main():
    program = sys.argv[1]
    for line in sys.stdin:
        mode, number, *arguments = line.split()
        print(run(program, mode, int(number), arguments), flush=True)


main()
