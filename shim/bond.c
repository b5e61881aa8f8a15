/*
 * bond: what a container runtime executes, one CNI request in one process.
 *
 * It is static and starts within a millisecond, for it decides nothing: it opens what only
 * the runtime's process can open, hands the request with it to the daemon `bondctl serve`,
 * does what that asks for, and prints the answer. Without the daemon it says so in an error
 * document; only DEL succeeds then, for it is stored and done later, and VERSION, which it
 * answers alone. docs/protocol.md is the contract; the letters and numbers are in shim.h.
 *
 * It ends in time, whatever runtime, daemon and delegate do, and prints one document or none.
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
    struct place home, pod;
    int pod_error; /* an errno: why there is no pod; -1: none was named */
    struct bytes frame;
} request = {.home = {-1, -1, ""}, .pod = {-1, -1, ""}, .pod_error = -1};

/* Set and not empty, or what stands for it. */
static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

/* ---- what it prints ---- */

static _Noreturn void finish(int descriptor, const struct bytes *text, int status)
{
    enum end end = write_all(descriptor, (struct span){text->at, text->size}, now() + BOND_STEP_MS);
    _exit(end == FINE ? status : 1);
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

void stranded(void)
{
    fail(IO_FAILURE, "the network namespace of this process cannot be entered again");
}

static _Noreturn void tell_usage(void)
{
    struct bytes text = {0};
    put_text(&text, "bond is a CNI plugin (bonded network interfaces for containers): "
                    "a container runtime\nruns it with CNI_COMMAND and the other CNI variables "
                    "in its environment and the network\nconfiguration on standard input. "
                    "CNI versions: ");
    for (const char *const *each = SUPPORTED; *each; each++) {
        put_text(&text, *each);
        put_text(&text, each[1] ? ", " : ". People want bondctl.\n");
    }
    finish(STDERR_FILENO, &text, 0);
}

static _Noreturn void tell_version(void)
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

/* ---- what it is given ---- */

/* A descriptor that the kernel gives out later must not be taken for one of these three. */
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
    put_text(&sentence, "standard input ");
    const int64_t until = sooner(request.until, BOND_STDIN_MS);
    switch (read_all(STDIN_FILENO, &request.input, STDIN_LIMIT, until)) {
    case FINE:
        release(&sentence);
        return;
    case LATE:
        put_text(&sentence, "did not end in time: the runtime keeps it open");
        break;
    default:
        if (errno == EFBIG) {
            put_text(&sentence, "is more than ");
            put_decimal(&sentence, STDIN_LIMIT);
            put_text(&sentence, " bytes");
            request.input.size = 0;
        } else {
            put_text(&sentence, "cannot be read: ");
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
            fail(BAD_ENVIRONMENT, "the environment is more than 4096 variables or 2 MiB");
        frame_field(frame, ENV, *each, size);
    }
}

/* The REQUEST, with the letters of the descriptors that come with it. */
static void make_request(const char *letters)
{
    frame_begin(&request.frame, REQUEST);
    frame_field(&request.frame, DESCRIPTORS, letters, strlen(letters));
    frame_field(&request.frame, HOST, request.home.identity, strlen(request.home.identity));
    if (!request.pod_error)
        frame_field(&request.frame, POD, request.pod.identity, strlen(request.pod.identity));
    else if (request.pod_error > 0)
        frame_number(&request.frame, POD_ERROR, (uint32_t)request.pod_error);
    put_environment(&request.frame);
    frame_field(&request.frame, STDIN, request.input.at, request.input.size);
    frame_end(&request.frame);
}

static void open_places(void)
{
    if (!open_home(&request.home))
        fail(IO_FAILURE, "no netlink socket can be opened in this process's network namespace");
    const char *path = setting("CNI_NETNS", "");
    if (*path)
        request.pod_error = open_place(path, &request.home, &request.pod);
}

/* ---- the daemon ---- */

/* How a conversation ended other than by an answer: `why` says it as the end of a sentence. */
struct trouble {
    enum end end;
    const char *why;
};

static const struct trouble
    ANSWERED = {FINE, NULL},
    WENT_AWAY = {GONE, "it went away before it answered"},
    TOO_LATE = {LATE, "it took too long"},
    STRANGE = {WRONG, "what it said is no frame of the protocol of this release"};

static struct trouble trouble_of(enum end end)
{
    return end == FINE ? ANSWERED : end == GONE ? WENT_AWAY : end == LATE ? TOO_LATE : STRANGE;
}

/* Root, or who owns the folder that the socket is in: nobody else can have put it there. */
static bool trusted(int peer, const char *path)
{
    struct ucred other;
    struct stat folder;
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
    bool good = !stat(text_of(&above), &folder) && folder.st_uid == other.uid;
    release(&above);
    return good;
}

static struct trouble call_daemon(const char *path, int *peer)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval within = {BOND_STEP_MS / 1000, BOND_STEP_MS % 1000 * 1000};
    if (!span_text(span_of(path), address.sun_path, sizeof address.sun_path))
        return (struct trouble){GONE, strerror(ENAMETOOLONG)};
    *peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*peer < 0)
        return (struct trouble){WRONG, strerror(errno)};
    setsockopt(*peer, SOL_SOCKET, SO_SNDTIMEO, &within, sizeof within); /* connect heeds it */
    if (connect(*peer, (const struct sockaddr *)&address, sizeof address))
        return errno == EAGAIN ? TOO_LATE : (struct trouble){GONE, strerror(errno)};
    if (!trusted(*peer, path))
        return (struct trouble){WRONG, "its socket is of neither root nor the owner of its folder"};
    return ANSWERED;
}

static enum end send_request(int peer)
{
    const int fds[] = {request.home.netlink, request.home.namespace, request.pod.netlink,
                       request.pod.namespace};
    return send_frame(peer, &request.frame, fds, request.pod_error ? 2 : 4,
                      sooner(request.until, BOND_STEP_MS));
}

static enum end receive_frame(int peer, unsigned *type, struct bytes *payload)
{
    unsigned char header[HEADER];
    size_t size;
    enum end end = receive(peer, header, 1, request.until); /* it may think before it speaks */
    if (end == FINE)
        end = receive(peer, header + 1, HEADER - 1, sooner(request.until, BOND_STEP_MS));
    if (end != FINE)
        return end;
    if (!frame_header(header, type, &size))
        return WRONG;
    payload->size = 0;
    reserve(payload, size);
    end = receive(peer, payload->at, size, sooner(request.until, BOND_STEP_MS));
    payload->size = size;
    if (end == FINE && !frame_check((struct span){payload->at, size}))
        end = WRONG;
    return end;
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
    int error = set_sysctls(call, &request.home, &key);
    if (error && key.size)
        frame_field(reply, NAME, key.at, key.size);
    return error;
}

/* IDENTIFY, and OPEN where the place is wanted, too. */
static int answer_path(struct span call, struct bytes *reply, struct place *place)
{
    struct span value;
    char path[PATH_ROOM], identity[IDENTITY];
    if (!frame_get(call, PATH, &value) || !span_text(value, path, sizeof path))
        return EINVAL;
    int error = place ? open_place(path, &request.home, place) : identify(path, identity);
    if (error)
        return error;
    const char *found = place ? place->identity : identity;
    frame_field(reply, POD, found, strlen(found));
    if (place)
        frame_field(reply, DESCRIPTORS, "pP", 2);
    return 0;
}

/* Do one call and tell. */
static enum end answer_call(int peer, unsigned type, struct span call)
{
    struct bytes reply = {0};
    struct place place = {-1, -1, ""};
    enum end end = FINE;
    int error = ENOSYS;
    frame_begin(&reply, DONE);
    if (type == EXEC)
        end = run_delegate(call, peer, request.until, &reply);
    else if (type == FIND)
        error = answer_find(call);
    else if (type == SYSCTL)
        error = answer_sysctl(call, &reply);
    else if (type == IDENTIFY || type == OPEN)
        error = answer_path(call, &reply, type == OPEN ? &place : NULL);
    if (type != EXEC)
        frame_number(&reply, STATUS, (uint32_t)error);
    frame_end(&reply);
    if (end == FINE) {
        const int fds[] = {place.netlink, place.namespace};
        end = send_frame(peer, &reply, fds, place.namespace < 0 ? 0 : 2,
                         sooner(request.until, BOND_STEP_MS));
    }
    close_place(&place);
    release(&reply);
    return end;
}

/* A frame of a type that a daemon may send before ANSWER, in this release or a later one. */
static bool is_call(unsigned type)
{
    return type != REQUEST && type != ANSWER && type != DONE && type != PING;
}

/* Until the daemon answers. One that refuses the request may close before it has all of it. */
static struct trouble converse(int peer, struct bytes *answer)
{
    enum end end = send_request(peer);
    if (end != FINE && end != GONE)
        return trouble_of(end);
    for (;;) {
        unsigned type;
        uint32_t status;
        end = receive_frame(peer, &type, answer);
        if (end != FINE)
            return trouble_of(end);
        struct span payload = {answer->at, answer->size};
        if (type == ANSWER)
            return frame_get_number(payload, STATUS, &status) ? ANSWERED : STRANGE;
        if (!is_call(type))
            return STRANGE;
        end = answer_call(peer, type, payload);
        if (end != FINE)
            return trouble_of(end);
    }
}

static _Noreturn void tell_answer(struct span payload)
{
    uint32_t status = 1;
    struct span output = {0}, warnings = {0};
    frame_get_number(payload, STATUS, &status);
    frame_get(payload, OUTPUT, &output);
    frame_get(payload, WARNINGS, &warnings);
    write_all(STDERR_FILENO, warnings, now() + BOND_STEP_MS);
    enum end end = write_all(STDOUT_FILENO, output, now() + BOND_STEP_MS);
    _exit(end != FINE ? 1 : status > 255 ? 255 : (int)status);
}

/* ---- without the daemon ---- */

static void put_trouble(struct bytes *sentence, const char *path, struct trouble trouble)
{
    put_text(sentence, "the bond daemon does not answer at ");
    put_text(sentence, path);
    put_text(sentence, " (");
    put_text(sentence, trouble.why);
    put_text(sentence, ")");
}

/* They make the name of a file, so they are looked at here; the daemon looks at the rest. */
static void check_names(const char *container, const char *ifname)
{
    struct bytes sentence = {0};
    const char *why;
    if (!*container || !*ifname) {
        put_text(&sentence, "DEL needs these environment variables, not set: ");
        put_text(&sentence, *container ? "" : "CNI_CONTAINERID");
        put_text(&sentence, *container || *ifname ? "" : ", ");
        put_text(&sentence, *ifname ? "" : "CNI_IFNAME");
    } else if (!good_container(container)) {
        put_text(&sentence, "CNI_CONTAINERID '");
        put_text(&sentence, container);
        put_text(&sentence, "': must start with a letter or digit, then letters, digits, "
                            "'_', '.', '-'");
    } else if ((why = bad_ifname(ifname))) {
        put_text(&sentence, "CNI_IFNAME '");
        put_text(&sentence, ifname);
        put_text(&sentence, "': ");
        put_text(&sentence, why);
    } else
        return;
    fail(BAD_ENVIRONMENT, text_of(&sentence));
}

static void mend(const char *state, const char *attachment)
{
    struct bytes record = {0};
    put_text(&record, state);
    put_text(&record, "/");
    put_text(&record, attachment);
    put_text(&record, ".json");
    emergency_return(text_of(&record), &request.home, &request.pod, request.until);
    release(&record);
}

static _Noreturn void store_del(struct bytes *sentence, struct trouble trouble)
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
    const char *failed = enqueue(state, text_of(&name), &request.frame);
    if (failed) {
        const char *error = strerror(errno);
        put_text(sentence, ", and DEL cannot be stored in ");
        put_text(sentence, state);
        put_text(sentence, "/queue (");
        put_text(sentence, failed);
        put_text(sentence, ": ");
        put_text(sentence, error);
        put_text(sentence, "): is `bondctl serve` running?");
        fail(TRY_AGAIN, text_of(sentence));
    }
    if (trouble.end == GONE && !request.pod_error)
        mend(state, text_of(&attachment));
    put_text(&warning, "bond: warning: ");
    put(&warning, sentence->at, sentence->size);
    put_text(&warning, ": DEL is stored in ");
    put_text(&warning, state);
    put_text(&warning, "/queue and will be done when `bondctl serve` runs\n");
    write_all(STDERR_FILENO, (struct span){warning.at, warning.size}, now() + BOND_STEP_MS);
    _exit(0);
}

static _Noreturn void no_daemon(const char *command, const char *path, struct trouble trouble)
{
    struct bytes sentence = {0};
    if (!*command)
        fail(BAD_ENVIRONMENT, "CNI_COMMAND is not set: " ALLOWED);
    put_trouble(&sentence, path, trouble);
    if (!strcmp(command, "DEL"))
        store_del(&sentence, trouble);
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
        tell_usage();
    if (!command)
        command = "";
    request.until = now() + BOND_DEADLINE_MS;
    read_input();
    if (!strcmp(command, "VERSION"))
        tell_version();
    open_places();
    make_request(request.pod_error ? "hH" : "hHpP");
    struct trouble trouble = call_daemon(path, &peer);
    if (trouble.end == FINE)
        trouble = converse(peer, &answer);
    if (trouble.end == FINE)
        tell_answer((struct span){answer.at, answer.size});
    no_daemon(command, path, trouble);
}
