//! One loop on mio: epoll on Linux, kqueue on BSD and macOS, both edge-triggered.
//!
//! See also: epoll(7); Kegel, "The C10K problem". The loop itself is `readiness`. Next: `multi-reactor`, a loop
//! a core.

use std::io;

use crate::{
    accept::Entrance,
    model::{AtOnce, Context, Model, Serve, Way},
    readiness::{self, Mio},
    socket::{Datagrams, Listener},
};

pub const MODEL: Model = Model {
    name: "event-loop",
    summary: "one loop on mio (epoll, kqueue)",
    at_once: AtOnce::All,
    is_loop: true,
    isolates: &[],
    tcp: &[Way { dispatch: "", serve: Serve::One(serve) }],
    udp: &[Way { dispatch: "", serve: Serve::One(serve_datagrams) }],
    supported: || Ok(()),
};

fn serve(listener: Listener, ctx: &Context) -> io::Result<()> {
    readiness::serve(Mio::new()?, Entrance::Listener(listener), None, ctx, ctx.board.alone())
}

fn serve_datagrams(socket: Datagrams, ctx: &Context) -> io::Result<()> {
    ctx.board.alone();
    readiness::serve_datagrams(Mio::new()?, &socket, ctx, 0)
}
