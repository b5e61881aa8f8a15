/*
 * Reading and writing, each with a deadline on the monotonic clock.
 *
 * Descriptors need not be non-blocking: poll() comes first, and a pipe that is ready for writing
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

/* The earlier deadline: until, or `within` milliseconds from now. */
int64_t earlier(int64_t until, int64_t within)
{
    int64_t other = now() + within;
    return other < until ? other : until;
}

enum outcome wait_for(int descriptor, short events, int64_t until)
{
    struct pollfd poll_of = {.fd = descriptor, .events = events};
    for (;;) {
        int64_t left = until - now();
        int count = poll(&poll_of, 1, left < 0 ? 0 : (int)left);
        if (count > 0)
            return poll_of.revents & POLLNVAL ? FAILED : SUCCESS;
        if (count == 0)
            return TIMED_OUT;
        if (errno != EINTR)
            return FAILED;
    }
}

static bool may_retry(void)
{
    return errno == EAGAIN || errno == EINTR;
}

/* Send some bytes, with the descriptors. */
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

enum outcome send_frame(int peer, const struct bytes *frame, const int *fds, size_t count,
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
        if (!may_retry())
            return DISCONNECTED;
        enum outcome outcome = wait_for(peer, POLLOUT, until);
        if (outcome != SUCCESS)
            return outcome;
    }
    return SUCCESS;
}

/* The kernel closes descriptors that come with the bytes: recv() has no room for them. */
enum outcome receive(int peer, unsigned char *at, size_t size, int64_t until)
{
    while (size) {
        enum outcome outcome = wait_for(peer, POLLIN, until);
        if (outcome != SUCCESS)
            return outcome;
        ssize_t got = recv(peer, at, size, MSG_DONTWAIT);
        if (got < 0 && may_retry())
            continue;
        if (got <= 0)
            return DISCONNECTED;
        at += got;
        size -= (size_t)got;
    }
    return SUCCESS;
}

/* Read to the end; FAILED with errno EFBIG above limit. */
enum outcome read_all(int descriptor, struct bytes *into, size_t limit, int64_t until)
{
    for (;;) {
        enum outcome outcome = wait_for(descriptor, POLLIN, until);
        if (outcome != SUCCESS)
            return outcome;
        reserve(into, CHUNK);
        ssize_t got = read(descriptor, into->at + into->size, CHUNK);
        if (got < 0 && may_retry())
            continue;
        if (got < 0)
            return FAILED;
        if (got == 0)
            return SUCCESS;
        into->size += (size_t)got;
        if (into->size > limit) {
            errno = EFBIG;
            return FAILED;
        }
    }
}

enum outcome write_all(int descriptor, struct span what, int64_t until)
{
    while (what.size) {
        enum outcome outcome = wait_for(descriptor, POLLOUT, until);
        if (outcome != SUCCESS)
            return outcome;
        ssize_t done = write(descriptor, what.at, what.size < PIPE_BUF ? what.size : PIPE_BUF);
        if (done < 0 && may_retry())
            continue;
        if (done < 0)
            return DISCONNECTED;
        what.at += done;
        what.size -= (size_t)done;
    }
    return SUCCESS;
}
