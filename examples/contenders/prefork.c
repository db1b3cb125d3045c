/* A pool of processes, forked in advance, each serving one client until it leaves: all of them block in
 * accept(2), and the kernel hands a client to one. A worker that ends is replaced, until SIGTERM ends them all.
 *
 * Build and run:  cc -O2 -o prefork prefork.c && ./prefork 7007 64
 * See also: Stevens, UNPv1, 30.6; and our prefork, which is measured against this.
 */
#include "listen.h"
#include "blocking.h"

static sigset_t signals;

static void serve(void)
{
    int client;
    while ((client = let_in()) >= 0) {
        converse(client);
        close(client);
    }
}

/* SIGTERM for one worker: it closes the listener for itself, while others go on. */
static void leave(int signal)
{
    (void)signal;
    draining = 1;
    close(listener);
    shutdown(latest, SHUT_RD);
}

static void start_worker(void)
{
    if (fork_tied() != 0)
        return;
    on(SIGTERM, leave, 0);
    sigprocmask(SIG_UNBLOCK, &signals, NULL);
    serve();
    _exit(0);
}

int main(int argc, char **argv)
{
    argc = before_work(argc, argv);
    int port = number(argv[1]), workers = argc == 3 ? number(argv[2]) : 64;
    if (argc > 3 || port == 0 || workers == 0)
        usage(argv, "PORT [WORKERS] [--work WORK]");
    listener = listen_on(port, 0);
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    for (int n = 0; n < workers; n++)
        start_worker();
    for (int signal = SIGCHLD; signal == SIGCHLD; sigwait(&signals, &signal)) {
        pid_t ended;
        while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
            start_worker();
        if (ended < 0) {
            perror("no worker is left");
            return 1;
        }
    }
    end_children();
    drain(SIGTERM);
    serve(); /* who still waits in the accept queue */
}
