"""A thread per connection, by CPython's socketserver.

One thread computes at a time, whichever has the interpreter's lock; but who blocks lets it go. So threads share what
is waited for, and not what is computed.

Run:       python3 python-threads.py 7007
See also:  socketserver.ThreadingTCPServer, and our thread.
"""
import signal
import socketserver
import threading

import contender


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        contender.converse(self.request, ARGUMENTS.work)


class Server(contender.Server, socketserver.ThreadingTCPServer):
    daemon_threads = True  # of which socketserver keeps no list

    def server_close(self):
        super().server_close()
        for thread in threading.enumerate():
            if thread.daemon:
                thread.join()


ARGUMENTS = contender.arguments()
signal.signal(signal.SIGTERM, contender.end)
with Server(("127.0.0.1", ARGUMENTS.port), Echo) as server:
    server.serve_forever()
