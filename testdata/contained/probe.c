// Tries to get out of a sandbox, in every way that a step's own program has. Prints what worked, one name a line; nothing
// is good. Arguments: the process id of a process outside, its abstract socket, a file outside, and the number of the
// device that this file is on. Nothing here does harm where it works: the victim is there to be killed.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int victim;
static const char *outside;

static void worked(const char *name) {
    puts(name);
    fflush(stdout);
}

// Runs `attempt` in a process of its own, so that what it changes stays there.
static void apart(const char *name, int (*attempt)(void)) {
    pid_t child = fork();
    if (child == 0) _exit(attempt() ? 42 : 0);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 42) worked(name);
}

// What has a number in the namespace of the victim.
static int shared_memory(void) { return shmget(0x57410000 | victim, 1, 0) >= 0; }
static int message_queue(void) { return msgget(0x57410000 | victim, 0) >= 0; }

// Stays where nobody takes it away: looked for from outside.
static int lasting_queue(void) {
    msgget(0x57420000 | victim, IPC_CREAT | 0666);
    return 0;
}

static int readable(const char *path) {
    char byte;
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    return fd >= 0 && read(fd, &byte, 1) == 1;
}

static int signal_victim(void) { return kill(victim, SIGTERM) == 0; }

static int signal_pidfd(void) {
    int fd = syscall(SYS_pidfd_open, victim, 0);
    return fd >= 0 && syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0) == 0;
}

static int take_descriptor(void) {
    int fd = syscall(SYS_pidfd_open, victim, 0);
    return fd >= 0 && syscall(438 /* pidfd_getfd */, fd, 0, 0) >= 0;
}

static int trace(void) {
    return ptrace(PTRACE_SEIZE, victim, 0, 0) == 0 || ptrace(PTRACE_ATTACH, victim, 0, 0) == 0;
}

static int read_memory(void) {
    char buffer[8];
    struct iovec here = {buffer, sizeof buffer}, there = {(void *)0x400000, sizeof buffer};
    return process_vm_readv(victim, &here, 1, &there, 1, 0) > 0;
}

static int victim_files(void) {
    char path[4200];
    static const char *const places[] = {"/proc/%d/root%s", "/proc/%d/cwd/../../../../../../../..%s"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, places[i], victim, outside);
        if (readable(path)) return 1;
    }
    return 0;
}

static int victim_namespace(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/mnt", victim);
    int fd = open(path, O_RDONLY);
    return fd >= 0 && setns(fd, 0) == 0;
}

// The way out of a chroot: a root below the working directory.
static int leave_root(void) {
    mkdir("/probe-root", 0700);
    int ok = chroot("/probe-root") == 0;
    rmdir("/probe-root");
    for (int i = 0; i < 64; i++)
        if (chdir("..")) break;
    if (ok && chroot(".")) return 0;
    return readable(outside);
}

static int leave_by_descriptor(void) {
    int root = open("/", O_RDONLY | O_DIRECTORY);
    mkdir("/probe-root", 0700);
    int ok = chroot("/probe-root") == 0;
    rmdir("/probe-root");
    if (!ok || fchdir(root)) return 0;
    for (int i = 0; i < 64; i++)
        if (chdir("..")) break;
    return chroot(".") == 0 && readable(outside);
}

static int open_by_handle(void) {
    struct { struct file_handle handle; unsigned char bytes[128]; } it;
    int mount;
    it.handle.handle_bytes = 128;
    if (name_to_handle_at(AT_FDCWD, "/", &it.handle, &mount, 0)) return 0;
    int root = open("/", O_RDONLY);
    return open_by_handle_at(root, &it.handle, O_RDONLY) >= 0;
}

static int new_user_namespace(void) { return unshare(CLONE_NEWUSER) == 0; }
static int new_mount_namespace(void) { return unshare(CLONE_NEWNS) == 0; }

static int clone_namespace(void) {
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return child > 0;
}

static int mount_something(void) { return mount("none", "/tmp", "tmpfs", 0, "") == 0; }
static int bind_something(void) { return mount("/", "/tmp", NULL, MS_BIND | MS_REC, NULL) == 0; }
static int make_writable(void) { return mount(NULL, "/sys", NULL, MS_REMOUNT | MS_BIND, NULL) == 0; }
static int uncover(void) { return umount2("/proc", MNT_DETACH) == 0 || umount2("/dev", MNT_DETACH) == 0; }
static int clone_tree(void) { return syscall(428 /* open_tree */, AT_FDCWD, "/", 1) >= 0; }
static int new_file_system(void) { return syscall(430 /* fsopen */, "tmpfs", 0) >= 0; }
static int pivot(void) { return syscall(SYS_pivot_root, "/", "/tmp") == 0; }

static int connect_abstract(const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    size_t length = strlen(name);
    memcpy(address.sun_path + 1, name, length);
    return fd >= 0 && connect(fd, (void *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + length) == 0;
}

static int device(const char *what, mode_t kind, unsigned number_major, unsigned number_minor) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/probe-%s", what);
    if (mknod(path, kind | 0600, makedev(number_major, number_minor))) return 0;
    int opened = readable(path);
    unlink(path);
    return opened;
}

static int keys(void) {
    long session = syscall(SYS_keyctl, 0, -3, 0), user = syscall(SYS_keyctl, 0, -4, 0);
    char buffer[256];
    return (session > 0 && syscall(SYS_keyctl, 11, session, buffer, sizeof buffer) > 0) ||
           (user > 0 && syscall(SYS_keyctl, 11, user, buffer, sizeof buffer) > 0);
}

static int add_key(void) { return syscall(SYS_add_key, "user", "probe", "x", 1, -4) >= 0; }
static int host_name(void) { return sethostname("escaped", 7) == 0; }
static int kernel_log(void) { return syscall(SYS_syslog, 10, NULL, 0) >= 0 && syscall(SYS_syslog, 3, (char[64]){0}, 64) > 0; }
static int kernel_module(void) { return syscall(SYS_init_module, "", 0, "") == 0 || errno == ENOEXEC || errno == EINVAL; }
static int swap(void) { return syscall(SYS_swapon, "/no/such", 0) == 0 || errno == ENOENT; }
static int restart(void) { return syscall(SYS_reboot, 0xfee1dead, 672274793, 0 /* CAD off */, NULL) == 0; }
static int ring(void) { char parameters[120] = {0}; return syscall(425 /* io_uring_setup */, 1, parameters) >= 0; }
static int faults(void) { return syscall(SYS_userfaultfd, 0) >= 0; }

static int programs(void) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.map_type = 2;
    attr.key_size = 4;
    attr.value_size = 4;
    attr.max_entries = 1;
    return syscall(SYS_bpf, 0, &attr, sizeof attr) >= 0;
}

static int events(void) {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK};
    return syscall(SYS_perf_event_open, &attr, -1, 0, -1, 0) >= 0;
}

static int machine_sockets(void) { return socket(40 /* AF_VSOCK */, SOCK_STREAM, 0) >= 0 || socket(38 /* AF_ALG */, SOCK_SEQPACKET, 0) >= 0; }
static int wide_sockets(void) { return syscall(SYS_socket, 1L << 32 | 38, SOCK_SEQPACKET, 0) >= 0; }

static int type_into_terminal(void) {
    int fd = open("/dev/tty", O_RDWR);
    return fd >= 0 && ioctl(fd, TIOCSTI, "x") == 0;
}

static int set_variable(const char *path) {
    int fd = open(path, O_WRONLY);
    return fd >= 0;
}

static int descriptors(void) {
    for (int fd = 3; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0) return 1;
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    // Before this program opens anything itself.
    if (descriptors()) worked("a descriptor of the builder");
    victim = atoi(argv[1]);
    outside = argv[3];
    unsigned number_major = atoi(argv[4]), number_minor = atoi(argv[5]);

    if (readable(outside)) worked("a file outside");
    apart("files through the victim", victim_files);
    apart("the namespace of the victim", victim_namespace);
    apart("a signal", signal_victim);
    apart("a signal by descriptor", signal_pidfd);
    apart("a descriptor of the victim", take_descriptor);
    apart("tracing", trace);
    apart("shared memory outside", shared_memory);
    apart("a message queue outside", message_queue);
    apart("a message queue that stays", lasting_queue);
    apart("memory of the victim", read_memory);
    apart("out of a root in the root", leave_root);
    apart("out of a root by a descriptor", leave_by_descriptor);
    apart("a file by its handle", open_by_handle);
    apart("a user namespace", new_user_namespace);
    apart("a mount namespace", new_mount_namespace);
    apart("a cloned user namespace", clone_namespace);
    apart("a mount", mount_something);
    apart("a bind", bind_something);
    apart("a mount made writable", make_writable);
    apart("a mount taken away", uncover);
    apart("a copied tree", clone_tree);
    apart("a new file system", new_file_system);
    apart("another root", pivot);
    if (connect_abstract(argv[2])) worked("an abstract socket");
    if (device("disk", S_IFBLK, number_major, number_minor)) worked("the disk");
    if (device("memory", S_IFCHR, 1, 1)) worked("the machine's memory");
    if (device("messages", S_IFCHR, 1, 11)) worked("the kernel's messages");
    apart("keys", keys);
    apart("a new key", add_key);
    apart("the host name", host_name);
    apart("the kernel's log", kernel_log);
    apart("a kernel module", kernel_module);
    apart("swap", swap);
    apart("a restart", restart);
    apart("a ring", ring);
    apart("page faults", faults);
    apart("programs in the kernel", programs);
    apart("events of the machine", events);
    apart("sockets past the network", machine_sockets);
    apart("sockets past the network, by a wide number", wide_sockets);
    apart("typing into the terminal", type_into_terminal);
    static const char *const variables[] = {"/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
        "/proc/sys/kernel/modprobe", "/sys/kernel/uevent_helper", "/sys/power/state", "/proc/irq/default_smp_affinity",
        "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/release_agent"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        if (set_variable(variables[i])) worked(variables[i]);
    static const char *const secrets[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug",
        "/proc/latency_stats", "/sys/firmware/dmi/tables/DMI"};
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
        if (readable(secrets[i])) worked(secrets[i]);
    return 0;
}
