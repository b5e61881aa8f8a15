/*
 * The delegate: a plugin, found by its name in CNI_PATH and run as the CNI specification says.
 *
 * It has a process group of its own, which ends with it, at the deadline, with the daemon's
 * connection, and (the delegate itself) with the shim. Its output is bounded. The end of the
 * process counts and not that of its output: what it left in the background may hold the pipe.
 * What it writes to standard error goes to the shim's when it has ended, and to the daemon.
 *
 * Source: CNI SPEC 1.1.0, section "Plugin Delegation".
 */
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    NAME_ROOM = 256, /* a file's name has at most 255 bytes */
    BUSY_TRIES = 5,  /* a plugin that is just being replaced: ETXTBSY */
    BUSY_PAUSE = 200,
    REAP = 2000, /* milliseconds that a killed process has to end */
    CHUNK = 1 << 16
};

extern char **environ;

/* ---- its environment ---- */

struct environment {
    char **each;  /* NULL ends them */
    char *copies; /* of those that the daemon gave */
};

/* Whether two variables, with or without a value, are of one name. */
static bool same_name(struct span one, struct span other)
{
    const unsigned char *end = memchr(one.at, '=', one.size);
    size_t size = end ? (size_t)(end - one.at) : one.size;
    return other.size >= size && !memcmp(one.at, other.at, size)
        && (other.size == size || other.at[size] == '=');
}

/* Whether one of the differences is of this variable. */
static bool differs(struct span variable, struct span rest)
{
    unsigned tag;
    struct span value;
    while (frame_next(&rest, &tag, &value))
        if (tag == ENV && same_name(value, variable))
            return true;
    return false;
}

/* What the daemon may say about another attachment than the shim's own. Not where delegates are
 * (CNI_PATH), nor what a loader or an interpreter reads: it would be root by that. */
static const char *const OPEN_TO_DAEMON[] = {
    "CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", NULL
};

static bool may_differ(struct span variable)
{
    for (const char *const *name = OPEN_TO_DAEMON; *name; name++)
        if (same_name(span_of(*name), variable))
            return true;
    return false;
}

static bool all_may_differ(struct span rest)
{
    unsigned tag;
    struct span value;
    while (frame_next(&rest, &tag, &value))
        if (tag == ENV && !may_differ(value))
            return false;
    return true;
}

/* Bounds on the differences, with NULs; false: too many, too long, or one has a NUL in it. */
static bool measured(struct span rest, size_t *count, size_t *size)
{
    unsigned tag;
    struct span value;
    *size = 0;
    for (*count = 0; frame_next(&rest, &tag, &value); *count += 1)
        if (tag == ENV) {
            *size += value.size + 1;
            if (memchr(value.at, 0, value.size))
                return false;
        }
    return *count <= ENV_COUNT && *size <= ENV_LIMIT; /* the fields of a call are few besides */
}

/* Ours, and the differences on it. Of two differences of one name the last counts. */
static int make_environment(struct span call, struct environment *made)
{
    size_t count, size, own = 0, filled = 0;
    if (!measured(call, &count, &size))
        return E2BIG;
    if (!all_may_differ(call))
        return EPERM;
    while (environ[own])
        own++;
    made->each = calloc(own + count + 1, sizeof *made->each);
    made->copies = malloc(size + 1);
    if (!made->each || !made->copies)
        return ENOMEM;
    for (size_t i = 0; i < own; i++)
        if (!differs(span_of(environ[i]), call))
            made->each[filled++] = environ[i];
    char *copy = made->copies;
    unsigned tag;
    struct span value;
    while (frame_next(&call, &tag, &value))
        if (tag == ENV && memchr(value.at, '=', value.size) && !differs(value, call)) {
            memcpy(copy, value.at, value.size);
            copy[value.size] = 0;
            made->each[filled++] = copy;
            copy += value.size + 1;
        }
    return 0;
}

static void release_environment(struct environment *made)
{
    free(made->each);
    free(made->copies);
}

static const char *variable(const struct environment *made, const char *name)
{
    size_t size = strlen(name);
    for (char **each = made->each; *each; each++)
        if (!strncmp(*each, name, size) && (*each)[size] == '=')
            return *each + size + 1;
    return "";
}

/* ---- its file ---- */

static bool is_program(const char *path)
{
    struct stat stat_of;
    return !stat(path, &stat_of) && S_ISREG(stat_of.st_mode) && !access(path, X_OK);
}

static int find_in(const struct environment *made, struct span call, struct bytes *path)
{
    struct span value;
    char name[NAME_ROOM];
    if (!frame_get(call, NAME, &value) || !value.size || memchr(value.at, '/', value.size))
        return EINVAL;
    if (!span_text(value, name, sizeof name))
        return ENOENT;
    const char *folders = variable(made, "CNI_PATH");
    for (size_t size; *folders; folders += size + (folders[size] == ':')) {
        size = strcspn(folders, ":");
        if (!size)
            continue;
        path->size = 0;
        put(path, folders, size);
        put_text(path, "/");
        put_text(path, name);
        if (is_program(text_of(path)))
            return 0;
    }
    return ENOENT;
}

int find_delegate(struct span call, struct bytes *path)
{
    struct environment made = {0};
    int error = make_environment(call, &made);
    if (!error)
        error = find_in(&made, call, path);
    release_environment(&made);
    return error;
}

/* ---- its process ---- */

struct process {
    pid_t pid;
    int handle, output, errors; /* pidfd, and the pipes' ends */
};

/* In the child. What it inherits besides its three descriptors is closed by exec. */
static _Noreturn void become(const char *path, char **env, const int streams[3], int trouble,
                             pid_t parent)
{
    sigset_t none;
    char *const args[] = {(char *)(uintptr_t)path, NULL};
    setpgid(0, 0);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (!prctl(PR_SET_PDEATHSIG, SIGKILL) && getppid() == parent
        && dup2(streams[0], STDIN_FILENO) >= 0 && dup2(streams[1], STDOUT_FILENO) >= 0
        && dup2(streams[2], STDERR_FILENO) >= 0)
        execve(path, args, env);
    int error = errno;
    ssize_t told = write(trouble, &error, sizeof error);
    _exit(told > 0 ? 127 : 126);
}

static void end_group(const struct process *process)
{
    kill(-process->pid, SIGKILL);
    kill(process->pid, SIGKILL); /* it may not have come to its group yet */
}

/* Its status. One that the kernel does not let go of is left to init, as killed. */
static int reap(const struct process *process)
{
    int status = SIGKILL;
    ready(process->handle, POLLIN, now() + REAP);
    while (waitpid(process->pid, &status, WNOHANG) < 0 && errno == EINTR)
        ;
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* The end of the process, whatever it does, and of all that it left in its group. */
static int finish(const struct process *process)
{
    end_group(process);
    int status = reap(process);
    close(process->handle);
    close(process->output);
    close(process->errors);
    return status;
}

/* Why it did not start; 0: it runs. Its end of the pipe is closed by exec. */
static int started(int trouble, int64_t until)
{
    int error = 0;
    if (ready(trouble, POLLIN, until) != FINE)
        return ETIMEDOUT;
    return read(trouble, &error, sizeof error) == sizeof error ? error : 0;
}

static void close_pipe(const int pair[2])
{
    if (pair[0] >= 0)
        close(pair[0]);
    if (pair[1] >= 0)
        close(pair[1]);
}

static int fork_delegate(const char *path, char **env, int input, struct process *process,
                         int64_t until)
{
    int output[2] = {-1, -1}, errors[2] = {-1, -1}, trouble[2] = {-1, -1}, error = 0;
    pid_t parent = getpid();
    if (pipe2(output, O_CLOEXEC) || pipe2(errors, O_CLOEXEC) || pipe2(trouble, O_CLOEXEC)
        || (process->pid = fork()) < 0) {
        error = errno;
        close_pipe(output);
        close_pipe(errors);
        close_pipe(trouble);
        return error;
    }
    if (!process->pid) {
        const int streams[] = {input, output[1], errors[1]};
        become(path, env, streams, trouble[1], parent);
    }
    close(output[1]);
    close(errors[1]);
    close(trouble[1]);
    process->output = output[0];
    process->errors = errors[0];
    process->handle = (int)syscall(SYS_pidfd_open, process->pid, 0);
    error = process->handle < 0 ? errno : started(trouble[0], until);
    if (error)
        finish(process);
    close(trouble[0]);
    return error;
}

/* The configuration as a file without a name: the delegate may read it or not. */
static int input_of(struct span call)
{
    struct span value = {0};
    frame_get(call, STDIN, &value);
    int fd = memfd_create("config", MFD_CLOEXEC);
    while (fd >= 0 && value.size) {
        ssize_t done = write(fd, value.at, value.size);
        if (done <= 0) {
            close(fd);
            fd = -1;
            break;
        }
        value.at += done;
        value.size -= (size_t)done;
    }
    return fd;
}

static bool hung_up(int peer, int64_t until)
{
    return ready(peer, POLLRDHUP, until) == FINE;
}

/* An errno; GONE in *end where the daemon went away meanwhile. */
static int start(const char *path, char **env, struct span call, struct process *process, int peer,
                 int64_t until, enum end *end)
{
    int error = ETXTBSY;
    int input = input_of(call);
    if (input < 0)
        return errno;
    signal(SIGCHLD, SIG_DFL); /* where it is ignored, no status is kept */
    for (int left = BUSY_TRIES; error == ETXTBSY && left; left--) {
        if (left < BUSY_TRIES && hung_up(peer, sooner(until, BUSY_PAUSE))) {
            *end = GONE;
            break;
        }
        lseek(input, 0, SEEK_SET);
        error = fork_delegate(path, env, input, process, until);
    }
    close(input);
    return error;
}

/* What is there to be read; false at its end. */
static bool read_some(int output, struct bytes *out)
{
    reserve(out, CHUNK);
    ssize_t got = read(output, out->at + out->size, CHUNK);
    if (got > 0)
        out->size += (size_t)got;
    return got > 0 || (got < 0 && errno == EINTR);
}

/* Drop all but the last STDERR_LIMIT bytes. */
static void keep_last(struct bytes *said)
{
    size_t more = said->size > STDERR_LIMIT ? said->size - STDERR_LIMIT : 0;
    if (more) {
        memmove(said->at, said->at + more, STDERR_LIMIT);
        said->size = STDERR_LIMIT;
    }
}

/* Read until the process has ended and nothing is left to read; an errno. Of standard error no more
 * is read then than a pipe holds: what it left in the background may write there for ever. */
static int collect(const struct process *process, int peer, int64_t until, struct bytes *out,
                   struct bytes *said, enum end *end)
{
    struct pollfd each[] = {{.fd = process->output, .events = POLLIN},
                            {.fd = process->handle, .events = POLLIN},
                            {.fd = peer, .events = POLLRDHUP},
                            {.fd = process->errors, .events = POLLIN}};
    for (;;) {
        int64_t left = until - now();
        int count = poll(each, 4, left < 0 ? 0 : (int)left);
        if (count < 0 && errno != EINTR)
            return errno;
        if (count == 0)
            return ETIMEDOUT;
        if (count < 0)
            continue;
        if (each[3].revents) {
            if (!read_some(process->errors, said))
                each[3].fd = -1; /* poll() passes over it and leaves no event */
            keep_last(said);
        }
        if (each[2].revents) {
            *end = GONE;
            return 0;
        }
        if (each[0].revents) {
            if (!read_some(process->output, out))
                each[0].fd = -1;
            if (out->size > OUTPUT_LIMIT)
                return EFBIG;
        } else if (each[1].revents)
            return 0;
        else if (now() > until)
            return ETIMEDOUT;
    }
}

/* The DONE of a delegate that was asked for; GONE where the daemon went away meanwhile. */
enum end run_delegate(struct span call, int peer, int64_t until, struct bytes *reply)
{
    struct environment made = {0};
    struct bytes path = {0}, out = {0}, said = {0};
    struct process process = {0};
    enum end end = FINE;
    uint32_t within = BOND_EXEC_MS;
    int status = 0, error = make_environment(call, &made);
    if (frame_get_number(call, DEADLINE, &within) && within > BOND_EXEC_MS)
        within = BOND_EXEC_MS;
    until = sooner(until, within);
    if (!error)
        error = find_in(&made, call, &path);
    if (!error)
        error = start(text_of(&path), made.each, call, &process, peer, until, &end);
    if (!error && end == FINE) {
        error = collect(&process, peer, until, &out, &said, &end);
        status = finish(&process);
        write_all(STDERR_FILENO, (struct span){said.at, said.size}, now() + BOND_STEP_MS);
    }
    frame_number(reply, STATUS, (uint32_t)error);
    if (!error) {
        frame_number(reply, EXIT, (uint32_t)status);
        frame_field(reply, OUTPUT, out.at, out.size);
    }
    if (said.size)
        frame_field(reply, STDERR, said.at, said.size);
    release_environment(&made);
    release(&path);
    release(&out);
    release(&said);
    return end;
}
