/*
 * Network namespaces: what a process must enter to get, and a daemon without their paths
 * cannot. A socket stays in the namespace that it was opened in; the shim goes there and back.
 *
 * Only network namespaces are entered or handed over, whatever stands at a path: it is
 * opened without waiting for a FIFO's writer and asked for its kind first.
 */
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    NS_GET_NSTYPE = 0xb703, /* include/uapi/linux/nsfs.h */
    NETLINK_ROUTE = 0,
    NLMSG_ERROR = 2
};

static void identity_of(const struct stat *stat, char identity[IDENTITY])
{
    struct bytes text = {0};
    put_decimal(&text, stat->st_dev);
    put_text(&text, ":");
    put_decimal(&text, stat->st_ino);
    memcpy(identity, text_of(&text), text.size + 1);
    release(&text);
}

/* The namespace at path, and which it is; -1 with errno. What is no regular file, as a namespace
 * is, is not even opened: opening a device may do anything. */
static int open_namespace(const char *path, char identity[IDENTITY])
{
    struct stat found;
    if (stat(path, &found))
        return -1;
    if (!S_ISREG(found.st_mode)) {
        errno = ENOTTY;
        return -1;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -1;
    if (ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET && !fstat(fd, &found)) {
        identity_of(&found, identity);
        return fd;
    }
    close(fd);
    errno = ENOTTY;
    return -1;
}

static int netlink_here(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

static void go_back(const struct place *home)
{
    if (setns(home->namespace, CLONE_NEWNET))
        stranded();
}

bool open_home(struct place *home)
{
    home->namespace = open_namespace("/proc/self/ns/net", home->identity);
    home->netlink = home->namespace < 0 ? -1 : netlink_here();
    return home->netlink >= 0;
}

int open_place(const char *path, const struct place *home, struct place *place)
{
    place->netlink = -1;
    place->namespace = open_namespace(path, place->identity);
    if (place->namespace < 0)
        return errno;
    int error = setns(place->namespace, CLONE_NEWNET) ? errno : 0;
    if (!error) {
        place->netlink = netlink_here();
        error = place->netlink < 0 ? errno : 0;
        go_back(home);
    }
    if (error)
        close_place(place);
    return error;
}

int identify(const char *path, char identity[IDENTITY])
{
    int fd = open_namespace(path, identity);
    if (fd < 0)
        return errno;
    close(fd);
    return 0;
}

void close_place(struct place *place)
{
    if (place->netlink >= 0)
        close(place->netlink);
    if (place->namespace >= 0)
        close(place->namespace);
    place->netlink = place->namespace = -1;
}

/* ---- SYSCTL ---- */

/* A setting that the daemon may ask for; its key ends at *equals. */
static bool good_setting(struct span setting, size_t *equals)
{
    static const char *const keys[] = {"disable_ipv6", "keep_addr_on_down"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        size_t size = strlen(keys[i]);
        *equals = size;
        if (setting.size == size + 2 && !memcmp(setting.at, keys[i], size)
            && setting.at[size] == '='
            && (setting.at[size + 1] == '0' || setting.at[size + 1] == '1'))
            return true;
    }
    const unsigned char *found = setting.size ? memchr(setting.at, '=', setting.size) : NULL;
    *equals = found ? (size_t)(found - setting.at) : setting.size;
    return false;
}

/* Names of a folder below conf/ that are one interface. */
static bool good_interface(struct span name, char text[IFNAMSIZ])
{
    return name.size && span_text(name, text, IFNAMSIZ) && !strchr(text, '/') && strcmp(text, ".")
        && strcmp(text, "..") && strcmp(text, "all") && strcmp(text, "default");
}

static int write_setting(const char *interface, struct span key, const unsigned char *value)
{
    struct bytes path = {0};
    put_text(&path, "/proc/sys/net/ipv6/conf/");
    put_text(&path, interface);
    put_text(&path, "/");
    put(&path, key.at, key.size);
    int fd = open(text_of(&path), O_WRONLY | O_CLOEXEC), error = fd < 0 ? errno : 0;
    release(&path);
    if (fd < 0)
        return error;
    if (write(fd, value, 1) != 1)
        error = errno;
    close(fd);
    return error;
}

/* Each setting of the call checked, or written; the first error, with the key it was at. */
static int each_setting(struct span rest, const char *interface, bool writing, struct span *key)
{
    unsigned tag;
    struct span value;
    size_t equals;
    while (frame_next(&rest, &tag, &value)) {
        if (tag != SETTING)
            continue;
        int error = good_setting(value, &equals) ? 0 : EINVAL;
        *key = (struct span){value.at, equals};
        if (!error && writing)
            error = write_setting(interface, *key, value.at + equals + 1);
        if (error)
            return error;
    }
    return 0;
}

int set_sysctls(struct span call, const struct place *home, struct span *key)
{
    struct span value;
    char path[PATH_ROOM], interface[IFNAMSIZ], identity[IDENTITY];
    *key = (struct span){0};
    if (!frame_get(call, PATH, &value) || !span_text(value, path, sizeof path)
        || !frame_get(call, NAME, &value) || !good_interface(value, interface))
        return EINVAL;
    int error = each_setting(call, interface, false, key);
    if (error)
        return error;
    *key = (struct span){0};
    int there = open_namespace(path, identity);
    if (there < 0)
        return errno;
    error = setns(there, CLONE_NEWNET) ? errno : 0;
    close(there);
    if (error)
        return error;
    error = each_setting(call, interface, true, key);
    go_back(home);
    return error;
}

/* ---- emergency return ---- */

/* Whether the kernel's acknowledgement of this number came in time, whatever it says. */
static bool acknowledged(int netlink, uint32_t number, int64_t until)
{
    struct nlmsghdr head = {0};
    while (ready(netlink, POLLIN, until) == FINE) {
        ssize_t got = recv(netlink, &head, sizeof head, MSG_DONTWAIT | MSG_TRUNC);
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        if (got >= (ssize_t)sizeof head && head.type == NLMSG_ERROR && head.number == number)
            return true;
    }
    return false;
}

/* What fails is left to the daemon, which looks at the whole and mends it. */
static void send_run(int netlink, const struct bytes *run, int64_t until)
{
    for (size_t at = 0; at < run->size;) {
        struct nlmsghdr head;
        memcpy(&head, run->at + at, sizeof head);
        if (send(netlink, run->at + at, head.size, 0) < 0
            || !acknowledged(netlink, head.number, sooner(until, BOND_ACK_MS)))
            return;
        at += (head.size + 3) & ~(size_t)3;
    }
}

/* A socket of our own in the pod's namespace, connected: a pod's process cannot answer it. */
static int clean_netlink(const struct place *home, const struct place *pod)
{
    static const struct {
        sa_family_t family;
        unsigned short pad;
        uint32_t port, groups;
    } kernel = {.family = AF_NETLINK};
    if (setns(pod->namespace, CLONE_NEWNET))
        return -1;
    int netlink = netlink_here();
    go_back(home);
    if (netlink >= 0 && connect(netlink, (const struct sockaddr *)&kernel, sizeof kernel)) {
        close(netlink);
        return -1;
    }
    return netlink;
}

/*
 * The daemon is gone and the pod's namespace will be, too, with every link in it that has no
 * hardware. The record says how they come home.
 */
void emergency_return(const char *record, const struct place *home, const struct place *pod, int64_t until)
{
    struct bytes text = {0}, run = {0};
    struct stat found;
    int file = open(record, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
    if (file < 0)
        return;
    if (!fstat(file, &found) && S_ISREG(found.st_mode)) /* a FIFO may have a silent writer */
        read_all(file, &text, RECORD_LIMIT, until);
    close(file);
    if (text.size > RECORD_LIMIT)
        text.size = RECORD_LIMIT;
    if (way_home((struct span){text.at, text.size}, pod->identity, home->namespace, &run)) {
        int netlink = clean_netlink(home, pod);
        if (netlink >= 0)
            send_run(netlink, &run, until);
    }
    release(&text);
    release(&run);
}
