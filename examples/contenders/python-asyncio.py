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

import contender


async def converse(client):
    reader, writer = await asyncio.open_connection(sock=client, limit=contender.BUFFER)
    with contextlib.suppress(OSError):  # its misfortune is its own
        while received := await reader.read(contender.BUFFER):
            ARGUMENTS.work()
            writer.write(received)
            await writer.drain()
    writer.close()  # when all is sent


async def serve(listener):
    listener.setblocking(False)
    while True:
        try:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
        except OSError:  # descriptors or memory are short, and the listener stays readable
            await asyncio.sleep(contender.PAUSE)
            continue
        task = asyncio.create_task(converse(client))
        TASKS.add(task)  # the loop itself does not keep it
        task.add_done_callback(TASKS.discard)


ARGUMENTS = contender.arguments()
TASKS = set()
asyncio.run(serve(contender.listen_on(ARGUMENTS.port)))
