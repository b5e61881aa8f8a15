/*
 * Delegates: plugins that are found by name in CNI_PATH and run as the CNI specification says.
 *
 * A delegate runs in a process group of its own. The group is killed when the delegate ends, at the
 * deadline, and when the daemon closes the connection; the delegate also dies with the shim. Its
 * output is bounded. The shim waits for the end of the process, not of its output, because a
 * background process may keep the pipe open. Standard error is passed on to the shim's own and to
 * the daemon after the delegate has ended.
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
    NAME_ROOM = 256, /* a file name has at most 255 bytes */
    BUSY_TRIES = 5,  /* retries while a plugin is being replaced (ETXTBSY) */
    BUSY_PAUSE_MS = 200,
    REAP_MS = 2000, /* the time that a killed process has to end */
    CHUNK = 1 << 16
};

extern char **environ;

/* ---- environment ---- */

struct environment {
    char **each;  /* ends with NULL */
    char *copies; /* of the variables that the daemon sent */
};

/* Whether two variables, with or without a value, have the same name. */
static bool same_name(struct span one, struct span other)
{
    const unsigned char *end = memchr(one.at, '=', one.size);
    size_t size = end ? (size_t)(end - one.at) : one.size;
    return other.size >= size && !memcmp(one.at, other.at, size)
        && (other.size == size || other.at[size] == '=');
}

/* Whether an ENV field in rest sets or unsets this variable. */
static bool differs(struct span variable, struct span rest)
{
    unsigned tag;
    struct span value;
    while (frame_next(&rest, &tag, &value))
        if (tag == ENV && same_name(value, variable))
            return true;
    return false;
}

/* The variables that the daemon may change, to name another attachment. CNI_PATH and the variables
 * of loaders and interpreters are not among them: with those the daemon could run code as root. */
static const char *const DAEMON_MAY_SET[] = {
    "CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", NULL
};

static bool may_differ(struct span variable)
{
    for (const char *const *name = DAEMON_MAY_SET; *name; name++)
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

/* Upper bounds of the number and size of the changes; false: above the limits, or one has a NUL. */
static bool within_limits(struct span rest, size_t *count, size_t *size)
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
    return *count <= ENV_COUNT && *size <= ENV_LIMIT; /* other fields are few */
}

/* The shim's environment with the changes applied. The last change of a variable counts. */
static int make_environment(struct span call, struct environment *made)
{
    size_t count, size, own = 0, filled = 0;
    if (!within_limits(call, &count, &size))
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

/* ---- program ---- */

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
    const char *path_list = variable(made, "CNI_PATH");
    for (size_t size; *path_list; path_list += size + (path_list[size] == ':')) {
        size = strcspn(path_list, ":");
        if (!size)
            continue;
        path->size = 0;
        put(path, path_list, size);
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

/* ---- process ---- */

struct process {
    pid_t pid;
    int handle, output, errors; /* pidfd; the read ends of the pipes */
};

/* In the child. execve() closes all descriptors but the three standard ones. */
static _Noreturn void exec_delegate(const char *path, char **env, const int streams[3],
                                    int exec_pipe, pid_t parent)
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
    ssize_t written = write(exec_pipe, &error, sizeof error);
    _exit(written > 0 ? 127 : 126);
}

static void end_group(const struct process *process)
{
    kill(-process->pid, SIGKILL);
    kill(process->pid, SIGKILL); /* setpgid() in the child may not have run yet */
}

/* The exit status, or minus the signal. A process that cannot be killed is left to init. */
static int reap(const struct process *process)
{
    int status = SIGKILL;
    wait_for(process->handle, POLLIN, now() + REAP_MS);
    while (waitpid(process->pid, &status, WNOHANG) < 0 && errno == EINTR)
        ;
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* Kill the process and its group, and reap it. */
static int finish(const struct process *process)
{
    end_group(process);
    int status = reap(process);
    close(process->handle);
    close(process->output);
    close(process->errors);
    return status;
}

/* The errno of execve() in the child; 0: it succeeded, which closed the child's end of the pipe. */
static int exec_error(int exec_pipe, int64_t until)
{
    int error = 0;
    if (wait_for(exec_pipe, POLLIN, until) != SUCCESS)
        return ETIMEDOUT;
    return read(exec_pipe, &error, sizeof error) == sizeof error ? error : 0;
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
    int output[2] = {-1, -1}, errors[2] = {-1, -1}, exec_pipe[2] = {-1, -1}, error = 0;
    pid_t parent = getpid();
    if (pipe2(output, O_CLOEXEC) || pipe2(errors, O_CLOEXEC) || pipe2(exec_pipe, O_CLOEXEC)
        || (process->pid = fork()) < 0) {
        error = errno;
        close_pipe(output);
        close_pipe(errors);
        close_pipe(exec_pipe);
        return error;
    }
    if (!process->pid) {
        const int streams[] = {input, output[1], errors[1]};
        exec_delegate(path, env, streams, exec_pipe[1], parent);
    }
    close(output[1]);
    close(errors[1]);
    close(exec_pipe[1]);
    process->output = output[0];
    process->errors = errors[0];
    process->handle = (int)syscall(SYS_pidfd_open, process->pid, 0);
    error = process->handle < 0 ? errno : exec_error(exec_pipe[0], until);
    if (error)
        finish(process);
    close(exec_pipe[0]);
    return error;
}

/* Standard input as an unnamed file, so that the shim need not wait for the delegate to read it. */
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

static bool daemon_closed(int peer, int64_t until)
{
    return wait_for(peer, POLLRDHUP, until) == SUCCESS;
}

/* Start the delegate; an errno. *outcome is DISCONNECTED if the daemon went away meanwhile. */
static int start(const char *path, char **env, struct span call, struct process *process, int peer,
                 int64_t until, enum outcome *outcome)
{
    int error = ETXTBSY;
    int input = input_of(call);
    if (input < 0)
        return errno;
    signal(SIGCHLD, SIG_DFL); /* if it is ignored, the kernel keeps no exit status */
    for (int left = BUSY_TRIES; error == ETXTBSY && left; left--) {
        if (left < BUSY_TRIES && daemon_closed(peer, earlier(until, BUSY_PAUSE_MS))) {
            *outcome = DISCONNECTED;
            break;
        }
        lseek(input, 0, SEEK_SET);
        error = fork_delegate(path, env, input, process, until);
    }
    close(input);
    return error;
}

/* Read what is available; false at the end. */
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

/* Read until the process has ended and the output is read; an errno. After the end of the process
 * standard error is read once more at most: a background process may write to it without end. */
static int collect(const struct process *process, int peer, int64_t until, struct bytes *out,
                   struct bytes *said, enum outcome *outcome)
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
                each[3].fd = -1; /* poll() ignores it from now on */
            keep_last(said);
        }
        if (each[2].revents) {
            *outcome = DISCONNECTED;
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

/* Run a delegate and add the fields of DONE; DISCONNECTED if the daemon went away meanwhile. */
enum outcome run_delegate(struct span call, int peer, int64_t until, struct bytes *reply)
{
    struct environment made = {0};
    struct bytes path = {0}, out = {0}, said = {0};
    struct process process = {0};
    enum outcome outcome = SUCCESS;
    uint32_t within = BOND_EXEC_MS;
    int status = 0, error = make_environment(call, &made);
    if (frame_get_number(call, DEADLINE, &within) && within > BOND_EXEC_MS)
        within = BOND_EXEC_MS;
    until = earlier(until, within);
    if (!error)
        error = find_in(&made, call, &path);
    if (!error)
        error = start(text_of(&path), made.each, call, &process, peer, until, &outcome);
    if (!error && outcome == SUCCESS) {
        error = collect(&process, peer, until, &out, &said, &outcome);
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
    return outcome;
}
