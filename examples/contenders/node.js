/* One loop by Node, one thread. The work runs inside the loop, on purpose.
 *
 * A client that does not read is not read from: while write() says that too much is owed, the socket is paused.
 * Where descriptors run out, libuv keeps one in reserve, with which it takes the client and closes it.
 *
 * Run:       node node.js 7007
 * See also:  net.createServer, and our event-loop.
 */
'use strict';
const net = require('net');

const MICROSECONDS = { us: 1, ms: 1e3, s: 1e6 };
const nothing = new Int32Array(new SharedArrayBuffer(4));

function usage() {
  console.error('usage: node node.js PORT [--work none|cpu:2ms|sleep:2ms]');
  process.exit(2);
}

/* CPU time so far, in microseconds: this thread's, or where Node does not tell, the process's, whose others idle. */
function cpuTime() {
  const { user, system } = (process.threadCpuUsage || process.cpuUsage).call(process);
  return user + system;
}

function compute(amount) {
  const end = cpuTime() + amount;
  while (cpuTime() < end);
}

/* What serving a message costs besides the echo, as a function. */
function work(text) {
  if (text === 'none') return () => {};
  const [, kind, number, unit] = /^(cpu|sleep):([0-9]+)(us|ms|s)$/.exec(text) || usage();
  const amount = number * MICROSECONDS[unit];
  return kind === 'cpu' ? () => compute(amount) : () => Atomics.wait(nothing, 0, 0, amount / 1e3);
}

const [port, ...rest] = process.argv.slice(2);
if (!(port >= 1 && port <= 65535)) usage();
if (rest.length > 0 && !(rest.length === 2 && rest[0] === '--work')) usage();
const toil = work(rest[1] || 'none');

/* Node cannot shut a socket for reading. In a whole turn of the loop it reads what has come, unless it waits until the
 * client has read. */
function afterATurn(then) {
  setImmediate(() => setImmediate(then));
}

function hangUp(client) {
  afterATurn(() => {
    if (client.writableNeedDrain) client.once('drain', () => hangUp(client));
    else client.pause().destroySoon(); // when all is sent
  });
}

/* First those in the queue are let in: Node takes one a turn. */
function stop() {
  newcomers = 0;
  afterATurn(() => {
    if (newcomers > 0) return stop();
    server.close();
    clients.forEach(hangUp);
  });
}

const clients = new Set();
let newcomers = 0;
const server = net.createServer({ allowHalfOpen: true }, (client) => {
  newcomers++;
  clients.add(client);
  client.on('close', () => clients.delete(client));
  client.setNoDelay(true);
  client.on('data', (received) => {
    toil();
    if (!client.write(received)) client.pause();
  });
  client.on('drain', () => client.resume());
  client.on('end', () => client.end()); // when all is sent
  client.on('error', () => client.destroy());
});
server.on('error', (error) => {
  console.error(error.message);
  if (!server.listening) process.exit(2);
});
server.listen({ host: '127.0.0.1', port, backlog: 4096 });
process.once('SIGTERM', stop);
