#!/bin/sh
# Plays a lesson as its header says: the server of the first terminal in the background, its lines marked "1|", and what
# is typed into the second one here. A lesson that does not listen needs one terminal.
set -eu
cd "$(dirname "$0")/.."
lesson=$(ls examples/"${1:-}"_*.rs 2> /dev/null) || { echo "Which lesson? make lesson N=05 (make lessons lists them)" >&2; exit 2; }
name=$(basename "$lesson" .rs)
# Where `make demo` or `make install` has built the client, that one will do.
client=target/release/echo-client
[ -x $client ] || client=target/debug/echo-client
typed() { sed -n '/^\/\/! Type/,/^\/\/! Predict/s|^//!     ||p' "$lesson" | sed -n "$1{s|cargo run --bin echo-client|$client|;s|cargo run|cargo run -q|;p}"; }

sed -n 's|^//! \{0,1\}||p' "$lesson"
echo
grep -q 'println!("listening on' "$lesson" || exec sh -c "$(typed 1)"

cargo build --example "$name"
[ -x $client ] || cargo build --bin echo-client
log=$(mktemp)
target/debug/examples/"$name" > "$log" &
server=$!
trap 'kill $server 2> /dev/null || true; wait || true; rm -f "$log"' EXIT
until grep -q 'listening on' "$log"; do
    kill -0 $server 2> /dev/null || { echo "$name did not start; if its address is in use, end the lesson that still runs" >&2; exit 1; }
    sleep 0.1
done
tail -f -n +1 --pid=$server "$log" | sed -u 's/^/1| /' &
sh -c "$(typed 2)"
sleep 0.3 # what the server still has to say of its client
