"""One loop on CPython's selectors (epoll on Linux), one thread: the serial contender, for the work runs inside the
loop, on purpose.

Level-triggered: a receive and a send a turn. While a client is owed bytes it is not received from.

Run:       python3 python-selectors.py 7007
See also:  selectors, epoll(7), and our event-loop.
"""
import selectors
import signal
import socket
import time

import contender


class Client:
    """A conversation that never blocks: what it owes, and what it waits for next."""

    def __init__(self, client):
        self.socket, self.owed = client, b""
        SELECTOR.register(client, selectors.EVENT_READ, self.turn)

    def turn(self):
        try:
            if not self.owed:
                self.owed = memoryview(self.socket.recv(contender.BUFFER))
                if not self.owed:
                    return self.end()
                ARGUMENTS.work()
            self.owed = self.owed[self.socket.send(self.owed) :]
        except BlockingIOError:
            pass
        except OSError:
            return self.end()
        self.wait_for(selectors.EVENT_WRITE if self.owed else selectors.EVENT_READ)

    def wait_for(self, event):
        key = SELECTOR.get_key(self.socket)
        if key.events != event:
            SELECTOR.modify(self.socket, event, self.turn)

    def end(self):
        SELECTOR.unregister(self.socket)
        self.socket.close()


def let_in():
    """While descriptors or memory are short the listener stays readable, so it is left out for a while."""
    try:
        client, _ = LISTENER.accept()
    except (BlockingIOError, ConnectionAbortedError):
        return None
    except OSError:
        global listens_again
        SELECTOR.unregister(LISTENER)
        listens_again = time.monotonic() + contender.PAUSE
        return None
    client.setblocking(False)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Client(client)


def turn(timeout=None):
    for key, _ in SELECTOR.select(timeout):
        key.data()


ARGUMENTS = contender.arguments()
SELECTOR = selectors.DefaultSelector()
LISTENER = contender.listen_on(ARGUMENTS.port)
LISTENER.setblocking(False)
SELECTOR.register(LISTENER, selectors.EVENT_READ, let_in)
listens_again = None  # when, while it does not listen
bell, rope = socket.socketpair()  # a signal alone does not end a select
rope.setblocking(False)
SELECTOR.register(bell, selectors.EVENT_READ, lambda: None)
signal.set_wakeup_fd(rope.fileno())
signal.signal(signal.SIGTERM, contender.end)
while not contender.ending:
    turn(listens_again and listens_again - time.monotonic())
    if listens_again and time.monotonic() >= listens_again:
        SELECTOR.register(LISTENER, selectors.EVENT_READ, let_in)
        listens_again = None
SELECTOR.unregister(bell)
while not listens_again and let_in():
    pass  # who was in the queue
if not listens_again:
    SELECTOR.unregister(LISTENER)
LISTENER.close()
contender.hang_up([key.fileobj for key in SELECTOR.get_map().values()])
while SELECTOR.get_map():
    turn()
