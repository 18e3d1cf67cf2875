//! The default profile: what a container may call, by capability and argument.
//!
//! It admits what the field's default profile admits, so a program that runs under other engines runs here. What is
//! not named answers EPERM.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use crate::capability::CapabilitySet;
use crate::chroot::Confinement;

/// The profile for a container whose bounding set is `capabilities`.
pub(crate) fn default_profile(capabilities: CapabilitySet) -> LinuxSeccomp {
    let mut rules = vec![allow(ALWAYS), socket_rule(Operator::ScmpCmpLt, AF_ALG)];
    rules.push(socket_rule(Operator::ScmpCmpEq, AF_ALG + 1));
    rules.push(socket_rule(Operator::ScmpCmpGt, AF_VSOCK));
    rules.extend(PERSONALITIES.iter().map(|&value| rule("personality", Operator::ScmpCmpEq, value, None)));
    let native = if cfg!(target_arch = "aarch64") { ALWAYS_ARM } else { ALWAYS_X86 };
    rules.push(allow(native));
    for (capability, names) in BY_CAPABILITY {
        if capabilities.contains(*capability) {
            rules.push(allow(names));
        }
    }
    if !capabilities.contains(Capability::SysAdmin) {
        rules.push(rule("clone", Operator::ScmpCmpMaskedEq, NAMESPACE_FLAGS, Some(0)));
        // The flags of clone3 lie in memory where no filter can see them; ENOSYS makes libraries fall back to clone.
        rules.push(syscall(
            "clone3",
            LinuxSeccompAction::ScmpActErrno,
            Some(libc::ENOSYS.unsigned_abs()),
            None,
        ));
    }
    let architectures = if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86]
    };
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM.unsigned_abs())
        .architectures(architectures)
        .syscalls(rules)
        .build()
        .expect("every field has a default")
}

/// The profile for a process without namespaces. What the default one refuses is refused, and so is what reaches the
/// builder and its neighbours as long as kernel namespaces do not keep them apart. Signals and scheduling are the
/// supervisor's business.
pub(crate) fn chroot_profile(
    capabilities: CapabilitySet,
    network: bool,
    confinement: Confinement,
) -> LinuxSeccomp {
    let mut refused = Vec::new();
    if !network {
        let unix = libc::AF_UNIX as u64;
        refused.push(refuse("socket", Some((Operator::ScmpCmpNe, unix)), libc::EAFNOSUPPORT));
        // The family lies in memory where no filter can see it.
        refused.push(refuse("socketcall", None, libc::EAFNOSUPPORT));
    }
    if !confinement.scopes_tracing() {
        refused.push(refuse("ptrace process_vm_readv process_vm_writev", None, libc::EPERM));
    }
    // Without a namespace of its own what a step makes joins it with others, and stays. They do not exist, as in a kernel
    // that is built without.
    refused.push(refuse(IPC, None, libc::ENOSYS));
    let mut profile = default_profile(capabilities);
    // The first rule that applies decides.
    refused.extend(profile.syscalls().iter().flatten().cloned());
    profile.set_syscalls(Some(refused));
    profile
}

/// System V's shared memory, messages and semaphores, and POSIX message queues.
const IPC: &str = "ipc mq_open mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 \
                   shmat shmctl shmdt shmget";

/// Refuses `names` with `errno`, always or when the first argument compares so.
fn refuse(names: &str, when: Option<(Operator, u64)>, errno: i32) -> LinuxSyscall {
    let argument = when.map(|(operator, value)| {
        let argument = LinuxSeccompArgBuilder::default().index(0usize).value(value).op(operator);
        argument.build().expect("every field has a default")
    });
    syscall(names, LinuxSeccompAction::ScmpActErrno, Some(errno.unsigned_abs()), argument)
}

use LinuxSeccompOperator as Operator;

fn allow(names: &str) -> LinuxSyscall {
    syscall(names, LinuxSeccompAction::ScmpActAllow, None, None)
}

fn socket_rule(operator: Operator, family: u64) -> LinuxSyscall {
    rule("socket", operator, family, None)
}

/// Allows `name` when its first argument compares with `value`.
fn rule(name: &str, operator: Operator, value: u64, value_two: Option<u64>) -> LinuxSyscall {
    let mut argument = LinuxSeccompArgBuilder::default().index(0usize).value(value).op(operator);
    if let Some(value_two) = value_two {
        argument = argument.value_two(value_two);
    }
    let argument = argument.build().expect("every field has a default");
    syscall(name, LinuxSeccompAction::ScmpActAllow, None, Some(argument))
}

fn syscall(
    names: &str,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    argument: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let names: Vec<String> = names.split_ascii_whitespace().map(str::to_owned).collect();
    let mut syscall = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        syscall = syscall.errno_ret(errno);
    }
    if let Some(argument) = argument {
        syscall = syscall.args(vec![argument]);
    }
    syscall.build().expect("every field has a default")
}

/// The socket families that are refused: AF_ALG reaches kernel crypto drivers, AF_VSOCK leaves the network namespace.
const AF_ALG: u64 = libc::AF_ALG as u64;
const AF_VSOCK: u64 = libc::AF_VSOCK as u64;

/// PER_LINUX, PER_LINUX32, both with UNAME26, and the question which one is set.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Every `CLONE_NEW*` that `clone` takes.
const NAMESPACE_FLAGS: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u64;

const ALWAYS_X86: &str = "arch_prctl modify_ldt";
const ALWAYS_ARM: &str =
    "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";

/// What one capability admits.
const BY_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// What every container may call.
const ALWAYS: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod \
    chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range \
    creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
    epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 \
    fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 \
    fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat \
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 \
    futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents \
    getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer \
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid \
    getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 \
    getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get \
    ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 \
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr \
    lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat \
    mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal \
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat \
    open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect \
    poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv \
    process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink \
    readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr \
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending \
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr \
    sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl \
    semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto \
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid \
    setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid \
    setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 \
    setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask \
    sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat \
    sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun \
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask \
    uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid \
    waitpid write writev";
