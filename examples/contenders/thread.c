/* A thread per connection: the main thread accepts, each client is served by a thread of its own.
 *
 * Build and run:  cc -O2 -pthread -o thread thread.c && ./thread 7007
 * See also: Stevens, UNPv1, 26.4; TLPI 29; and our thread, which is measured against this.
 */
#include "listen.h"
#include "blocking.h"
#include <pthread.h>
#include <stdint.h>
#include <string.h>

static void *serve(void *argument)
{
    int client = (intptr_t)argument;
    converse(client);
    close(client);
    return NULL;
}

int main(int argc, char **argv)
{
    argc = before_work(argc, argv);
    int port = number(argv[1]);
    if (argc != 2 || port == 0)
        usage(argv, "PORT [--work WORK]");
    int listener = listen_on(port, 0);
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (;;) {
        pthread_t thread;
        int client = let_in(listener);
        int error = pthread_create(&thread, &detached, serve, (void *)(intptr_t)client);
        if (error != 0) {
            fprintf(stderr, "pthread_create: %s\n", strerror(error));
            close(client);
        }
    }
}
