/* driver: starts programs as a container runtime does, and reports when each began and ended.
 *
 * It is a process of a few pages, so that starting a child costs the same for every party: a
 * vfork and an exec (posix_spawn), whatever process requested it. Nothing is read, parsed or
 * printed between a child's start and its end.
 *
 * Standard input: "AT_A_TIME JOBS\n", then a line for each job, its fields separated by 0x1f:
 *   file for its standard input, file for its standard output, argc, argv..., environment...
 * Standard output: a line for each job, in their order: "BEGAN ENDED STATUS\n", nanoseconds of
 * CLOCK_MONOTONIC and the status of waitpid(2). The next request may follow; the end of standard
 * input ends the driver. The children inherit standard error.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#define DIVIDER '\x1f'

struct job {
    char *line; /* all fields */
    char **fields;
    char **argv;
    char **env;
    pid_t pid;
    long long began, ended;
    int status;
};

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

static long long now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* The fields of a line as a list that ends with NULL. */
static char **split(char *line)
{
    size_t count = 2;
    for (char *at = line; *at; at++)
        count += *at == DIVIDER;
    char **fields = calloc(count, sizeof *fields);
    if (!fields)
        fail("calloc");
    for (size_t i = 0; line; i++) {
        char *end = strchr(line, DIVIDER);
        fields[i] = line;
        if (end)
            *end++ = 0;
        line = end;
    }
    return fields;
}

/* fields: stdin, stdout, argc, argv..., env...; argv is moved up by one for its NULL. */
static void read_job(struct job *job)
{
    size_t room = 0;
    ssize_t length = getline(&job->line, &room, stdin);
    if (length < 1)
        fail("a job's line");
    job->line[length - 1] = 0;
    job->fields = split(job->line);
    int argc = atoi(job->fields[2]);
    memmove(job->fields + 2, job->fields + 3, (size_t)argc * sizeof(char *));
    job->fields[2 + argc] = NULL;
    job->argv = job->fields + 2;
    job->env = job->fields + 3 + argc;
}

static void start(struct job *job)
{
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, job->fields[0], O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, job->fields[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    job->began = now();
    if (posix_spawn(&job->pid, job->argv[0], &files, NULL, job->argv, job->env))
        fail(job->argv[0]);
    posix_spawn_file_actions_destroy(&files);
}

static void finish(struct job *jobs, int count)
{
    int status;
    pid_t pid = waitpid(-1, &status, 0);
    long long at = now();
    for (int i = 0; i < count; i++)
        if (jobs[i].pid == pid && !jobs[i].ended) {
            jobs[i].ended = at;
            jobs[i].status = status;
        }
}

static void run(struct job *jobs, int count, int at_a_time)
{
    for (int started = 0, ended = 0; ended < count; ended++) {
        while (started < count && started - ended < at_a_time)
            start(&jobs[started++]);
        finish(jobs, count);
    }
}

int main(void)
{
    int at_a_time, count;
    while (scanf("%d %d%*1[\n]", &at_a_time, &count) == 2) {
        struct job *jobs = calloc((size_t)count, sizeof *jobs);
        if (!jobs)
            fail("calloc");
        for (int i = 0; i < count; i++)
            read_job(&jobs[i]);
        run(jobs, count, at_a_time);
        for (int i = 0; i < count; i++) {
            printf("%lld %lld %d\n", jobs[i].began, jobs[i].ended, jobs[i].status);
            free(jobs[i].fields);
            free(jobs[i].line);
        }
        free(jobs);
        fflush(stdout);
    }
    return 0;
}
