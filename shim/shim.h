/*
 * Declarations shared by the files of the shim.
 *
 * frame.c and scan.c are pure: they parse untrusted bytes within given bounds and use no
 * descriptor. io.c waits, always with a deadline. namespace.c enters network namespaces. queue.c
 * stores a DEL in a file. delegate.c runs a plugin. bond.c has main() and the request.
 */
#ifndef SHIM_H
#define SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Milliseconds. Tests build with shorter ones. */
#ifndef BOND_DEADLINE_MS
#define BOND_DEADLINE_MS 110000 /* the whole request; kubelet gives up after 120 s */
#endif
#ifndef BOND_STDIN_MS
#define BOND_STDIN_MS 30000 /* a runtime writes at once, but the node may be busy */
#endif
#ifndef BOND_STEP_MS
#define BOND_STEP_MS 5000 /* connect(); one frame from its first byte to its last */
#endif
#ifndef BOND_EXEC_MS
#define BOND_EXEC_MS 60000 /* a delegate, if the daemon sets no shorter deadline */
#endif
#ifndef BOND_ACK_MS
#define BOND_ACK_MS 2000 /* the kernel answers at once, unless it waits for its lock */
#endif

enum {
    STDIN_LIMIT = 4 << 20,  /* a configuration with prevResult has a few KiB */
    ENV_LIMIT = 2 << 20,    /* the usual limit of the kernel for a new process */
    ENV_COUNT = 4096,       /* also bounds the work of merging changes */
    OUTPUT_LIMIT = 1 << 20, /* a delegate's result has a few KiB */
    STDERR_LIMIT = 64 << 10, /* the last bytes of a delegate's standard error */
    FRAME_LIMIT = 8 << 20,  /* standard input, environment and a margin */
    RECORD_LIMIT = 1 << 20, /* the messages are at the beginning of a record */
    QUEUE_LIMIT = 4096,     /* queued DELs: more than pods fit on a node */
    IDENTITY = 48,          /* two 64-bit numbers, a colon, a NUL */
    IFNAMSIZ = 16,          /* an interface name and its NUL */
    PATH_ROOM = 4096        /* PATH_MAX */
};

/* ---- bytes (frame.c) ---- */

struct span { /* bytes that something else owns */
    const unsigned char *at;
    size_t size;
};

struct bytes { /* a buffer that grows */
    unsigned char *at;
    size_t size, room;
};

void put(struct bytes *bytes, const void *at, size_t size);
void put_text(struct bytes *bytes, const char *text);
void put_decimal(struct bytes *bytes, uint64_t number);
void reserve(struct bytes *bytes, size_t more);
void release(struct bytes *bytes);
const char *text_of(struct bytes *bytes); /* followed by a NUL, which size does not count */
struct span span_of(const char *text);
bool span_text(struct span span, char *text, size_t room); /* false: too long, or contains a NUL */

/* ---- frames (frame.c) ---- */

enum { VERSION = 1, HEADER = 8 };
enum type { REQUEST = 1, ANSWER, EXEC, DONE, FIND, SYSCTL, IDENTIFY, OPEN, PING };
enum tag {
    DESCRIPTORS = 1, HOST, POD, POD_ERROR, ENV, STDIN, STATUS, OUTPUT, WARNINGS,
    NAME, PATH, DEADLINE, EXIT, SETTING, STDERR,
    TAGS,
    CRITICAL = 0x8000 /* a receiver must not ignore an unknown tag with this bit */
};

void frame_begin(struct bytes *frame, enum type type);
void frame_field(struct bytes *frame, enum tag tag, const void *at, size_t size);
void frame_number(struct bytes *frame, enum tag tag, uint32_t number);
void frame_end(struct bytes *frame);
bool frame_header(const unsigned char header[HEADER], unsigned *type, size_t *size);
bool frame_check(struct span payload); /* true: valid for the functions below */
bool frame_next(struct span *rest, unsigned *tag, struct span *value);
bool frame_get(struct span payload, enum tag tag, struct span *value); /* the last such field */
bool frame_get_number(struct span payload, enum tag tag, uint32_t *number);

/* ---- untrusted text (scan.c) ---- */

extern const char *const SUPPORTED[]; /* cniVersions, oldest first, then NULL */
const char *cni_version(struct span json); /* the document's, or the newest supported */
size_t utf8_size(struct span text);             /* of the first character; 0: not UTF-8 */
void put_json(struct bytes *bytes, const char *text); /* quoted */
bool valid_container_id(const char *id);
const char *ifname_error(const char *name); /* NULL: it is valid */

struct nlmsghdr { /* include/uapi/linux/netlink.h, which musl lacks */
    uint32_t size;
    uint16_t type, flags;
    uint32_t number, port;
};

bool return_messages(struct span record, const char *pod, int32_t host, struct bytes *messages);

/* ---- waiting (io.c) ---- */

enum outcome { SUCCESS, DISCONNECTED, TIMED_OUT, FAILED };

int64_t now(void); /* milliseconds, monotonic */
int64_t earlier(int64_t until, int64_t within);
enum outcome wait_for(int descriptor, short events, int64_t until);
enum outcome send_frame(int peer, const struct bytes *frame, const int *fds, size_t count,
                    int64_t until);
enum outcome receive(int peer, unsigned char *at, size_t size, int64_t until);
enum outcome read_all(int descriptor, struct bytes *into, size_t limit, int64_t until);
enum outcome write_all(int descriptor, struct span what, int64_t until);

/* ---- network namespaces (namespace.c) ---- */

struct netns {
    int netlink, namespace; /* -1: none */
    char identity[IDENTITY];
};

bool open_own_netns(struct netns *own); /* of the shim, which is the host's */
int open_netns(const char *path, const struct netns *own, struct netns *netns); /* an errno */
int netns_identity(const char *path, char identity[IDENTITY]); /* an errno */
void close_netns(struct netns *netns);
int set_sysctls(struct span call, const struct netns *own, struct span *key); /* an errno */
void emergency_return(const char *record, const struct netns *own, const struct netns *pod,
                      int64_t until);
_Noreturn void cannot_return(void); /* bond.c: fails the request */

/* ---- the queue (queue.c) ---- */

const char *queue_request(const char *state, const char *name, const struct bytes *frame);

/* ---- delegates (delegate.c) ---- */

int find_delegate(struct span call, struct bytes *path); /* an errno */
enum outcome run_delegate(struct span call, int peer, int64_t until, struct bytes *reply);

#endif
