/* The yardstick: a plain edge-triggered epoll echo server in C, one thread.
 *
 * It does what an echo cannot do without (wait, receive, send), and ends in order; else nothing that a server
 * should: it measures nothing, limits nothing. One read into one shared buffer, one write from it; a short read
 * ends the turn; writability is asked for only after a short write.
 *
 * Build and run:  cc -O2 -o epoll epoll.c && ./epoll 7007
 * See also: epoll(7), and our event-loop, which is measured against this.
 */
#include "listen.h"
#include "work.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENTS = 1024 };

struct conn {
    int fd;
    size_t from, owed; /* what a short write left, in rest */
    char *rest;
};

static int ep, clients, highest; /* the highest descriptor of a client */
static char buffer[BUFFER];

static void watch(struct conn *c, int op, unsigned events)
{
    struct epoll_event ev = { .events = events | EPOLLET, .data.ptr = c };
    epoll_ctl(ep, op, c->fd, &ev);
}

static void end(struct conn *c)
{
    close(c->fd);
    free(c->rest);
    free(c);
    clients--;
}

/* Returns 0 while bytes are still owed. */
static int pay(struct conn *c)
{
    while (c->owed > 0) {
        ssize_t n = send(c->fd, c->rest + c->from, c->owed, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        c->from += n;
        c->owed -= n;
    }
    free(c->rest);
    c->rest = NULL;
    watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
    return 1;
}

static void turn(struct conn *c, unsigned events)
{
    if (c->owed > 0) {
        int paid = pay(c);
        if (paid < 0)
            end(c);
        if (paid <= 0)
            return;
    }
    for (;;) {
        ssize_t n = recv(c->fd, buffer, BUFFER, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            end(c);
            return;
        }
        do_work();
        ssize_t sent = send(c->fd, buffer, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            end(c);
            return;
        }
        if (sent < n) {
            sent = sent < 0 ? 0 : sent;
            c->owed = n - sent;
            c->from = 0;
            c->rest = malloc(c->owed);
            memcpy(c->rest, buffer + sent, c->owed);
            watch(c, EPOLL_CTL_MOD, EPOLLOUT);
            return;
        }
        if (n < BUFFER && !(events & EPOLLRDHUP))
            return;
    }
}

static void let_in(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof *c);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        clients++;
        highest = fd > highest ? fd : highest;
        watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLRDHUP);
    }
    if (errno == EMFILE || errno == ENFILE)
        pause_for_want();
}

/* What has come to a client is still read, and then its end. */
static void drain(int listener)
{
    let_in(listener);
    close(listener);
    for (int fd = listener + 1; fd <= highest; fd++)
        shutdown(fd, SHUT_RD);
}

int main(int argc, char **argv)
{
    argc = before_work(argc, argv);
    int port = number(argv[1]);
    if (argc != 2 || port == 0)
        usage(argv, "PORT [--work WORK]");
    int listener = listen_on(port, SOCK_NONBLOCK);
    ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL }, ready[EVENTS];
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev);
    ev = (struct epoll_event){ .events = EPOLLIN | EPOLLONESHOT, .data.ptr = &ep };
    epoll_ctl(ep, EPOLL_CTL_ADD, watch_for_term(), &ev);
    for (int draining = 0; !draining || clients > 0;) {
        int n = epoll_wait(ep, ready, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (ready[i].data.ptr == NULL)
                let_in(listener);
            else if (ready[i].data.ptr == &ep)
                drain(listener), draining = 1;
            else
                turn(ready[i].data.ptr, ready[i].events);
        }
    }
}
