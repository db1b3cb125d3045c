/* The yardstick of loads: a plain edge-triggered epoll client in C, one thread.
 *
 * A closed loop that does what one cannot do without (wait, receive, send), and nothing that a load should do:
 * it compares no byte, times no answer, and counts what comes. One receive an event into one shared buffer, and
 * as much again as whole messages have come; an answer in pieces is waited for. It opens its connections, loads,
 * and says in one line what it counted and which CPU time the loop took.
 *
 * Build and run:  cc -O2 -o client client.c && ./client 7007 64 64 5000     (port, connections, bytes, milliseconds)
 *                 ./client 7007 64 64 5000 16                               (and messages on their way at once)
 * See also: epoll(7), and our load, which is measured against this.
 */
#include "listen.h"
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 1024 };

struct conn {
    int fd;
    size_t partial; /* bytes of an answer that has not come whole */
};

static char buffer[BUFFER];

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void say(int fd, size_t bytes)
{
    if (send(fd, buffer, bytes, MSG_NOSIGNAL) != (ssize_t)bytes) {
        perror("send");
        exit(1);
    }
}

static void meet(struct conn *c, int ep, int port)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&at, sizeof at) < 0) {
        perror("connect");
        exit(1);
    }
    struct epoll_event ev = { .events = EPOLLIN | EPOLLET, .data.ptr = c };
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev);
}

int main(int argc, char **argv)
{
    int port = number(argv[1]), conns = argc > 2 ? number(argv[2]) : 0;
    size_t bytes = argc > 3 ? number(argv[3]) : 0, depth = argc > 5 ? number(argv[5]) : 1;
    int duration = argc > 4 ? number(argv[4]) : 0;
    if (argc > 6 || !port || !conns || !bytes || !duration || !depth || bytes * depth > BUFFER)
        usage(argv, "PORT CONNECTIONS BYTES MILLISECONDS [DEPTH]");
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct conn *all = calloc(conns, sizeof *all);
    struct epoll_event ready[EVENTS];
    for (int i = 0; i < conns; i++)
        meet(&all[i], ep, port);
    unsigned long answers = 0;
    double begun = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), now;
    for (int i = 0; i < conns; i++)
        say(all[i].fd, depth * bytes);
    while ((now = seconds(CLOCK_MONOTONIC)) < begun + duration / 1e3) {
        int n = epoll_wait(ep, ready, EVENTS, 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            ssize_t got = recv(c->fd, buffer, BUFFER, MSG_DONTWAIT);
            if (got <= 0) {
                fprintf(stderr, "the server went away\n");
                return 1;
            }
            size_t whole = (c->partial + got) / bytes;
            c->partial = (c->partial + got) % bytes;
            answers += whole;
            if (whole > 0)
                say(c->fd, whole * bytes);
        }
    }
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("messages=%lu messages_per_s=%.0f cpu_us_per_message=%.4f\n", answers, answers / (now - begun),
           cpu * 1e6 / answers);
    return 0;
}
