"""What the contenders in Python share, so that they differ in who holds the conversation and nothing else: how they
begin (arguments, a listener on 127.0.0.1), the work, the blocking conversation, and how they end. Imported, not run.
"""
import argparse
import contextlib
import ctypes
import os
import re
import select
import signal
import socket
import time

BUFFER = 65536  # what one receive takes at most, as of our server
BACKLOG = 4096
PAUSE = 0.1  # seconds, while descriptors or memory are short
TURN = 0.5  # seconds, until SIGTERM is seen at the latest; as by socketserver
NANOSECONDS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
CLIENTS = set()  # those of this process whose conversations block
ending = False


def arguments(**options):
    """port [--work WORK], and whole numbers that the contender takes besides, with their defaults."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("port", type=port)
    parser.add_argument("--work", type=work, default="none", help="what a message costs: none, cpu:2ms, sleep:2ms")
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def port(text):
    if not 1 <= int(text) <= 65535:
        raise ValueError(text)
    return int(text)


def work(text):
    """What serving a message costs besides the echo, as a function: nothing, computing, or blocking."""
    if text == "none":
        return lambda: None
    asked = re.fullmatch("(cpu|sleep):([0-9]+)(us|ms|s)", text)
    if not asked:
        raise ValueError(text)
    amount = int(asked[2]) * NANOSECONDS[asked[3]]
    return {"cpu": lambda: compute(amount), "sleep": lambda: time.sleep(amount / 1e9)}[asked[1]]


def compute(amount):
    """Uses so many nanoseconds of this thread's CPU time: to wait for the interpreter's lock is not to compute."""
    end = time.thread_time_ns() + amount
    while time.thread_time_ns() < end:
        pass


def listen_on(port):
    return socket.create_server(("127.0.0.1", port), backlog=BACKLOG)


def let_in(listener):
    """The next client; None where the listener does not block and nobody waits. While descriptors or memory are short
    the listener stays readable, so a pause keeps this from spinning."""
    while True:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return None
        except ConnectionAbortedError:
            continue
        except OSError:
            time.sleep(PAUSE)
            continue
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client


def converse(client, work):
    """Echoes until the client's FIN, by when all is sent, or until it is lost."""
    CLIENTS.add(client)
    if ending:
        end()
    try:
        while received := client.recv(BUFFER):
            work()
            client.sendall(received)
    except OSError:
        pass  # its misfortune is its own
    finally:
        CLIENTS.discard(client)


def end(*_):
    """What SIGTERM calls: what has come is still received, and then comes the end, as if each client had sent its
    FIN. A conversation that begins meanwhile sees to that itself."""
    global ending
    ending = True
    hang_up(CLIENTS.copy())


def hang_up(clients):
    for client in clients:
        with contextlib.suppress(OSError):  # it has been lost
            client.shutdown(socket.SHUT_RD)


class Server:
    """What the servers of socketserver do besides."""

    allow_reuse_address = True
    request_queue_size = BACKLOG

    def get_request(self):
        return let_in(self.socket), None

    def service_actions(self):  # after each client, and every half second
        super().service_actions()
        if ending and not select.select([self], [], [], 0)[0]:
            raise SystemExit  # those who were in the queue are let in


def end_with(parent):
    """Called in a child: it ends with its parent, which may have ended before the child could ask for that."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
