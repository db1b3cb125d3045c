"""A thread per connection, by CPython's socketserver.

One thread computes at a time, whichever has the interpreter's lock; but who blocks lets it go. So threads share what
is waited for, and not what is computed.

Run:       python3 python-threads.py 7007
See also:  socketserver.ThreadingTCPServer, and our thread.
"""
import socketserver

import contender


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        contender.converse(self.request, ARGUMENTS.work)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True  # which end with the process
    allow_reuse_address = True
    request_queue_size = contender.BACKLOG

    def get_request(self):
        client = contender.let_in(self.socket)
        return client, None


ARGUMENTS = contender.arguments()
Server(("127.0.0.1", ARGUMENTS.port), Echo).serve_forever()
