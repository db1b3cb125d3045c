/* What serving a message costs besides the echo, as our server's --work: nothing, computing or blocking. */
#include <errno.h>
#include <string.h>
#include <time.h>

enum { US = 1000, MS = 1000 * US, S = 1000 * MS }; /* nanoseconds */

static struct {
    enum { NONE, CPU, SLEEP } kind;
    long long amount; /* nanoseconds */
} work;

/* Reads none, cpu:20us, sleep:2ms; 0 where it is something else. */
static inline int read_work(const char *text)
{
    char kind[6], unit[3];
    unsigned n;
    int end = 0;
    if (strcmp(text, "none") == 0)
        return 1;
    if (sscanf(text, "%5[a-z]:%9u%2[a-z]%n", kind, &n, unit, &end) != 3 || text[end] != '\0')
        return 0;
    work.kind = strcmp(kind, "cpu") == 0 ? CPU : strcmp(kind, "sleep") == 0 ? SLEEP : NONE;
    long long scale = strcmp(unit, "us") == 0 ? US : strcmp(unit, "ms") == 0 ? MS : strcmp(unit, "s") == 0 ? S : 0;
    work.amount = n * scale;
    return work.kind != NONE && scale != 0;
}

/* Reads --work WORK at the end of the arguments; returns how many stand before it. Where it is wrong that is all of
 * them, which is too many. */
static inline int before_work(int argc, char **argv)
{
    if (argc < 4 || strcmp(argv[argc - 2], "--work") != 0)
        return argc;
    return read_work(argv[argc - 1]) ? argc - 2 : argc;
}

/* How much CPU time this thread has used, in nanoseconds. */
static inline long long thread_time(void)
{
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return used.tv_sec * (long long)S + used.tv_nsec;
}

static inline void do_work(void)
{
    if (work.kind == CPU)
        for (long long end = thread_time() + work.amount; thread_time() < end;)
            ;
    struct timespec left = { work.amount / S, work.amount % S };
    if (work.kind == SLEEP)
        while (nanosleep(&left, &left) < 0 && errno == EINTR)
            ;
}
