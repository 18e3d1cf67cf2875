// Tries to signal, schedule and limit processes: those outside, which must fail, and its own, which must not. Prints what is
// not so, one a line, and "end". Arguments: "all" or "scoped" (then who owns a file is not looked at: the kernel asks when it sends), a
// process group outside, and processes outside.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int with_owners;
static int files[2];

static int send_by_kill(int target) { return kill(target, 0); }
static int send_to_thread(int target) { return syscall(SYS_tkill, target, 0); }
static int send_to_thread_of(int target) { return syscall(SYS_tgkill, target, target, 0); }

static int queue(int target) {
    siginfo_t info = {.si_code = SI_QUEUE, .si_pid = getpid(), .si_uid = getuid()};
    return syscall(SYS_rt_sigqueueinfo, target, 0, &info);
}

static int queue_to_thread(int target) {
    siginfo_t info = {.si_code = SI_QUEUE, .si_pid = getpid(), .si_uid = getuid()};
    return syscall(SYS_rt_tgsigqueueinfo, target, target, 0, &info);
}

static int send_by_descriptor(int target) {
    int fd = syscall(SYS_pidfd_open, target, 0);
    int result = fd < 0 ? -1 : syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0);
    if (fd >= 0) close(fd);
    return result;
}

static int own(int target) { return fcntl(files[0], F_SETOWN, target); }

static int own_in_memory(int target) {
    struct f_owner_ex owner = {F_OWNER_TID, target};
    return fcntl(files[0], F_SETOWN_EX, &owner);
}

static int own_by_ioctl(int target) { return ioctl(files[0], 0x8901 /* FIOSETOWN */, &target); }
static int own_by_other_ioctl(int target) { return ioctl(files[0], 0x8902 /* SIOCSPGRP */, &target); }

static int pin(int target) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return -1;
    return sched_setaffinity(target, sizeof set, &set);
}

static int schedule(int target) {
    struct sched_param parameters = {0};
    return sched_setscheduler(target, SCHED_OTHER, &parameters);
}

static int set_parameters(int target) {
    struct sched_param parameters = {0};
    return sched_setparam(target, &parameters);
}

static int set_attributes(int target) {
    struct { unsigned size, policy; unsigned long flags; int nice; unsigned priority; unsigned long times[3]; } it = {48};
    return syscall(SYS_sched_setattr, target, &it, 0);
}

static int slow(int target) { return setpriority(PRIO_PROCESS, target, 0); }
static int slow_group(int target) { return setpriority(PRIO_PGRP, target, 0); }
static int slow_disk(int target) { return syscall(SYS_ioprio_set, 1, target, 2 << 13 | 4); }
static int slow_disk_of_group(int target) { return syscall(SYS_ioprio_set, 2, target, 2 << 13 | 4); }

static int limit(int target) {
    struct rlimit limit;
    if (prlimit(0, RLIMIT_NOFILE, NULL, &limit)) return -1;
    return prlimit(target, RLIMIT_NOFILE, &limit, NULL);
}

static const struct {
    const char *name;
    int (*attempt)(int);
    int is_owner, fails_with_own;
} attempts[] = {
    {"kill", send_by_kill}, {"tkill", send_to_thread}, {"tgkill", send_to_thread_of}, {"rt_sigqueueinfo", queue},
    {"rt_tgsigqueueinfo", queue_to_thread}, {"pidfd_send_signal", send_by_descriptor, 0, 1}, {"F_SETOWN", own, 1},
    {"F_SETOWN_EX", own_in_memory, 1, 1}, {"FIOSETOWN", own_by_ioctl, 1, 1}, {"SIOCSPGRP", own_by_other_ioctl, 1, 1},
    {"sched_setaffinity", pin}, {"sched_setscheduler", schedule}, {"sched_setparam", set_parameters},
    {"sched_setattr", set_attributes}, {"setpriority", slow}, {"ioprio_set", slow_disk}, {"prlimit64", limit},
};

static void try_on(const char *whom, int target, int is_own) {
    for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++) {
        if (attempts[i].is_owner && !with_owners) continue;
        errno = 0;
        int works = attempts[i].attempt(target) >= 0;
        if (works && !is_own) printf("%s to %s %d\n", attempts[i].name, whom, target);
        if (!works && is_own && !attempts[i].fails_with_own)
            printf("no %s to %s: %s\n", attempts[i].name, whom, strerror(errno));
    }
}

int main(int argc, char **argv) {
    if (argc < 4 || socketpair(AF_UNIX, SOCK_STREAM, 0, files)) return 2;
    with_owners = strcmp(argv[1], "all") == 0;
    int group = atoi(argv[2]);
    if (kill(-group, 0) == 0) puts("kill to the group outside");
    if (with_owners && own(-group) == 0) puts("F_SETOWN to the group outside");
    if (slow_group(group) == 0) puts("setpriority of the group outside");
    if (slow_disk_of_group(group) == 0) puts("ioprio_set of the group outside");
    if (setpriority(PRIO_USER, getuid(), 0) == 0) puts("setpriority of the user");
    if (syscall(SYS_ioprio_set, 3, getuid(), 2 << 13 | 4) == 0) puts("ioprio_set of the user");
    for (int i = 3; i < argc; i++) try_on("the process outside", atoi(argv[i]), 0);

    try_on("itself", getpid(), 1);
    if (kill(0, 0)) puts("no kill to the own group");
    if (slow_group(0) || slow_group(getpgrp()) || slow_disk_of_group(0)) puts("no priority of the own group");
    if (slow(0) || pin(0) || limit(0)) puts("not the own priority");
    pid_t child = fork();
    if (child == 0) {
        setsid();
        // An orphan of the child's own.
        if (fork() == 0) pause();
        pause();
    }
    usleep(100000);
    try_on("its child", child, 1);
    if (kill(-child, 0)) puts("no kill to the child's group");
    if (kill(-child, 65) == 0 || errno != EINVAL) puts("a signal that there is not");
    if (kill(child, SIGKILL)) puts("the child lives");
    waitpid(child, NULL, 0);
    // The child's child is left, and whoever sees to orphans.
    if (kill(-child, 0)) puts("no kill to the orphan");
    // Not where it could do harm.
    for (int i = 3; i < argc; i++)
        if (kill(atoi(argv[i]), 0) == 0) return 1;
    if (kill(-1, SIGKILL)) puts("no kill to everybody");
    usleep(100000);
    if (kill(-child, 0) == 0) puts("the orphan lives");
    puts("end");
    return 0;
}
