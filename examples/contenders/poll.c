/* One loop on poll(2), one thread: what poll itself costs, beside the epoll yardstick.
 *
 * All descriptors are handed to the kernel each time, and looked at each time. As epoll.c it measures nothing,
 * limits nothing.
 *
 * Build and run:  cc -O2 -o poll poll.c && ./poll 7007
 * See also: Stevens, UNPv1, 6.11; TLPI 63.2; and our poll, which is measured against this.
 */
#include "listen.h"
#include "work.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 20000 }; /* descriptors at once */
enum { LISTENER, TERM, CLIENTS }; /* their places */

static struct pollfd fds[MOST];
static struct rest {
    size_t from, owed; /* what a short write left, in bytes */
    char *bytes;
} rests[MOST]; /* of the socket at the same place */
static int used = CLIENTS;
static char buffer[BUFFER];

/* The last one moves to where the hole is. */
static void end(int at)
{
    close(fds[at].fd);
    free(rests[at].bytes);
    fds[at] = fds[--used];
    rests[at] = rests[used];
}

/* Returns 0 while bytes are still owed, -1 where the client is lost. */
static int pay(int at)
{
    struct rest *rest = &rests[at];
    ssize_t n = send(fds[at].fd, rest->bytes + rest->from, rest->owed, MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN ? 0 : -1;
    rest->from += n;
    rest->owed -= n;
    if (rest->owed > 0)
        return 0;
    free(rest->bytes);
    rest->bytes = NULL;
    fds[at].events = POLLIN;
    return 1;
}

/* Level-triggered: one receive and one send a turn, and what is left is reported again. Returns -1 at the end. */
static int turn(int at)
{
    if (rests[at].owed > 0)
        return pay(at);
    ssize_t n = recv(fds[at].fd, buffer, BUFFER, 0);
    if (n <= 0)
        return n < 0 && errno == EAGAIN ? 0 : -1;
    do_work();
    ssize_t sent = send(fds[at].fd, buffer, n, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        return -1;
    if (sent < n) {
        sent = sent < 0 ? 0 : sent;
        rests[at] = (struct rest){ .owed = n - sent, .bytes = malloc(n - sent) };
        memcpy(rests[at].bytes, buffer + sent, n - sent);
        fds[at].events = POLLOUT;
    }
    return 0;
}

static void let_in(void)
{
    int fd = 0, one = 1;
    while (used < MOST && (fd = accept4(fds[LISTENER].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        rests[used] = (struct rest){ 0 };
        fds[used++] = (struct pollfd){ .fd = fd, .events = POLLIN };
    }
    if (fd >= 0 || errno == EMFILE || errno == ENFILE)
        pause_for_want();
}

/* What has come to a client is still read, and then its end; poll passes over a place that is -1. */
static void drain(void)
{
    let_in();
    close(fds[LISTENER].fd);
    fds[LISTENER].fd = fds[TERM].fd = -1;
    for (int at = CLIENTS; at < used; at++)
        shutdown(fds[at].fd, SHUT_RD);
}

int main(int argc, char **argv)
{
    argc = before_work(argc, argv);
    int port = number(argv[1]);
    if (argc != 2 || port == 0)
        usage(argv, "PORT [--work WORK]");
    fds[LISTENER] = (struct pollfd){ .fd = listen_on(port, SOCK_NONBLOCK), .events = POLLIN };
    fds[TERM] = (struct pollfd){ .fd = watch_for_term(), .events = POLLIN };
    while (fds[LISTENER].fd >= 0 || used > CLIENTS) {
        poll(fds, used, -1);
        /* From the last to the first: who moves into a hole has had its turn. */
        for (int at = used - 1; at >= CLIENTS; at--)
            if (fds[at].revents != 0 && turn(at) < 0)
                end(at);
        if (fds[LISTENER].revents != 0)
            let_in();
        if (fds[TERM].revents != 0)
            drain();
    }
}
