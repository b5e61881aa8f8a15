/*
 * bond: the executable that a container runtime runs for one CNI request (thick mode).
 *
 * It opens what only a process of the runtime can open, sends the request with these descriptors
 * to the daemon `bondctl serve`, executes the daemon's calls, and prints the answer. Without the
 * daemon it prints an error document, but DEL is queued and succeeds, and VERSION is answered by
 * the shim itself. The protocol is specified in docs/protocol.md; its numbers are in shim.h.
 *
 * It ends within BOND_DEADLINE_MS whatever the runtime, the daemon and the delegate do, and prints
 * one document or none. It is static and starts within a millisecond.
 */
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/bond-cni/bond.sock"
#define DEFAULT_STATE "/var/lib/bond-cni"
#define ALLOWED "must be one of ADD, DEL, CHECK, GC, STATUS, VERSION"

enum { /* CNI SPEC 1.1.0, section "Error" */
    BAD_ENVIRONMENT = 4,
    IO_FAILURE = 5,
    BAD_INPUT = 6,
    TRY_AGAIN = 11,
    NOT_AVAILABLE = 50
};

extern char **environ;

/* The one request of this process. */
static struct {
    int64_t until;
    struct bytes input;
    struct netns own, pod;
    int pod_error; /* errno of opening the pod's namespace; -1: CNI_NETNS is not set */
    struct bytes frame;
} request = {.own = {-1, -1, ""}, .pod = {-1, -1, ""}, .pod_error = -1};

/* The environment variable, or the default if it is not set or empty. */
static const char *setting(const char *name, const char *fallback)
{
    const char *value = getenv(name);
    return value && *value ? value : fallback;
}

/* ---- output ---- */

static _Noreturn void finish(int descriptor, const struct bytes *text, int status)
{
    enum outcome outcome =
        write_all(descriptor, (struct span){text->at, text->size}, now() + BOND_STEP_MS);
    _exit(outcome == SUCCESS ? status : 1);
}

static const char *asked_version(void)
{
    return cni_version((struct span){request.input.at, request.input.size});
}

static _Noreturn void fail(unsigned code, const char *sentence)
{
    struct bytes text = {0};
    put_text(&text, "{\n    \"cniVersion\": \"");
    put_text(&text, asked_version());
    put_text(&text, "\",\n    \"code\": ");
    put_decimal(&text, code);
    put_text(&text, ",\n    \"msg\": ");
    put_json(&text, sentence);
    put_text(&text, "\n}\n");
    finish(STDOUT_FILENO, &text, 1);
}

void cannot_return(void)
{
    fail(IO_FAILURE, "cannot return to the network namespace of this process");
}

static _Noreturn void print_usage(void)
{
    struct bytes text = {0};
    put_text(&text, "bond is a CNI plugin for bonded network interfaces. A container "
                    "runtime runs it with\nCNI_COMMAND and the other CNI variables in the "
                    "environment and the network configuration on\nstandard input. "
                    "CNI versions: ");
    for (const char *const *each = SUPPORTED; *each; each++) {
        put_text(&text, *each);
        put_text(&text, each[1] ? ", " : ". The command line is bondctl.\n");
    }
    finish(STDERR_FILENO, &text, 0);
}

static _Noreturn void print_version(void)
{
    struct bytes text = {0};
    put_text(&text, "{\n    \"cniVersion\": \"");
    put_text(&text, asked_version());
    put_text(&text, "\",\n    \"supportedVersions\": [\n");
    for (const char *const *each = SUPPORTED; *each; each++) {
        put_text(&text, "        \"");
        put_text(&text, *each);
        put_text(&text, each[1] ? "\",\n" : "\"\n    ]\n}\n");
    }
    finish(STDOUT_FILENO, &text, 0);
}

/* ---- input ---- */

/* Open the three standard descriptors, so that no later descriptor gets one of their numbers. */
static void fill_standard(void)
{
    struct pollfd each[3] = {{.fd = 0}, {.fd = 1}, {.fd = 2}};
    poll(each, 3, 0);
    for (int i = 0; i < 3; i++)
        if (each[i].revents & POLLNVAL)
            open("/dev/null", O_RDWR);
}

static void read_input(void)
{
    struct bytes sentence = {0};
    const int64_t until = earlier(request.until, BOND_STDIN_MS);
    switch (read_all(STDIN_FILENO, &request.input, STDIN_LIMIT, until)) {
    case SUCCESS:
        release(&sentence);
        return;
    case TIMED_OUT:
        put_text(&sentence, "standard input was not closed in time by the container runtime");
        break;
    default:
        if (errno == EFBIG) {
            put_text(&sentence, "standard input exceeds ");
            put_decimal(&sentence, STDIN_LIMIT);
            put_text(&sentence, " bytes");
            request.input.size = 0;
        } else {
            put_text(&sentence, "cannot read standard input: ");
            put_text(&sentence, strerror(errno));
        }
    }
    fail(BAD_INPUT, text_of(&sentence));
}

static void put_environment(struct bytes *frame)
{
    size_t count = 0, all = 0;
    for (char **each = environ; *each; each++) {
        size_t size = strlen(*each);
        if (!strchr(*each, '='))
            continue;
        count++;
        all += size;
        if (count > ENV_COUNT || all > ENV_LIMIT)
            fail(BAD_ENVIRONMENT, "the environment exceeds 4096 variables or 2 MiB");
        frame_field(frame, ENV, *each, size);
    }
}

/* The REQUEST frame. `letters` describe the descriptors that are sent with it. */
static void make_request(const char *letters)
{
    frame_begin(&request.frame, REQUEST);
    frame_field(&request.frame, DESCRIPTORS, letters, strlen(letters));
    frame_field(&request.frame, HOST, request.own.identity, strlen(request.own.identity));
    if (!request.pod_error)
        frame_field(&request.frame, POD, request.pod.identity, strlen(request.pod.identity));
    else if (request.pod_error > 0)
        frame_number(&request.frame, POD_ERROR, (uint32_t)request.pod_error);
    put_environment(&request.frame);
    frame_field(&request.frame, STDIN, request.input.at, request.input.size);
    frame_end(&request.frame);
}

static void open_namespaces(void)
{
    if (!open_own_netns(&request.own))
        fail(IO_FAILURE, "cannot open a netlink socket in the network namespace of this process");
    const char *path = setting("CNI_NETNS", "");
    if (*path)
        request.pod_error = open_netns(path, &request.own, &request.pod);
}

/* ---- the daemon ---- */

/* Why there is no answer; `why` is part of the message. */
struct failure {
    enum outcome outcome;
    const char *why;
};

static const struct failure
    ANSWERED = {SUCCESS, NULL},
    CONNECTION_CLOSED = {DISCONNECTED, "connection closed before the answer"},
    TIMEOUT = {TIMED_OUT, "timed out"},
    INVALID_FRAME = {FAILED, "invalid frame for this version of the protocol"};

static struct failure failure_of(enum outcome outcome)
{
    return outcome == SUCCESS        ? ANSWERED
           : outcome == DISCONNECTED ? CONNECTION_CLOSED
           : outcome == TIMED_OUT    ? TIMEOUT
                                     : INVALID_FRAME;
}

/* Whether the peer is root or the owner of the socket's directory; others cannot create it. */
static bool trusted(int peer, const char *path)
{
    struct ucred other;
    struct stat directory;
    socklen_t size = sizeof other;
    if (getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &other, &size))
        return false;
    if (other.uid == 0)
        return true;
    const char *slash = strrchr(path, '/');
    struct bytes above = {0};
    put(&above, path, slash ? (size_t)(slash - path + 1) : 0);
    if (!slash)
        put_text(&above, ".");
    bool good = !stat(text_of(&above), &directory) && directory.st_uid == other.uid;
    release(&above);
    return good;
}

static struct failure call_daemon(const char *path, int *peer)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval within = {BOND_STEP_MS / 1000, BOND_STEP_MS % 1000 * 1000};
    if (!span_text(span_of(path), address.sun_path, sizeof address.sun_path))
        return (struct failure){DISCONNECTED, strerror(ENAMETOOLONG)};
    *peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*peer < 0)
        return (struct failure){FAILED, strerror(errno)};
    setsockopt(*peer, SOL_SOCKET, SO_SNDTIMEO, &within, sizeof within); /* applies to connect() */
    if (connect(*peer, (const struct sockaddr *)&address, sizeof address))
        return errno == EAGAIN ? TIMEOUT : (struct failure){DISCONNECTED, strerror(errno)};
    if (!trusted(*peer, path))
        return (struct failure){FAILED, 
                                "it runs neither as root nor as the owner of its directory"};
    return ANSWERED;
}

static enum outcome send_request(int peer)
{
    const int fds[] = {request.own.netlink, request.own.namespace, request.pod.netlink,
                       request.pod.namespace};
    return send_frame(peer, &request.frame, fds, request.pod_error ? 2 : 4,
                      earlier(request.until, BOND_STEP_MS));
}

static enum outcome receive_frame(int peer, unsigned *type, struct bytes *payload)
{
    unsigned char header[HEADER];
    size_t size;
    /* The daemon may work on the request until the deadline before the next frame. */
    enum outcome outcome = receive(peer, header, 1, request.until);
    if (outcome == SUCCESS)
        outcome = receive(peer, header + 1, HEADER - 1, earlier(request.until, BOND_STEP_MS));
    if (outcome != SUCCESS)
        return outcome;
    if (!frame_header(header, type, &size))
        return FAILED;
    payload->size = 0;
    reserve(payload, size);
    outcome = receive(peer, payload->at, size, earlier(request.until, BOND_STEP_MS));
    payload->size = size;
    if (outcome == SUCCESS && !frame_check((struct span){payload->at, size}))
        outcome = FAILED;
    return outcome;
}

static int answer_find(struct span call)
{
    struct bytes path = {0};
    int error = find_delegate(call, &path);
    release(&path);
    return error;
}

static int answer_sysctl(struct span call, struct bytes *reply)
{
    struct span key;
    int error = set_sysctls(call, &request.own, &key);
    if (error && key.size)
        frame_field(reply, NAME, key.at, key.size);
    return error;
}

/* IDENTIFY if netns is NULL, else OPEN. */
static int answer_path(struct span call, struct bytes *reply, struct netns *netns)
{
    struct span value;
    char path[PATH_ROOM], identity[IDENTITY];
    if (!frame_get(call, PATH, &value) || !span_text(value, path, sizeof path))
        return EINVAL;
    int error = netns ? open_netns(path, &request.own, netns) : netns_identity(path, identity);
    if (error)
        return error;
    const char *found = netns ? netns->identity : identity;
    frame_field(reply, POD, found, strlen(found));
    if (netns)
        frame_field(reply, DESCRIPTORS, "pP", 2);
    return 0;
}

/* Execute one call and send DONE. */
static enum outcome answer_call(int peer, unsigned type, struct span call)
{
    struct bytes reply = {0};
    struct netns netns = {-1, -1, ""};
    enum outcome outcome = SUCCESS;
    int error = ENOSYS;
    frame_begin(&reply, DONE);
    if (type == EXEC)
        outcome = run_delegate(call, peer, request.until, &reply);
    else if (type == FIND)
        error = answer_find(call);
    else if (type == SYSCTL)
        error = answer_sysctl(call, &reply);
    else if (type == IDENTIFY || type == OPEN)
        error = answer_path(call, &reply, type == OPEN ? &netns : NULL);
    if (type != EXEC)
        frame_number(&reply, STATUS, (uint32_t)error);
    frame_end(&reply);
    if (outcome == SUCCESS) {
        const int fds[] = {netns.netlink, netns.namespace};
        outcome = send_frame(peer, &reply, fds, netns.namespace < 0 ? 0 : 2,
                         earlier(request.until, BOND_STEP_MS));
    }
    close_netns(&netns);
    release(&reply);
    return outcome;
}

/* Whether a daemon of this or a later release may send this type before ANSWER. */
static bool is_call(unsigned type)
{
    return type != REQUEST && type != ANSWER && type != DONE && type != PING;
}

/* Send the request and execute calls until the answer. A daemon that refuses the request may close
 * the connection before it has read all of it, so an answer is read even then. */
static struct failure converse(int peer, struct bytes *answer)
{
    enum outcome outcome = send_request(peer);
    if (outcome != SUCCESS && outcome != DISCONNECTED)
        return failure_of(outcome);
    for (;;) {
        unsigned type;
        uint32_t status;
        outcome = receive_frame(peer, &type, answer);
        if (outcome != SUCCESS)
            return failure_of(outcome);
        struct span payload = {answer->at, answer->size};
        if (type == ANSWER)
            return frame_get_number(payload, STATUS, &status) ? ANSWERED : INVALID_FRAME;
        if (!is_call(type))
            return INVALID_FRAME;
        outcome = answer_call(peer, type, payload);
        if (outcome != SUCCESS)
            return failure_of(outcome);
    }
}

static _Noreturn void print_answer(struct span payload)
{
    uint32_t status = 1;
    struct span output = {0}, warnings = {0};
    frame_get_number(payload, STATUS, &status);
    frame_get(payload, OUTPUT, &output);
    frame_get(payload, WARNINGS, &warnings);
    write_all(STDERR_FILENO, warnings, now() + BOND_STEP_MS);
    enum outcome outcome = write_all(STDOUT_FILENO, output, now() + BOND_STEP_MS);
    _exit(outcome != SUCCESS ? 1 : status > 255 ? 255 : (int)status);
}

/* ---- without the daemon ---- */

static void put_failure(struct bytes *sentence, const char *path, struct failure failure)
{
    put_text(sentence, "the bond daemon does not answer at ");
    put_text(sentence, path);
    put_text(sentence, " (");
    put_text(sentence, failure.why);
    put_text(sentence, ")");
}

/* The two names make a file name, so they are checked here; the daemon checks everything else. */
static void check_names(const char *container, const char *ifname)
{
    struct bytes sentence = {0};
    const char *why;
    if (!*container || !*ifname) {
        put_text(&sentence, "DEL needs these environment variables, not set: ");
        put_text(&sentence, *container ? "" : "CNI_CONTAINERID");
        put_text(&sentence, *container || *ifname ? "" : ", ");
        put_text(&sentence, *ifname ? "" : "CNI_IFNAME");
    } else if (!valid_container_id(container)) {
        put_text(&sentence, "CNI_CONTAINERID '");
        put_text(&sentence, container);
        put_text(&sentence, "': must start with a letter or digit, then letters, digits, "
                            "'_', '.', '-'");
    } else if ((why = ifname_error(ifname))) {
        put_text(&sentence, "CNI_IFNAME '");
        put_text(&sentence, ifname);
        put_text(&sentence, "': ");
        put_text(&sentence, why);
    } else
        return;
    fail(BAD_ENVIRONMENT, text_of(&sentence));
}

static void return_links(const char *state, const char *attachment)
{
    struct bytes record = {0};
    put_text(&record, state);
    put_text(&record, "/");
    put_text(&record, attachment);
    put_text(&record, ".json");
    emergency_return(text_of(&record), &request.own, &request.pod, request.until);
    release(&record);
}

static _Noreturn void queue_del(struct bytes *sentence, struct failure failure)
{
    const char *container = setting("CNI_CONTAINERID", ""), *ifname = setting("CNI_IFNAME", "");
    const char *state = setting("BONDCNI_STATE", DEFAULT_STATE);
    struct bytes attachment = {0}, name = {0}, warning = {0};
    check_names(container, ifname);
    put_text(&attachment, container);
    put_text(&attachment, ":");
    put_text(&attachment, ifname);
    put_text(&name, text_of(&attachment));
    put_text(&name, ".del");
    make_request("");
    const char *failed = queue_request(state, text_of(&name), &request.frame);
    if (failed) {
        const char *error = strerror(errno);
        put_text(sentence, ", and DEL cannot be queued in ");
        put_text(sentence, state);
        put_text(sentence, "/queue (");
        put_text(sentence, failed);
        put_text(sentence, ": ");
        put_text(sentence, error);
        put_text(sentence, "): is `bondctl serve` running?");
        fail(TRY_AGAIN, text_of(sentence));
    }
    if (failure.outcome == DISCONNECTED && !request.pod_error)
        return_links(state, text_of(&attachment));
    put_text(&warning, "bond: warning: ");
    put(&warning, sentence->at, sentence->size);
    put_text(&warning, ": DEL is queued in ");
    put_text(&warning, state);
    put_text(&warning, "/queue and will be done when `bondctl serve` runs\n");
    write_all(STDERR_FILENO, (struct span){warning.at, warning.size}, now() + BOND_STEP_MS);
    _exit(0);
}

static _Noreturn void no_daemon(const char *command, const char *path, struct failure failure)
{
    struct bytes sentence = {0};
    if (!*command)
        fail(BAD_ENVIRONMENT, "CNI_COMMAND is not set: " ALLOWED);
    put_failure(&sentence, path, failure);
    if (!strcmp(command, "DEL"))
        queue_del(&sentence, failure);
    put_text(&sentence, ": is `bondctl serve` running?");
    if (!strcmp(command, "STATUS"))
        fail(NOT_AVAILABLE, text_of(&sentence));
    if (!strcmp(command, "ADD") || !strcmp(command, "CHECK") || !strcmp(command, "GC"))
        fail(TRY_AGAIN, text_of(&sentence));
    sentence.size = 0;
    put_text(&sentence, "CNI_COMMAND is '");
    put_text(&sentence, command);
    put_text(&sentence, "': " ALLOWED);
    fail(BAD_ENVIRONMENT, text_of(&sentence));
}

int main(void)
{
    const char *command = getenv("CNI_COMMAND"), *path = setting("BONDCNI_SOCKET", DEFAULT_SOCKET);
    struct bytes answer = {0};
    int peer = -1;
    fill_standard();
    signal(SIGPIPE, SIG_IGN);
    if (!command && isatty(STDIN_FILENO))
        print_usage();
    if (!command)
        command = "";
    request.until = now() + BOND_DEADLINE_MS;
    read_input();
    if (!strcmp(command, "VERSION"))
        print_version();
    open_namespaces();
    make_request(request.pod_error ? "hH" : "hHpP");
    struct failure failure = call_daemon(path, &peer);
    if (failure.outcome == SUCCESS)
        failure = converse(peer, &answer);
    if (failure.outcome == SUCCESS)
        print_answer((struct span){answer.at, answer.size});
    no_daemon(command, path, failure);
}
