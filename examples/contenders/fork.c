/* A process per connection: the parent accepts and forks, the child serves and exits, the parent reaps.
 *
 * The children are waited for, not left to the kernel (SA_NOCLDWAIT), which would forget their CPU time.
 *
 * Build and run:  cc -O2 -o fork fork.c && ./fork 7007
 * See also: Stevens, UNPv1, 5.12; TLPI 60.3; and our fork, which is measured against this.
 */
#include "listen.h"
#include "blocking.h"

/* One signal may stand for several children. */
static void reap(int signal)
{
    (void)signal;
    int kept = errno;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    errno = kept;
}

int main(int argc, char **argv)
{
    argc = before_work(argc, argv);
    int port = number(argv[1]);
    if (argc != 2 || port == 0)
        usage(argv, "PORT [--work WORK]");
    listener = listen_on(port, 0);
    on(SIGTERM, drain, 0);
    on(SIGCHLD, reap, SA_RESTART | SA_NOCLDSTOP);
    int client;
    while ((client = let_in()) >= 0) {
        if (fork_tied() == 0) {
            close(listener);
            converse(client);
            _exit(0);
        }
        close(client);
    }
    close(listener);
    on(SIGCHLD, SIG_DFL, 0);
    end_children();
}
