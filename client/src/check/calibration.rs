//! How slow this machine is just now: an echo of our own, timed.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// A round trip between two threads of this process that both sleep, on the machine that the checks' durations were
/// chosen on, when nobody else used it.
const ROUND_TRIP: Duration = Duration::from_micros(60);
/// For how long is asked: longer than a period of the scheduler's bandwidth control, which may hold a process back
/// for the most of 100 ms (cgroups(7), cpu.max).
const SAMPLE: Duration = Duration::from_millis(200);
/// So often in it, and that many round trips at a time: the checks may be many at once, and each asks.
const BURSTS: u32 = 10;
const TRIPS: u32 = 32;
/// More patience than this is not had: a hang is a hang.
const MOST: f64 = 10.0;

/// By how much durations are to be stretched: 1 on a machine that is idle and not slow, and at most 10.
///
/// # Errors
/// Where there is no loopback.
pub fn stretch() -> io::Result<f64> {
    Ok((round_trip()?.as_secs_f64() / ROUND_TRIP.as_secs_f64()).clamp(1.0, MOST))
}

/// How long a round trip takes now, on average.
///
/// # Errors
/// Where there is no loopback.
pub fn round_trip() -> io::Result<Duration> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let echo = thread::spawn(move || {
        let mut byte = [0; 1];
        while server.read_exact(&mut byte).and_then(|()| server.write_all(&byte)).is_ok() {}
    });
    let (mut took, mut trips) = (Duration::ZERO, 0);
    let end = Instant::now() + SAMPLE;
    while Instant::now() < end {
        let began = Instant::now();
        for _ in 0..TRIPS {
            client.write_all(b"?")?;
            client.read_exact(&mut [0; 1])?;
        }
        (took, trips) = (took + began.elapsed(), trips + TRIPS);
        thread::sleep((SAMPLE / BURSTS).saturating_sub(began.elapsed()));
    }
    let each = took / trips;
    drop(client);
    let _ = echo.join();
    Ok(each)
}
