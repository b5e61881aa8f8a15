/*
 * Waiting: every read and write of the shim, each with a deadline on the monotonic clock.
 *
 * No descriptor has to be non-blocking; poll() is asked first, and a pipe that is ready
 * takes PIPE_BUF bytes without blocking.
 */
#include "shim.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 1 << 16, MOST_FDS = 4 };

int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* The deadline that comes first: until, or so many milliseconds from now. */
int64_t sooner(int64_t until, int64_t within)
{
    int64_t other = now() + within;
    return other < until ? other : until;
}

enum end ready(int descriptor, short events, int64_t until)
{
    struct pollfd poll_of = {.fd = descriptor, .events = events};
    for (;;) {
        int64_t left = until - now();
        int count = poll(&poll_of, 1, left < 0 ? 0 : (int)left);
        if (count > 0)
            return poll_of.revents & POLLNVAL ? WRONG : FINE;
        if (count == 0)
            return LATE;
        if (errno != EINTR)
            return WRONG;
    }
}

static bool again(void)
{
    return errno == EAGAIN || errno == EINTR;
}

/* The descriptors go with the first bytes, once. */
static ssize_t send_some(int peer, struct span what, const int *fds, size_t count)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(MOST_FDS * sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)what.at, .iov_len = what.size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count) {
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = (socklen_t)CMSG_LEN(count * sizeof *fds);
        memcpy(CMSG_DATA(&control.head), fds, count * sizeof *fds);
        message.msg_control = &control;
        message.msg_controllen = (socklen_t)CMSG_SPACE(count * sizeof *fds);
    }
    return sendmsg(peer, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

enum end send_frame(int peer, const struct bytes *frame, const int *fds, size_t count,
                    int64_t until)
{
    struct span rest = {frame->at, frame->size};
    while (rest.size) {
        ssize_t sent = send_some(peer, rest, fds, count);
        if (sent >= 0) {
            rest.at += sent;
            rest.size -= (size_t)sent;
            count = 0;
            continue;
        }
        if (!again())
            return GONE;
        enum end end = ready(peer, POLLOUT, until);
        if (end != FINE)
            return end;
    }
    return FINE;
}

/* Descriptors that come with bytes are closed by the kernel: there is no room for them. */
enum end receive(int peer, unsigned char *at, size_t size, int64_t until)
{
    while (size) {
        enum end end = ready(peer, POLLIN, until);
        if (end != FINE)
            return end;
        ssize_t got = recv(peer, at, size, MSG_DONTWAIT);
        if (got < 0 && again())
            continue;
        if (got <= 0)
            return GONE;
        at += got;
        size -= (size_t)got;
    }
    return FINE;
}

/* To the end; WRONG with errno EFBIG where there is more than limit. */
enum end read_all(int descriptor, struct bytes *into, size_t limit, int64_t until)
{
    for (;;) {
        enum end end = ready(descriptor, POLLIN, until);
        if (end != FINE)
            return end;
        reserve(into, CHUNK);
        ssize_t got = read(descriptor, into->at + into->size, CHUNK);
        if (got < 0 && again())
            continue;
        if (got < 0)
            return WRONG;
        if (got == 0)
            return FINE;
        into->size += (size_t)got;
        if (into->size > limit) {
            errno = EFBIG;
            return WRONG;
        }
    }
}

enum end write_all(int descriptor, struct span what, int64_t until)
{
    while (what.size) {
        enum end end = ready(descriptor, POLLOUT, until);
        if (end != FINE)
            return end;
        ssize_t done = write(descriptor, what.at, what.size < PIPE_BUF ? what.size : PIPE_BUF);
        if (done < 0 && again())
            continue;
        if (done < 0)
            return GONE;
        what.at += done;
        what.size -= (size_t)done;
    }
    return FINE;
}
