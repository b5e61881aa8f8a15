/*
 * The queue: a DEL that is stored for the daemon, on disk before the runtime gets its answer.
 *
 * The file is written under a temporary name, flushed and renamed. The file and its directory get
 * the owner of the state directory, because the daemon may not be root. That owner can create
 * symbolic links there: none below the state directory is followed, and no existing file is
 * written to.
 */
#include "shim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Create a directory and its parents; only the last is private. */
static bool make_directories(const char *path)
{
    struct bytes above = {0};
    for (const char *slash = path; *slash && (slash = strchr(slash + 1, '/'));) {
        above.size = 0;
        put(&above, path, (size_t)(slash - path));
        mkdir(text_of(&above), 0755); /* an error shows up in the last mkdir() */
    }
    release(&above);
    return !mkdir(path, 0700) || errno == EEXIST;
}

static bool give_to(int fd, const struct stat *owner)
{
    struct stat own;
    if (fstat(fd, &own))
        return false;
    bool same = own.st_uid == owner->st_uid && own.st_gid == owner->st_gid;
    return same || !fchown(fd, owner->st_uid, owner->st_gid);
}

/* Open the directory `queue` in the state directory; -1 with errno. */
static int open_queue(const char *state, struct stat *owner)
{
    if (!make_directories(state))
        return -1;
    int above = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (above < 0)
        return -1;
    int queue = -1;
    bool made = !mkdirat(above, "queue", 0700);
    if (!fstat(above, owner) && (made || errno == EEXIST))
        queue = openat(above, "queue", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int error = errno;
    if (queue >= 0 && (!give_to(queue, owner) || (made && fsync(above)))) {
        error = errno;
        close(queue);
        queue = -1;
    }
    close(above);
    errno = error;
    return queue;
}

/* Whether one more file is allowed; a file of the same name is replaced and does not count. */
static bool has_room(int queue, const char *name)
{
    size_t count = 0;
    DIR *directory = fdopendir(openat(queue, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory)
        return false;
    for (struct dirent *entry; (entry = readdir(directory));) {
        size_t size = strlen(entry->d_name);
        if (size > 4 && !strcmp(entry->d_name + size - 4, ".del") && strcmp(entry->d_name, name))
            count++;
    }
    closedir(directory);
    errno = ENOSPC;
    return count < QUEUE_LIMIT;
}

static bool write_file(int fd, struct span what)
{
    while (what.size) {
        ssize_t done = write(fd, what.at, what.size);
        if (done < 0 && errno != EINTR)
            return false;
        if (done > 0) {
            what.at += done;
            what.size -= (size_t)done;
        }
    }
    return !fsync(fd);
}

/* Write a new file; one that a killed process with the same PID left is removed first. */
static bool write_entry(int queue, const char *name, const char *temporary,
                        const struct stat *owner, const struct bytes *frame)
{
    unlinkat(queue, temporary, 0);
    int fd = openat(queue, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    bool good = give_to(fd, owner) && write_file(fd, (struct span){frame->at, frame->size});
    int error = errno;
    if (close(fd) && good) {
        good = false;
        error = errno;
    }
    if (good && !renameat(queue, temporary, queue, name))
        return !fsync(queue);
    if (good)
        error = errno;
    unlinkat(queue, temporary, 0);
    errno = error;
    return false;
}

/* Queue a DEL; NULL, or what failed, with errno. */
const char *queue_request(const char *state, const char *name, const struct bytes *frame)
{
    struct stat owner;
    struct bytes temporary = {0};
    int queue = open_queue(state, &owner);
    if (queue < 0)
        return "open the directory";
    put_decimal(&temporary, (uint64_t)getpid());
    put_text(&temporary, ".tmp");
    const char *failed = NULL;
    if (!has_room(queue, name))
        failed = "limit of 4096";
    else if (!write_entry(queue, name, text_of(&temporary), &owner, frame))
        failed = "write the file";
    int error = errno;
    release(&temporary);
    close(queue);
    errno = error;
    return failed;
}
