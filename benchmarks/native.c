/* native: the time from the start of a program to its connection, and to its end.
 *
 *   native TIMES SOCKET INPUT PROGRAM
 *
 * It listens at SOCKET, starts PROGRAM (environment: CNI_COMMAND=STATUS and the socket's path;
 * standard input: INPUT) with posix_spawn, accepts, reads one frame (docs/protocol.md), answers
 * success at once, and waits for the end.
 *
 * Standard output: a line for each time, nanoseconds from before posix_spawn to after accept,
 * and to after waitpid.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

static int listen_at(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strncpy(at.sun_path, path, sizeof at.sun_path - 1);
    unlink(path);
    if (sock < 0 || bind(sock, (struct sockaddr *)&at, sizeof at) || listen(sock, 8))
        fail(path);
    return sock;
}

static pid_t start(const char *program, const char *input, const char *path)
{
    char where[256];
    snprintf(where, sizeof where, "BONDCNI_SOCKET=%s", path);
    char *argv[] = {(char *)program, NULL};
    char *env[] = {"CNI_COMMAND=STATUS", "CNI_PATH=/opt/cni/bin", where, NULL};
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, input, O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
    pid_t pid;
    if (posix_spawn(&pid, program, &files, NULL, argv, env))
        fail(program);
    posix_spawn_file_actions_destroy(&files);
    return pid;
}

static void read_whole(int peer, void *into, size_t size)
{
    if (size && recv(peer, into, size, MSG_WAITALL) != (ssize_t)size)
        fail("the request");
}

static void answer(int peer)
{
    static unsigned char payload[1 << 16];
    unsigned char header[8];
    static const unsigned char fine[] = {1, 2, 0, 0, 10, 0, 0, 0, 7, 0, 4, 0, 0, 0, 0, 0, 0, 0};
    read_whole(peer, header, sizeof header);
    uint32_t size;
    memcpy(&size, header + 4, sizeof size);
    if (size > sizeof payload)
        fail("a request that is too long");
    read_whole(peer, payload, size);
    if (send(peer, fine, sizeof fine, MSG_NOSIGNAL) < 0)
        fail("the answer");
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    int listener = listen_at(argv[2]);
    for (int left = atoi(argv[1]); left > 0; left--) {
        long long began = now();
        pid_t pid = start(argv[4], argv[3], argv[2]);
        int peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        long long accepted = now();
        if (peer < 0)
            fail("accept");
        answer(peer);
        int status;
        if (waitpid(pid, &status, 0) != pid || status)
            fail("the program failed");
        printf("%lld %lld\n", accepted - began, now() - began);
        close(peer);
        usleep(1000);
    }
    unlink(argv[2]);
    return 0;
}
