"""A task per connection on one loop, by CPython's asyncio: written as threads are, and still one thread. The work
runs inside the loop, on purpose.

The stream receives no more while it holds 128 KiB, and drain() waits while 64 KiB are not sent. Clients are let in
here, and not by start_server(), which where descriptors run out asks again for each place in its queue (seen in
CPython 3.11).

Run:       python3 python-asyncio.py 7007
See also:  asyncio streams, and our async.
"""
import asyncio
import contextlib
import signal

import contender


async def converse(client):
    reader, writer = await asyncio.open_connection(sock=client, limit=contender.BUFFER)
    with contextlib.suppress(OSError):  # its misfortune is its own
        while received := await reader.read(contender.BUFFER):
            ARGUMENTS.work()
            writer.write(received)
            await writer.drain()
        writer.close()
        await writer.wait_closed()  # all is sent


def begin(client):
    task = asyncio.create_task(converse(client))
    CLIENTS[task] = client  # the loop itself does not keep the task
    task.add_done_callback(CLIENTS.pop)


async def serve(listener):
    while True:
        try:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
        except OSError:  # descriptors or memory are short, and the listener stays readable
            await asyncio.sleep(contender.PAUSE)
            continue
        begin(client)


async def serve_until_sigterm(listener):
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(serve(listener))
    # A turn later: a client that was just accepted would be lost with the task.
    loop.add_signal_handler(signal.SIGTERM, loop.call_soon, serving.cancel)
    await asyncio.wait([serving])
    with contextlib.suppress(OSError):
        while True:
            begin(listener.accept()[0])  # who was in the queue
    listener.close()
    contender.hang_up(CLIENTS.values())
    while CLIENTS:
        await asyncio.wait(CLIENTS)


ARGUMENTS = contender.arguments()
CLIENTS = {}  # by task
asyncio.run(serve_until_sigterm(contender.listen_on(ARGUMENTS.port)))
