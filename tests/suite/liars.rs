//! Servers that do it wrong, one fault each, for the load to find out.

use std::{
    io::{Read, Write},
    mem,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Condvar, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// What a liar does to what it was sent; returns whether it goes on with this client.
pub type Lie = fn(&mut TcpStream, &mut State, &mut Vec<u8>) -> bool;

/// What a liar remembers of a client.
pub struct State {
    /// Bytes heard so far.
    pub heard: usize,
    /// When it came.
    pub since: Instant,
}

/// Serves with a thread a client, for as long as the test runs.
pub fn start(lie: Lie) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(client, lie));
        }
    });
    address
}

fn serve(mut client: TcpStream, lie: Lie) {
    let _ = client.set_nodelay(true);
    let mut state = State { heard: 0, since: Instant::now() };
    let mut buffer = vec![0; 65536];
    while let Ok(n @ 1..) = client.read(&mut buffer) {
        let mut bytes = buffer[..n].to_vec();
        let goes_on = lie(&mut client, &mut state, &mut bytes);
        state.heard += n;
        if client.write_all(&bytes).is_err() || !goes_on {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Write);
    while matches!(client.read(&mut buffer), Ok(1..)) {}
}

/// Tells the truth.
pub fn honest(_: &mut TcpStream, _: &mut State, _: &mut Vec<u8>) -> bool {
    true
}

/// Every byte is another one, from the first on.
#[allow(clippy::ptr_arg, reason = "the others change its length")]
pub fn inverts(_: &mut TcpStream, _: &mut State, bytes: &mut Vec<u8>) -> bool {
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    true
}

/// Flips one bit in a million bytes: bit 5 of byte 1,000,000.
#[allow(clippy::ptr_arg, reason = "the others change its length")]
pub fn flips_a_bit(_: &mut TcpStream, state: &mut State, bytes: &mut Vec<u8>) -> bool {
    if let Some(byte) = 1_000_000usize.checked_sub(state.heard).and_then(|at| bytes.get_mut(at)) {
        *byte ^= 0x20;
    }
    true
}

/// Forgets what came last when it sees the end: looks for it after each read, and closes.
pub fn drops_the_tail(client: &mut TcpStream, _: &mut State, bytes: &mut Vec<u8>) -> bool {
    // Whether the FIN is already there; give the one that left with the data the time to arrive.
    let _ = client.set_read_timeout(Some(Duration::from_millis(1)));
    let at_end = matches!(client.peek(&mut [0; 1]), Ok(0));
    let _ = client.set_read_timeout(None);
    if at_end {
        bytes.clear();
    }
    !at_end
}

/// Answers the 100,000th byte's message without its last byte.
pub fn answers_short(_: &mut TcpStream, state: &mut State, bytes: &mut Vec<u8>) -> bool {
    if (state.heard..state.heard + bytes.len()).contains(&100_000) {
        bytes.pop();
    }
    true
}

/// From the 50,000th byte on, says everything twice.
pub fn echoes_too_much(_: &mut TcpStream, state: &mut State, bytes: &mut Vec<u8>) -> bool {
    if state.heard >= 50_000 {
        bytes.extend_from_within(..);
    }
    true
}

/// From its 20,000th byte on gives each client what another one awaits.
pub fn mixes_clients_up(_: &mut TcpStream, state: &mut State, bytes: &mut Vec<u8>) -> bool {
    static WAITING: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static MET: Condvar = Condvar::new();
    if state.heard < 20_000 {
        return true;
    }
    let mut waiting = WAITING.lock().expect("nobody panics here");
    if waiting.is_empty() {
        waiting.clone_from(bytes);
        let patience = Duration::from_secs(1);
        let met = MET.wait_timeout_while(waiting, patience, |waiting| waiting == bytes);
        *bytes = mem::take(&mut met.expect("nobody panics here").0);
    } else {
        mem::swap(&mut *waiting, bytes);
        MET.notify_one();
    }
    true
}

/// Answers its first client well, and the others with a wrong byte.
#[allow(clippy::ptr_arg, reason = "the others change its length")]
pub fn is_good_once(_: &mut TcpStream, state: &mut State, bytes: &mut Vec<u8>) -> bool {
    static CLIENTS: AtomicUsize = AtomicUsize::new(0);
    if state.heard == 0 && CLIENTS.fetch_add(1, Relaxed) > 0 {
        bytes[0] ^= 1;
    }
    true
}

/// Is gone after 100 answers, each of which was right.
#[allow(clippy::ptr_arg, reason = "the others change its length")]
pub fn leaves(_: &mut TcpStream, state: &mut State, bytes: &mut Vec<u8>) -> bool {
    state.heard + bytes.len() < 6400
}

/// Says nothing at all.
pub fn is_silent(_: &mut TcpStream, _: &mut State, bytes: &mut Vec<u8>) -> bool {
    bytes.clear();
    true
}

/// Tells the truth, but for 500 ms of every 2.5 s it says nothing.
pub fn stalls(_: &mut TcpStream, _: &mut State, _: &mut Vec<u8>) -> bool {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    let (period, stall) = (Duration::from_millis(2500), Duration::from_millis(500));
    let elapsed = BEGUN.get_or_init(Instant::now).elapsed().as_nanos() % period.as_nanos();
    thread::sleep(stall.saturating_sub(Duration::from_nanos(elapsed as u64)));
    true
}
