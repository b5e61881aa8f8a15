/*
 * Network namespaces: what needs a process that can enter them and sees the runtime's paths,
 * neither of which the daemon can. A socket stays in the namespace in which it was opened; the shim
 * enters that namespace and returns.
 *
 * Only network namespaces are entered or passed on, whatever is at a path: it is opened without
 * waiting (for the writer of a FIFO), and its type is checked first.
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

/* Open the namespace at path and get its identity; -1 with errno. A namespace is a regular file;
 * anything else is not opened, because opening a device can have any effect. */
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

static void return_to_own(const struct netns *own)
{
    if (setns(own->namespace, CLONE_NEWNET))
        cannot_return();
}

bool open_own_netns(struct netns *own)
{
    own->namespace = open_namespace("/proc/self/ns/net", own->identity);
    own->netlink = own->namespace < 0 ? -1 : netlink_here();
    return own->netlink >= 0;
}

int open_netns(const char *path, const struct netns *own, struct netns *netns)
{
    netns->netlink = -1;
    netns->namespace = open_namespace(path, netns->identity);
    if (netns->namespace < 0)
        return errno;
    int error = setns(netns->namespace, CLONE_NEWNET) ? errno : 0;
    if (!error) {
        netns->netlink = netlink_here();
        error = netns->netlink < 0 ? errno : 0;
        return_to_own(own);
    }
    if (error)
        close_netns(netns);
    return error;
}

int netns_identity(const char *path, char identity[IDENTITY])
{
    int fd = open_namespace(path, identity);
    if (fd < 0)
        return errno;
    close(fd);
    return 0;
}

void close_netns(struct netns *netns)
{
    if (netns->netlink >= 0)
        close(netns->netlink);
    if (netns->namespace >= 0)
        close(netns->namespace);
    netns->netlink = netns->namespace = -1;
}

/* ---- SYSCTL ---- */

/* Whether the daemon may ask for this setting; *equals is the size of its key. */
static bool valid_setting(struct span setting, size_t *equals)
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

/* Whether a name is a directory below conf/ that belongs to one interface. */
static bool valid_interface(struct span name, char text[IFNAMSIZ])
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

/* Check or write each setting of the call; the first error, and its key. */
static int each_setting(struct span rest, const char *interface, bool writing, struct span *key)
{
    unsigned tag;
    struct span value;
    size_t equals;
    while (frame_next(&rest, &tag, &value)) {
        if (tag != SETTING)
            continue;
        int error = valid_setting(value, &equals) ? 0 : EINVAL;
        *key = (struct span){value.at, equals};
        if (!error && writing)
            error = write_setting(interface, *key, value.at + equals + 1);
        if (error)
            return error;
    }
    return 0;
}

int set_sysctls(struct span call, const struct netns *own, struct span *key)
{
    struct span value;
    char path[PATH_ROOM], interface[IFNAMSIZ], identity[IDENTITY];
    *key = (struct span){0};
    if (!frame_get(call, PATH, &value) || !span_text(value, path, sizeof path)
        || !frame_get(call, NAME, &value) || !valid_interface(value, interface))
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
    return_to_own(own);
    return error;
}

/* ---- emergency return ---- */

/* Whether the kernel answered the message of this number in time, with success or an error. */
static bool acknowledged(int netlink, uint32_t number, int64_t until)
{
    struct nlmsghdr head = {0};
    while (wait_for(netlink, POLLIN, until) == SUCCESS) {
        ssize_t got = recv(netlink, &head, sizeof head, MSG_DONTWAIT | MSG_TRUNC);
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        if (got >= (ssize_t)sizeof head && head.type == NLMSG_ERROR && head.number == number)
            return true;
    }
    return false;
}

/* Errors are ignored: the daemon restores the links later, from their state at that time. */
static void send_messages(int netlink, const struct bytes *messages, int64_t until)
{
    for (size_t at = 0; at < messages->size;) {
        struct nlmsghdr head;
        memcpy(&head, messages->at + at, sizeof head);
        if (send(netlink, messages->at + at, head.size, 0) < 0
            || !acknowledged(netlink, head.number, earlier(until, BOND_ACK_MS)))
            return;
        at += (head.size + 3) & ~(size_t)3;
    }
}

/* A new socket in the pod's namespace, connected to the kernel: no process of the pod can answer. */
static int open_connected_netlink(const struct netns *own, const struct netns *pod)
{
    static const struct {
        sa_family_t family;
        unsigned short pad;
        uint32_t port, groups;
    } kernel = {.family = AF_NETLINK};
    if (setns(pod->namespace, CLONE_NEWNET))
        return -1;
    int netlink = netlink_here();
    return_to_own(own);
    if (netlink >= 0 && connect(netlink, (const struct sockaddr *)&kernel, sizeof kernel)) {
        close(netlink);
        return -1;
    }
    return netlink;
}

/*
 * No daemon runs, and the pod's namespace will be destroyed, with every virtual link in it. Send
 * the messages in the record, which move the links to the host.
 */
void emergency_return(const char *record, const struct netns *own, const struct netns *pod,
                      int64_t until)
{
    struct bytes text = {0}, messages = {0};
    struct stat found;
    int file = open(record, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
    if (file < 0)
        return;
    if (!fstat(file, &found) && S_ISREG(found.st_mode)) /* reading a FIFO could block */
        read_all(file, &text, RECORD_LIMIT, until);
    close(file);
    if (text.size > RECORD_LIMIT)
        text.size = RECORD_LIMIT;
    const struct span content = {text.at, text.size};
    if (return_messages(content, pod->identity, own->namespace, &messages)) {
        int netlink = open_connected_netlink(own, pod);
        if (netlink >= 0)
            send_messages(netlink, &messages, until);
    }
    release(&text);
    release(&messages);
}
