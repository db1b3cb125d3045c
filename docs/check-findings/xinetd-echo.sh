#!/bin/sh
# The echo inside of xinetd, without its usual limit of 50 connections a second:  xinetd-echo.sh stream|dgram PORT
configuration=${TMPDIR:-/tmp}/xinetd-echo-$2.conf
cat >"$configuration" <<END
service echo
{
    type        = INTERNAL UNLISTED
    id          = echo-$1
    socket_type = $1
    protocol    = $([ "$1" = dgram ] && echo udp || echo tcp)
    port        = $2
    bind        = 127.0.0.1
    user        = root
    instances   = UNLIMITED
    cps         = 100000 1
    wait        = $([ "$1" = dgram ] && echo yes || echo no)
}
END
exec xinetd -dontfork -filelog /dev/null -f "$configuration"
