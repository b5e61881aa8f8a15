/*
 * What the files of the shim share: bytes, frames, waiting, places, delegates.
 *
 * frame.c and scan.c are pure: they read what others wrote, by address and size, and hold
 * no descriptor. io.c waits, always with a deadline. place.c goes to namespaces. queue.c
 * writes the file of a DEL. delegate.c runs a plugin. bond.c is the request.
 */
#ifndef SHIM_H
#define SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Milliseconds. A test's build has shorter ones. */
#ifndef BOND_DEADLINE_MS
#define BOND_DEADLINE_MS 110000 /* the whole request; kubelet gives up after 120 s */
#endif
#ifndef BOND_STDIN_MS
#define BOND_STDIN_MS 30000 /* a runtime writes at once; its machine may be busy */
#endif
#ifndef BOND_STEP_MS
#define BOND_STEP_MS 5000 /* connect; one frame from its first byte to its last */
#endif
#ifndef BOND_EXEC_MS
#define BOND_EXEC_MS 60000 /* a delegate, whatever the daemon says */
#endif
#ifndef BOND_ACK_MS
#define BOND_ACK_MS 2000 /* the kernel answers within the call; this is for its lock */
#endif

enum {
    STDIN_LIMIT = 4 << 20,  /* a configuration with prevResult is some KiB */
    ENV_LIMIT = 2 << 20,    /* what the kernel gives a new process, as a rule */
    ENV_COUNT = 4096,       /* bounds the work of applying differences, too */
    OUTPUT_LIMIT = 1 << 20, /* a delegate's result is some KiB */
    STDERR_LIMIT = 64 << 10, /* of what a delegate writes there the last is kept */
    FRAME_LIMIT = 8 << 20,  /* standard input, environment and some room */
    RECORD_LIMIT = 1 << 20, /* way_home stands at the head of a record */
    QUEUE_LIMIT = 4096,     /* DELs that wait for the daemon: more than pods fit on a node */
    IDENTITY = 48,          /* two numbers of 64 bits, a colon, a NUL */
    IFNAMSIZ = 16,          /* an interface's name and its NUL */
    PATH_ROOM = 4096        /* PATH_MAX */
};

/* ---- bytes (frame.c) ---- */

struct span { /* of another's memory */
    const unsigned char *at;
    size_t size;
};

struct bytes { /* owned; grows */
    unsigned char *at;
    size_t size, room;
};

void put(struct bytes *bytes, const void *at, size_t size);
void put_text(struct bytes *bytes, const char *text);
void put_decimal(struct bytes *bytes, uint64_t number);
void reserve(struct bytes *bytes, size_t more);
void release(struct bytes *bytes);
const char *text_of(struct bytes *bytes); /* with a NUL behind it, which is not counted */
struct span span_of(const char *text);
bool span_text(struct span span, char *text, size_t room); /* false: too long, or has a NUL */

/* ---- frames (frame.c) ---- */

enum { VERSION = 1, HEADER = 8 };
enum type { REQUEST = 1, ANSWER, EXEC, DONE, FIND, SYSCTL, IDENTIFY, OPEN, PING };
enum tag {
    DESCRIPTORS = 1, HOST, POD, POD_ERROR, ENV, STDIN, STATUS, OUTPUT, WARNINGS,
    NAME, PATH, DEADLINE, EXIT, SETTING, STDERR,
    TAGS,
    CRITICAL = 0x8000 /* who does not know such a tag must not go on */
};

void frame_begin(struct bytes *frame, enum type type);
void frame_field(struct bytes *frame, enum tag tag, const void *at, size_t size);
void frame_number(struct bytes *frame, enum tag tag, uint32_t number);
void frame_end(struct bytes *frame);
bool frame_header(const unsigned char header[HEADER], unsigned *type, size_t *size);
bool frame_check(struct span payload); /* true: the functions below may read it */
bool frame_next(struct span *rest, unsigned *tag, struct span *value);
bool frame_get(struct span payload, enum tag tag, struct span *value); /* the last */
bool frame_get_number(struct span payload, enum tag tag, uint32_t *number);

/* ---- text of others (scan.c) ---- */

extern const char *const SUPPORTED[]; /* cniVersions, oldest first; NULL ends them */
const char *cni_version(struct span json); /* the document's where supported, else the newest */
size_t utf8(struct span text);             /* bytes of its first character; 0: it is not UTF-8 */
void put_json(struct bytes *bytes, const char *text); /* quoted */
bool good_container(const char *id);
const char *bad_ifname(const char *name); /* why; NULL: it is good */

struct nlmsghdr { /* include/uapi/linux/netlink.h, which musl does not come with */
    uint32_t size;
    uint16_t type, flags;
    uint32_t number, port;
};

bool way_home(struct span record, const char *pod, int32_t host, struct bytes *run);

/* ---- waiting (io.c) ---- */

enum end { FINE, GONE, LATE, WRONG }; /* how a step ended; GONE: the other side is */

int64_t now(void); /* milliseconds, monotonic */
int64_t sooner(int64_t until, int64_t within);
enum end ready(int descriptor, short events, int64_t until);
enum end send_frame(int peer, const struct bytes *frame, const int *fds, size_t count,
                    int64_t until);
enum end receive(int peer, unsigned char *at, size_t size, int64_t until);
enum end read_all(int descriptor, struct bytes *into, size_t limit, int64_t until);
enum end write_all(int descriptor, struct span what, int64_t until);

/* ---- network namespaces (place.c) ---- */

struct place {
    int netlink, namespace; /* -1: none */
    char identity[IDENTITY];
};

bool open_home(struct place *home);                       /* the shim's own */
int open_place(const char *path, const struct place *home, struct place *place); /* an errno */
int identify(const char *path, char identity[IDENTITY]); /* an errno */
void close_place(struct place *place);
int set_sysctls(struct span call, const struct place *home, struct span *key); /* an errno */
void emergency_return(const char *record, const struct place *home, const struct place *pod,
               int64_t until);
_Noreturn void stranded(void); /* bond.c: the shim cannot get back to its namespace */

/* ---- the queue (queue.c) ---- */

const char *enqueue(const char *state, const char *name, const struct bytes *frame);

/* ---- delegates (delegate.c) ---- */

int find_delegate(struct span call, struct bytes *path); /* an errno */
enum end run_delegate(struct span call, int peer, int64_t until, struct bytes *reply);

#endif
