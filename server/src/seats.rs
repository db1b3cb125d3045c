//! The limits on clients, over all workers, also over processes: how many there may be, and how many of one
//! address.
//!
//! Each client takes a seat. The seats are counted in one table in shared memory: in all, by address, and by
//! the process that holds them, so that what a killed process held can be given back. A lock guards it that
//! survives its holder; it is taken when a client comes and when it leaves, and only where there is a limit.

use std::io;

use crate::{
    scoreboard::{Tally, Trouble},
    shared::{Held, Sharable, SharedMutex},
    socket::Peer,
};

/// How many clients there may be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// In all.
    pub connections: Option<usize>,
    /// Of one address; an IPv6 network of 64 bits is one.
    pub per_ip: Option<usize>,
}

/// The seats of a server.
pub struct Seats {
    limits: Limits,
    table: Option<SharedMutex<Table>>,
}

impl Seats {
    /// All free.
    ///
    /// # Errors
    /// Where the kernel refuses the memory.
    pub fn new(limits: Limits) -> io::Result<Self> {
        let limited = limits.connections.is_some() || limits.per_ip.is_some();
        Ok(Self { limits, table: limited.then(SharedMutex::new).transpose()? })
    }

    /// How many clients there may be in all, where there is a limit.
    pub fn most(&self) -> Option<usize> {
        self.limits.connections
    }

    /// Whether it matters who a client is.
    pub fn tell_peers_apart(&self) -> bool {
        self.limits.per_ip.is_some()
    }

    /// A client of `peer` takes a seat, which this process holds; or the limit that refuses it.
    pub fn take(&self, peer: Peer) -> Result<Seat<'_>, Trouble> {
        self.seat(peer)?;
        Ok(Seat { seats: self, peer, tally: None })
    }

    /// Where the last holder died, its sums may be behind: they are made anew.
    fn lock<'t>(&self, table: &'t SharedMutex<Table>) -> Held<'t, Table> {
        let mut held = table.lock();
        if held.was_abandoned() {
            held.add_up();
        }
        held
    }

    fn seat(&self, peer: Peer) -> Result<(), Trouble> {
        let Some(table) = &self.table else { return Ok(()) };
        let mut table = self.lock(table);
        let taken = |key| table.count(Entry { key, holder: EVERYBODY, count: 0 });
        if self.limits.connections.is_some_and(|most| taken(ALL) >= most) {
            return Err(Trouble::MaxConnections);
        }
        if self.limits.per_ip.is_some_and(|most| taken(peer.number()) >= most) && peer != Peer::default() {
            return Err(Trouble::MaxPerIp);
        }
        match table.add(peer.number(), Holder::this_process()) {
            true => Ok(()),
            false => Err(Trouble::MaxConnections), // the table is full
        }
    }

    /// The seat of a client that `from` held and handed to this process, which holds it from now on.
    pub fn adopt(&self, peer: Peer, from: Holder) -> Seat<'_> {
        self.change_hands(peer, from, Holder::this_process());
        Seat { seats: self, peer, tally: None }
    }

    fn change_hands(&self, peer: Peer, from: Holder, to: Holder) {
        if let Some(table) = self.table.as_ref().filter(|_| from != to) {
            let mut table = self.lock(table);
            table.remove(peer.number(), from, 1);
            table.add(peer.number(), to);
        }
    }

    /// The seat of a client that was left to a child process is free: the child has ended.
    pub fn leave(&self, peer: Peer) {
        if let Some(table) = &self.table {
            self.lock(table).remove(peer.number(), Holder::this_process(), 1);
        }
    }

    /// Whoever held them is no more: the seats that it still held are free.
    pub fn leave_all_of(&self, holder: Holder) {
        if let Some(table) = &self.table {
            self.lock(table).remove_all(holder);
        }
    }
}

/// A client's seat, free again when this is dropped.
pub struct Seat<'a> {
    seats: &'a Seats,
    peer: Peer,
    tally: Option<&'a Tally>,
}

impl<'a> Seat<'a> {
    /// The worker with this tally begins to serve the client.
    pub fn served_by(&mut self, tally: &'a Tally) {
        tally.accepted();
        self.tally = Some(tally);
    }

    /// The seat stays taken, for who will leave it ([`Seats::leave`]) or adopt it ([`Seats::adopt`]).
    pub fn stays_taken(self) {
        std::mem::forget(self);
    }

    /// Another holds it from now on, until it adopts it or gives it back.
    pub fn passes_to(&self, holder: Holder) {
        self.seats.change_hands(self.peer, Holder::this_process(), holder);
    }

    /// Who held it gives it back.
    pub fn comes_back_from(&self, holder: Holder) {
        self.seats.change_hands(self.peer, holder, Holder::this_process());
    }

    /// Who sits there.
    pub fn peer(&self) -> Peer {
        self.peer
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if let Some(tally) = self.tally {
            tally.closed();
        }
        self.seats.leave(self.peer);
    }
}

/// Who holds seats, and by whose end they are free: a process, or the way to a worker's place from its acceptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(u64);

impl Holder {
    /// The process that asks.
    pub fn this_process() -> Self {
        Self::process(std::process::id())
    }

    /// A process.
    pub fn process(pid: u32) -> Self {
        Self(pid.into())
    }

    /// The way from this process to its worker number `n`.
    pub fn on_the_way_to(n: usize) -> Self {
        Self((n as u64 + 1) << 32 | u64::from(std::process::id()))
    }

    /// A number that is this holder's alone.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The holder that has this number; 0 is nobody's.
    pub fn numbered(number: u64) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }
}

/// The key of all clients together, which is no peer's number.
const ALL: u64 = u64::MAX;
/// The holder of a sum over all processes.
const EVERYBODY: Holder = Holder(0);

/// How many entries the table has: more than two for each descriptor that a server may have.
const ENTRIES: usize = 1 << 17;
/// An entry lies in one of so many places from where its key says.
const NEARBY: usize = 64;

/// An open-addressing hash table of counters. The sums follow from the other entries.
struct Table {
    entries: [Entry; ENTRIES],
}

#[derive(Clone, Copy)]
struct Entry {
    key: u64,
    holder: Holder,
    /// 0: the place is free.
    count: u32,
}

// SAFETY: integers alone, and only reached through a mutex.
#[allow(unsafe_code)]
unsafe impl Sharable for Table {}

impl Table {
    /// Where the entry is, or the first place where it could be.
    fn place(&self, wanted: Entry) -> Option<usize> {
        let mixed = (wanted.key ^ wanted.holder.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let first = (mixed >> 40) as usize;
        let nearby = || (0..NEARBY).map(|n| (first + n) % ENTRIES);
        let same =
            |entry: &Entry| entry.count > 0 && entry.key == wanted.key && entry.holder == wanted.holder;
        nearby()
            .find(|&place| same(&self.entries[place]))
            .or_else(|| nearby().find(|&place| self.entries[place].count == 0))
    }

    fn count(&self, wanted: Entry) -> usize {
        self.place(wanted).map_or(0, |place| self.entries[place].count as usize)
    }

    fn change(&mut self, key: u64, holder: Holder, by: i64) -> bool {
        let wanted = Entry { key, holder, count: 0 };
        let Some(place) = self.place(wanted) else { return false };
        let entry = &mut self.entries[place];
        let count = u32::try_from(i64::from(entry.count) + by).unwrap_or(0);
        *entry = Entry { count, ..wanted };
        true
    }

    fn add(&mut self, key: u64, holder: Holder) -> bool {
        let added = self.change(key, holder, 1) && self.change(key, EVERYBODY, 1);
        added && self.change(ALL, EVERYBODY, 1)
    }

    fn remove(&mut self, key: u64, holder: Holder, n: u32) {
        for (key, holder) in [(key, holder), (key, EVERYBODY), (ALL, EVERYBODY)] {
            self.change(key, holder, -i64::from(n));
        }
    }

    /// Makes the sums over all holders anew.
    fn add_up(&mut self) {
        for entry in &mut self.entries {
            if entry.holder == EVERYBODY {
                entry.count = 0;
            }
        }
        for place in 0..ENTRIES {
            let Entry { key, count, .. } = self.entries[place];
            if count > 0 && self.entries[place].holder != EVERYBODY {
                self.change(key, EVERYBODY, count.into());
                self.change(ALL, EVERYBODY, count.into());
            }
        }
    }

    fn remove_all(&mut self, holder: Holder) {
        for place in 0..ENTRIES {
            let entry = self.entries[place];
            if entry.holder == holder && entry.count > 0 {
                self.remove(entry.key, holder, entry.count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn seats_are_never_more_than_the_limit_and_come_back() {
        let seats = Seats::new(Limits { connections: Some(2), per_ip: None }).unwrap();
        let tally = Tally::default();
        let mut first = seats.take(peer("10.0.0.1")).unwrap();
        first.served_by(&tally);
        let _second = seats.take(peer("10.0.0.2")).unwrap();
        assert_eq!(seats.take(peer("10.0.0.1")).err(), Some(Trouble::MaxConnections));
        drop(first);
        assert!(seats.take(peer("10.0.0.1")).is_ok());
    }

    #[test]
    fn each_address_has_its_own_limit_and_nobody_in_particular_has_none() {
        let seats = Seats::new(Limits { connections: None, per_ip: Some(1) }).unwrap();
        let mut seated = Vec::new();
        for n in 0..=255 {
            let one = peer(&format!("10.0.{n}.1"));
            seated.push(seats.take(one).unwrap());
            assert_eq!(seats.take(one).err(), Some(Trouble::MaxPerIp));
        }
        seated.extend((0..10).map(|_| seats.take(Peer::default()).unwrap()));
        drop(seated);
        assert!(seats.take(peer("10.0.7.1")).is_ok());
    }

    #[test]
    fn what_a_killed_process_held_is_given_back() {
        let seats = Seats::new(Limits { connections: Some(5), per_ip: Some(5) }).unwrap();
        let (a, b) = (peer("10.0.0.1"), peer("10.0.0.2"));
        let take = |peer| seats.take(peer).unwrap();
        let _stay = [take(b), take(b)];
        for client in [a, a, b] {
            seats.seat(client).unwrap();
            let mut table = seats.lock(seats.table.as_ref().unwrap());
            table.remove(client.number(), Holder::this_process(), 1);
            table.add(client.number(), Holder::process(4711));
        }
        assert_eq!(seats.take(a).err(), Some(Trouble::MaxConnections));
        seats.leave_all_of(Holder::process(4711));
        let _three = [take(a), take(a), take(a)];
        assert!(seats.take(a).is_err());
    }

    #[test]
    fn sums_that_a_dead_holder_left_wrong_are_made_anew() {
        let seats = Seats::new(Limits { connections: Some(3), per_ip: None }).unwrap();
        let _stay = [seats.take(peer("10.0.0.1")).unwrap(), seats.take(peer("10.0.0.2")).unwrap()];
        let mut table = seats.lock(seats.table.as_ref().unwrap());
        table.change(ALL, EVERYBODY, 100);
        table.add_up();
        assert_eq!(table.count(Entry { key: ALL, holder: EVERYBODY, count: 0 }), 2);
        drop(table);
        let _third = seats.take(peer("10.0.0.1")).unwrap();
        assert!(seats.take(peer("10.0.0.1")).is_err());
    }

    #[test]
    fn without_a_limit_there_is_nothing_to_count() {
        let seats = Seats::new(Limits::default()).unwrap();
        let taken: Vec<_> = (0..1000).map(|_| seats.take(peer("10.0.0.1"))).collect();
        assert!(taken.iter().all(Result::is_ok));
    }
}
