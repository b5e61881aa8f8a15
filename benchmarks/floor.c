/* floor: the time of the kernel alone: create or delete a pod's bond by the fewest messages.
 *
 *   floor ADD pod|host NETNS BOND LINK...
 *   floor DEL pod|host NETNS BOND LINK...
 *
 * ADD leaves what the plugin's ADD leaves (active-backup, miimon 100, MTU 1500, members in the
 * bond, everything up), DEL what its DEL leaves (no bond, links restored and up). It reads no
 * configuration, and does not look up, check, record or read back anything. All messages go in
 * one send through one socket; every ack is read, and one that is not 0 ends it with status 1.
 *
 * Standard output: microseconds from before the send until after the last ack.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define INDEX 7777 /* the bond's ifindex, chosen, so that it need not be read */
#define ACTIVE_BACKUP 1
#define MIIMON 100
#define MTU 1500

static _Alignas(4) unsigned char batch[1 << 15];
static size_t used;
static unsigned count;
static struct nlmsghdr *message;

static void fail(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void begin(int type, int flags, int index, unsigned on, unsigned mask)
{
    message = (struct nlmsghdr *)(batch + used);
    struct ifinfomsg *link = NLMSG_DATA(message);
    message->nlmsg_type = (uint16_t)type;
    message->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
    message->nlmsg_seq = ++count;
    link->ifi_index = index;
    link->ifi_flags = on;
    link->ifi_change = mask;
    used += NLMSG_LENGTH(sizeof *link);
}

static void end(void)
{
    message->nlmsg_len = (uint32_t)(batch + used - (unsigned char *)message);
}

static void put(int type, const void *value, size_t size)
{
    struct rtattr *attribute = (struct rtattr *)(batch + used);
    attribute->rta_type = (uint16_t)type;
    attribute->rta_len = (uint16_t)RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), value, size);
    used += RTA_ALIGN(attribute->rta_len);
}

static void put_text(int type, const char *text)
{
    put(type, text, strlen(text) + 1);
}

static void put_number(int type, uint32_t value)
{
    put(type, &value, sizeof value);
}

static struct rtattr *open_nest(int type)
{
    struct rtattr *nest = (struct rtattr *)(batch + used);
    put(type, NULL, 0);
    return nest;
}

static void close_nest(struct rtattr *nest)
{
    nest->rta_len = (uint16_t)(batch + used - (unsigned char *)nest);
}

/* target: the namespace to create it in; -1: that of the socket. */
static void make_bond(const char *name, int target)
{
    uint8_t mode = ACTIVE_BACKUP;
    begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, INDEX, IFF_UP, IFF_UP);
    put_text(IFLA_IFNAME, name);
    put_number(IFLA_MTU, MTU);
    if (target >= 0)
        put_number(IFLA_NET_NS_FD, (uint32_t)target);
    struct rtattr *info = open_nest(IFLA_LINKINFO);
    put_text(IFLA_INFO_KIND, "bond");
    struct rtattr *data = open_nest(IFLA_INFO_DATA);
    put(IFLA_BOND_MODE, &mode, sizeof mode);
    put_number(IFLA_BOND_MIIMON, MIIMON);
    close_nest(data);
    close_nest(info);
    end();
}

/* Down, into the other namespace, into the bond: the order in which the kernel applies them. */
static void enslave(const char *name, int target)
{
    begin(RTM_NEWLINK, 0, 0, 0, IFF_UP);
    put_text(IFLA_IFNAME, name);
    if (target >= 0)
        put_number(IFLA_NET_NS_FD, (uint32_t)target);
    put_number(IFLA_MASTER, INDEX);
    end();
}

static void delete_bond(void)
{
    begin(RTM_DELLINK, 0, INDEX, 0, 0);
    end();
}

static void release(const char *name, int target)
{
    begin(RTM_NEWLINK, 0, 0, IFF_UP, IFF_UP);
    put_text(IFLA_IFNAME, name);
    if (target >= 0)
        put_number(IFLA_NET_NS_FD, (uint32_t)target);
    end();
}

static void read_acks(int sock)
{
    static _Alignas(4) unsigned char answer[1 << 14];
    for (unsigned left = count; left;) {
        ssize_t size = recv(sock, answer, sizeof answer, 0);
        if (size < 0)
            fail("recv");
        unsigned room = (unsigned)size;
        for (struct nlmsghdr *one = (struct nlmsghdr *)answer; NLMSG_OK(one, room);
             one = NLMSG_NEXT(one, room), left--) {
            struct nlmsgerr *error = NLMSG_DATA(one);
            if (one->nlmsg_type != NLMSG_ERROR || error->error) {
                errno = one->nlmsg_type == NLMSG_ERROR ? -error->error : EBADMSG;
                fprintf(stderr, "floor: message %u of %u: ", one->nlmsg_seq, count);
                fail("refused");
            }
        }
    }
}

static double exchange(int sock)
{
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    if (send(sock, batch, used, 0) < 0)
        fail("send");
    read_acks(sock);
    clock_gettime(CLOCK_MONOTONIC, &to);
    return (double)(to.tv_sec - from.tv_sec) * 1e6 + (double)(to.tv_nsec - from.tv_nsec) / 1e3;
}

static int must_open(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        fail(path);
    return fd;
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return 2;
    int add = !strcmp(argv[1], "ADD"), host = !strcmp(argv[2], "host");
    int pod = must_open(argv[3]);
    int target = !host ? -1 : add ? pod : must_open("/proc/self/ns/net");
    if (!(host && add) && setns(pod, CLONE_NEWNET)) /* else the host's socket is used */
        fail("setns");
    int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), one = 1;
    if (sock < 0 || setsockopt(sock, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one))
        fail("socket");
    if (add)
        make_bond(argv[4], target);
    else
        delete_bond();
    for (int i = 5; i < argc; i++)
        (add ? enslave : release)(argv[i], target);
    printf("%.1f\n", exchange(sock));
    return 0;
}
