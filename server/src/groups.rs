//! Datagrams by client address: what each client said last, and in all, within bounds.
//!
//! A client over its own bounds loses its oldest message. When there are too many clients, or they take too much
//! memory, the one that was heard least recently goes, with all that it said. Every message that is not held any
//! more was counted, under the reason, so that *kept = held + dropped*, always.
//!
//! Several workers' groups can be merged into one ([`Groups::merge`]), handed to another process as bytes (`copied`)
//! and written as JSON (`json`).

mod copied;
mod frames;
mod json;

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher, RandomState},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use lru::LruCache;
use zerocopy::{Immutable, IntoBytes};

use crate::scoreboard::Dropped;
use frames::Frames;

/// How long a datagram can be: what IPv4 leaves of 65,535 bytes beside its header and that of UDP.
const LONGEST: usize = 65_507;

/// How much may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Clients.
    pub clients: usize,
    /// Messages of one client.
    pub messages: usize,
    /// Bytes of one client's messages.
    pub bytes: usize,
    /// Bytes of memory in all, with what it costs to keep them in order.
    pub memory: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { clients: 65_536, messages: 1024, bytes: 1 << 20, memory: 256 << 20 }
    }
}

impl Bounds {
    /// What each of `workers` may hold, that all together hold no more memory than these bounds allow. A client may
    /// be heard by any of them, so in what else is bounded each may be the only one.
    pub fn a_share_of(self, workers: usize) -> Self {
        Self { memory: self.memory / workers.max(1), ..self }
    }

    /// How much memory one datagram of the longest takes that may be kept, where nobody else's is.
    pub fn of_the_longest(&self) -> usize {
        A_CLIENT + A_PLACE + Frames::takes(self.bytes.min(LONGEST))
    }

    /// How big a client's ring has to be at most.
    fn ring(&self) -> usize {
        Frames::take(self.messages, self.bytes)
    }
}

/// Who sent a datagram. An IPv4 address is written as IPv6 writes it (RFC 4291, 2.5.5.2): a client is the same one
/// through a socket of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoBytes, Immutable)]
#[repr(C)]
struct Address {
    ip: [u8; 16],
    scope: u32,
    port: u32,
}

impl Hash for Address {
    /// All at once, which takes a third of the time of field by field.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write(self.as_bytes());
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let (ip, scope) = match (address, address.ip().to_canonical()) {
            (_, IpAddr::V4(ip)) => (ip.to_ipv6_mapped(), 0),
            (SocketAddr::V6(address), IpAddr::V6(ip)) => (ip, address.scope_id()),
            (SocketAddr::V4(_), IpAddr::V6(ip)) => (ip, 0),
        };
        Self { ip: ip.octets(), scope, port: address.port().into() }
    }
}

impl From<Address> for SocketAddr {
    fn from(address: Address) -> Self {
        let (ip, port) = (Ipv6Addr::from(address.ip), address.port as u16);
        match ip.to_ipv4_mapped() {
            Some(ip) => (ip, port).into(),
            None => SocketAddrV6::new(ip, port, 0, address.scope).into(),
        }
    }
}

/// What is known of a client.
#[derive(Default)]
pub struct Client {
    frames: Frames,
    /// When its first message came, in nanoseconds since 1970.
    first_heard: u64,
    /// When its last one came. A clock that is set back stands still here, so that messages stay in their order when
    /// several workers' are merged.
    last_heard: u64,
    received_messages: u64,
    received_bytes: u64,
    /// When the newest message came that was dropped because of its length, or others'. What is older is not held:
    /// see `merge`.
    dropped_until: u64,
}

impl Client {
    /// A client whose first message came `at`.
    fn first_heard_at(at: u64) -> Self {
        Self { first_heard: at, last_heard: at, ..Self::default() }
    }

    /// Its messages that are held, from the oldest on, and when each came.
    pub fn messages(&self) -> impl Iterator<Item = frames::Message<'_>> {
        self.frames.iter()
    }

    /// A message of `bytes` came; says which stamp it gets.
    fn hears(&mut self, at: u64, bytes: usize) -> u64 {
        self.last_heard = self.last_heard.max(at);
        self.received_messages += 1;
        self.received_bytes += bytes as u64;
        self.last_heard
    }

    /// What of another worker's client, the same one, is added up.
    fn adds_up(&mut self, other: &Self) {
        self.first_heard = self.first_heard.min(other.first_heard);
        self.last_heard = self.last_heard.max(other.last_heard);
        self.received_messages += other.received_messages;
        self.received_bytes += other.received_bytes;
        self.dropped_until = self.dropped_until.max(other.dropped_until);
    }

    /// Why one more message of `bytes` would be too much, if it would be.
    fn is_full_for(&self, bytes: usize, bounds: &Bounds) -> Option<Dropped> {
        if self.frames.count() >= bounds.messages {
            return Some(Dropped::ClientMessages);
        }
        (self.frames.bytes() + bytes > bounds.bytes).then_some(Dropped::ClientBytes)
    }

    /// Whether it holds no more than `bounds` allow.
    fn is_within(&self, bounds: &Bounds) -> bool {
        self.frames.count() <= bounds.messages && self.frames.bytes() <= bounds.bytes
    }

    /// Drops the oldest message, where there is one.
    fn drops_the_oldest(&mut self, reason: Dropped) -> bool {
        let Some(at) = self.frames.pop() else { return false };
        if reason != Dropped::ClientMessages {
            self.dropped_until = self.dropped_until.max(at);
        }
        true
    }
}

/// What a client costs beside its ring: the entry, with its two links in the order of recency, and what the allocator
/// adds to each of two pieces of memory (glibc: 8 bytes, rounded up to 16 with the piece).
const A_CLIENT: usize = size_of::<Address>() + size_of::<Client>() + 2 * size_of::<usize>() + 2 * 16;

/// What a client's place in the hash table costs at most: two pointers and a byte of control, in a table that
/// hashbrown doubles where more than 7/16 of it is taken, so that it has up to 32/7 places a client. The table never
/// shrinks: it is as big as the most clients that there ever were made it.
const A_PLACE: usize = (2 * size_of::<usize>() + 1) * 32 / 7 + 1;

/// Messages by client.
pub struct Groups {
    bounds: Bounds,
    /// In the order of when they were last heard. Whoever sends datagrams chooses the address, so the hash is one
    /// whose collisions nobody can choose.
    clients: LruCache<Address, Client, RandomState>,
    /// The most clients that there ever were.
    most: usize,
    /// What the rings take.
    rings: usize,
    messages: usize,
    dropped: Drops,
    /// What of that was told.
    told: Drops,
}

/// How many messages were dropped, by reason.
type Drops = [u64; Dropped::ALL.len()];

impl Groups {
    /// Nobody was heard yet.
    pub fn new(bounds: Bounds) -> Self {
        let clients = LruCache::unbounded_with_hasher(RandomState::new());
        Self {
            bounds,
            clients,
            most: 0,
            rings: 0,
            messages: 0,
            dropped: Drops::default(),
            told: Drops::default(),
        }
    }

    /// Keeps a message that came `at`, in nanoseconds since 1970.
    pub fn keep(&mut self, from: SocketAddr, at: u64, bytes: &[u8]) {
        if let Err(reason) = self.hold(from.into(), at, bytes, Client::hears) {
            self.count(reason, 1);
        }
    }

    /// So many messages are not held, and why.
    fn count(&mut self, reason: Dropped, messages: u64) {
        self.dropped[reason as usize] += messages;
    }

    /// How many messages were dropped, by reason, without the reasons that there never were.
    pub fn dropped(&self) -> BTreeMap<&'static str, u64> {
        let counted = Dropped::ALL.iter().map(|&reason| (reason.name(), self.dropped[reason as usize]));
        counted.filter(|&(_, messages)| messages > 0).collect()
    }

    /// In all, so many messages were dropped for a reason.
    pub fn have_dropped(&mut self, reason: Dropped, messages: u64) {
        self.dropped[reason as usize] = messages;
    }

    /// Tells of each reason how many messages were dropped since it was last asked.
    pub fn tell(&mut self, mut teller: impl FnMut(Dropped, u64)) {
        if self.dropped == self.told {
            return;
        }
        for reason in Dropped::ALL {
            let untold = self.dropped[reason as usize] - self.told[reason as usize];
            if untold > 0 {
                teller(reason, untold);
            }
        }
        self.told = self.dropped;
    }

    /// How many clients are known.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// How many messages are held.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// How much memory they take: what was asked of the allocator for the rings, and a fixed cost for each client.
    /// Never more than the bounds allow.
    pub fn memory(&self) -> usize {
        self.rings + self.clients.len() * A_CLIENT + self.most * A_PLACE
    }

    /// Each client, in the order of its address.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &Client)> {
        let clients = self.clients.iter().map(|(&address, client)| (SocketAddr::from(address), client));
        let mut clients: Vec<_> = clients.collect();
        clients.sort_unstable_by_key(|&(address, _)| address);
        clients.into_iter()
    }

    /// Holds a message, after the client was told of it, which says when it came; or why it is not held.
    fn hold(
        &mut self,
        address: Address,
        at: u64,
        bytes: &[u8],
        tell: impl FnOnce(&mut Client, u64, usize) -> u64,
    ) -> Result<(), Dropped> {
        let client = match self.clients.get_mut(&address) {
            Some(client) => client,
            None => {
                self.make_way()?;
                self.clients.get_or_insert_mut(address, || Client::first_heard_at(at))
            }
        };
        let at = tell(client, at, bytes.len());
        if bytes.len() > self.bounds.bytes {
            return Err(Dropped::ClientBytes);
        }
        while let Some(reason) = client.is_full_for(bytes.len(), &self.bounds) {
            if !client.drops_the_oldest(reason) {
                return Err(reason);
            }
            self.messages -= 1;
            self.dropped[reason as usize] += 1;
        }
        let frame = Frames::takes(bytes.len());
        let client = match client.frames.room() >= frame {
            true => client,
            false => {
                self.make_room(&address, frame)?;
                self.clients.get_mut(&address).ok_or(Dropped::GroupMemory)?
            }
        };
        client.frames.push(at, bytes);
        self.messages += 1;
        Ok(())
    }

    /// Lets clients go until there may be one more; or says why there may not.
    fn make_way(&mut self) -> Result<(), Dropped> {
        loop {
            let clients = self.clients.len() + 1;
            let most = self.most.max(clients);
            let memory = self.rings + clients * A_CLIENT + most * A_PLACE;
            let reason = match (clients > self.bounds.clients, memory > self.bounds.memory) {
                (true, _) => Dropped::Clients,
                (_, true) => Dropped::GroupMemory,
                (false, false) => {
                    self.most = most;
                    return Ok(());
                }
            };
            self.let_go(reason)?;
        }
    }

    /// Lets the client go that was heard least recently, or says that there is none.
    fn let_go(&mut self, reason: Dropped) -> Result<(), Dropped> {
        let (_, client) = self.clients.pop_lru().ok_or(reason)?;
        self.rings -= client.frames.capacity();
        self.messages -= client.frames.count();
        self.count(reason, client.frames.count() as u64);
        Ok(())
    }

    /// Makes room for a frame in the ring of the client that was heard last: a ring doubles, so that what is copied to
    /// make it bigger is in all less than what it holds. For that others go, and where there are none its own oldest
    /// messages; where that is not enough, it says so.
    fn make_room(&mut self, address: &Address, frame: usize) -> Result<(), Dropped> {
        loop {
            let may_grow_by = self.bounds.memory.saturating_sub(self.memory());
            let alone = self.clients.len() == 1;
            let client = self.clients.get_mut(address).ok_or(Dropped::GroupMemory)?;
            let (has, needs) = (client.frames.capacity(), client.frames.len() + frame);
            let wants = needs.max((2 * has).min(self.bounds.ring()));
            let gets = if alone { wants.min(has + may_grow_by) } else { wants };
            if needs <= gets && gets <= has + may_grow_by {
                client.frames.grow(gets);
                self.rings += client.frames.capacity() - has;
                return Ok(());
            }
            if !alone {
                self.let_go(Dropped::GroupMemory)?;
            } else if client.drops_the_oldest(Dropped::GroupMemory) {
                self.messages -= 1;
                self.count(Dropped::GroupMemory, 1);
            } else {
                return Err(Dropped::GroupMemory);
            }
        }
    }

    /// Several workers' groups as one, within `bounds`: what a client said to any of them, in the order in which it
    /// came, as if one had heard it all.
    ///
    /// A worker holds the last that its bounds allow of what *it* heard, so among messages of one worker may lie
    /// some that another has dropped already. What is older than such a one is dropped here: one who had heard
    /// it all would have dropped it first. (Where a worker had too many messages, those that it holds instead are
    /// enough here to drop what is older.)
    pub fn merge<'a>(bounds: Bounds, parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut merged = Self::new(bounds);
        let mut heard: Vec<(Address, &Client)> = Vec::new();
        for part in parts {
            merged.dropped.iter_mut().zip(part.dropped).for_each(|(sum, messages)| *sum += messages);
            heard.extend(part.clients.iter().map(|(&address, client)| (address, client)));
        }
        merged.told = merged.dropped; // by the parts
        heard.sort_by_key(|&(address, _)| address);
        let mut same: Vec<&[(Address, &Client)]> = heard.chunk_by(|(a, _), (b, _)| a == b).collect();
        same.sort_by_key(|same| same.iter().map(|(_, client)| client.last_heard).max());
        same.into_iter().for_each(|same| merged.adopt(same));
        merged
    }

    /// Holds what several workers hold of one client, which was heard after all that are here already.
    fn adopt(&mut self, same: &[(Address, &Client)]) {
        let Some(&(address, first)) = same.first() else { return };
        let held = same.iter().map(|(_, client)| client.frames.count() as u64).sum();
        if let Err(reason) = self.make_way() {
            return self.count(reason, held);
        }
        let client = self.clients.get_or_insert_mut(address, || Client::first_heard_at(first.first_heard));
        same.iter().for_each(|(_, worker)| client.adds_up(worker));
        let dropped_until = client.dropped_until;
        // At once as big as it has to be, where that is possible; else it grows as it must.
        let ring = same.iter().map(|(_, client)| client.frames.len()).sum::<usize>().min(self.bounds.ring());
        let _ = self.make_room(&address, ring);
        for message in in_order(same) {
            let held = match message.at < dropped_until {
                true => Err(Dropped::ClientBytes),
                false => self.hold(address, message.at, &message.bytes, |_, at, _| at),
            };
            if let Err(reason) = held {
                self.count(reason, 1);
            }
        }
    }
}

/// The messages of several workers, each in its own order, in the order in which they came.
fn in_order<'a>(same: &'a [(Address, &Client)]) -> impl Iterator<Item = frames::Message<'a>> {
    let mut workers: Vec<_> = same.iter().map(|(_, client)| client.messages().peekable()).collect();
    std::iter::from_fn(move || {
        let came =
            |worker: &mut std::iter::Peekable<_>| worker.peek().map(|next: &frames::Message<'_>| next.at);
        let first = (0..workers.len()).filter_map(|n| Some((came(&mut workers[n])?, n))).min();
        first.and_then(|(_, n)| workers[n].next())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDE: Bounds =
        Bounds { clients: usize::MAX, messages: usize::MAX, bytes: usize::MAX, memory: usize::MAX };

    fn client(n: usize) -> SocketAddr {
        ([10, 0, (n >> 8) as u8, n as u8], 4000).into()
    }

    /// What is held of whom, in the order of the addresses.
    fn held(groups: &Groups) -> Vec<(SocketAddr, Vec<Vec<u8>>)> {
        let said = |client: &Client| client.messages().map(|message| message.bytes.into_owned()).collect();
        groups.iter().map(|(address, client)| (address, said(client))).collect()
    }

    /// What is known of whom.
    fn known(groups: &Groups) -> Vec<(SocketAddr, [u64; 4])> {
        let known = |client: &Client| {
            [client.first_heard, client.last_heard, client.received_messages, client.received_bytes]
        };
        groups.iter().map(|(address, client)| (address, known(client))).collect()
    }

    fn dropped(groups: &Groups) -> u64 {
        groups.dropped().values().sum()
    }

    fn only(reason: Dropped, messages: u64) -> BTreeMap<&'static str, u64> {
        BTreeMap::from([(reason.name(), messages)])
    }

    #[test]
    fn messages_lie_under_their_clients_in_arrival_order() {
        let mut groups = Groups::new(Bounds::default());
        for (n, text) in ["a", "x", "", "b", "c"].into_iter().enumerate() {
            groups.keep(client(n % 2), n as u64, text.as_bytes());
        }
        let bytes = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        assert_eq!(held(&groups), [(client(0), bytes(&["a", "", "c"])), (client(1), bytes(&["x", "b"]))]);
        assert_eq!(known(&groups), [(client(0), [0, 4, 3, 2]), (client(1), [1, 3, 2, 2])]);
        assert_eq!((groups.clients(), groups.messages(), groups.dropped()), (2, 5, BTreeMap::new()));
    }

    #[test]
    fn an_ipv4_client_is_the_same_through_a_socket_of_either_family() {
        let mut groups = Groups::new(Bounds::default());
        for address in
            ["192.0.2.1:53", "[::ffff:192.0.2.1]:53", "[::1]:53", "[fe80::1%1]:53", "[fe80::1%2]:53"]
        {
            groups.keep(address.parse().unwrap(), 0, b"");
        }
        let addresses: Vec<String> = groups.iter().map(|(address, _)| address.to_string()).collect();
        assert_eq!(addresses, ["192.0.2.1:53", "[::1]:53", "[fe80::1%1]:53", "[fe80::1%2]:53"]);
    }

    #[test]
    fn clients_are_shown_by_address_and_then_by_port() {
        let mut groups = Groups::new(Bounds::default());
        let sorted = ["9.0.0.1:80", "10.0.0.1:9", "10.0.0.1:80", "10.0.0.2:1", "[::2]:5", "[::10]:1"];
        sorted.iter().rev().for_each(|address| groups.keep(address.parse().unwrap(), 0, b""));
        let shown: Vec<String> = groups.iter().map(|(address, _)| address.to_string()).collect();
        assert_eq!(shown, sorted);
    }

    #[test]
    fn a_client_with_too_many_messages_loses_its_oldest() {
        let mut groups = Groups::new(Bounds { messages: 2, ..WIDE });
        (0..5).for_each(|n| groups.keep(client(0), n, &[n as u8]));
        groups.keep(client(1), 5, b"");
        assert_eq!(held(&groups), [(client(0), vec![vec![3], vec![4]]), (client(1), vec![vec![]])]);
        assert_eq!(groups.dropped(), only(Dropped::ClientMessages, 3));
    }

    #[test]
    fn a_client_with_too_many_bytes_loses_its_oldest_and_what_is_too_long_is_never_held() {
        let mut groups = Groups::new(Bounds { bytes: 10, ..WIDE });
        for length in [4, 4, 3, 11, 10, 0] {
            groups.keep(client(0), 0, &vec![length; length.into()]);
        }
        assert_eq!(held(&groups), [(client(0), vec![vec![10; 10], vec![]])]);
        assert_eq!(groups.dropped(), only(Dropped::ClientBytes, 4));
        assert_eq!(known(&groups)[0].1[2..], [6, 32], "all were received");
    }

    #[test]
    fn with_too_many_clients_the_one_heard_least_recently_goes() {
        let mut groups = Groups::new(Bounds { clients: 2, ..WIDE });
        for n in [0, 1, 0, 1, 1, 0, 2] {
            groups.keep(client(n), 0, b"");
        }
        let there: Vec<SocketAddr> = groups.iter().map(|(address, _)| address).collect();
        assert_eq!(there, [client(0), client(2)]);
        assert_eq!(groups.dropped(), only(Dropped::Clients, 3));
        groups.keep(client(1), 9, b"");
        assert_eq!(known(&groups)[0], (client(1), [9, 9, 1, 0]), "who comes back is new");
    }

    #[test]
    fn over_its_memory_the_ones_heard_least_recently_go_and_then_the_speakers_oldest() {
        let memory = 3 * (A_CLIENT + A_PLACE) + 3 * Frames::takes(100);
        let mut groups = Groups::new(Bounds { memory, ..WIDE });
        (0..3).for_each(|n| groups.keep(client(n), n as u64, &[n as u8; 100]));
        assert_eq!((groups.clients(), groups.memory()), (3, memory));

        groups.keep(client(2), 3, &[3; 100]); // its ring doubles
        assert_eq!((groups.clients(), groups.dropped()), (2, only(Dropped::GroupMemory, 1)));
        groups.keep(client(2), 4, &[4; 100]); // and again
        assert_eq!((groups.clients(), groups.dropped()), (1, only(Dropped::GroupMemory, 2)));
        (5..20).for_each(|n| groups.keep(client(2), n.into(), &[n; 100]));
        assert_eq!(held(&groups)[0].1.last(), Some(&vec![19; 100]));
        assert!(groups.memory() <= memory && groups.messages() > 3, "{}", groups.messages());
        assert_eq!(groups.messages() as u64 + dropped(&groups), 20);
    }

    #[test]
    fn bounds_that_allow_nothing_hold_nothing() {
        for nothing in [
            (Bounds { clients: 0, ..WIDE }, Dropped::Clients),
            (Bounds { messages: 0, ..WIDE }, Dropped::ClientMessages),
            (Bounds { bytes: 0, ..WIDE }, Dropped::ClientBytes),
            (Bounds { memory: 0, ..WIDE }, Dropped::GroupMemory),
            (Bounds { memory: A_CLIENT + A_PLACE, ..WIDE }, Dropped::GroupMemory),
        ] {
            let mut groups = Groups::new(nothing.0);
            (0..3).for_each(|n| groups.keep(client(n), 0, b"something"));
            assert_eq!((groups.messages(), groups.dropped()), (0, only(nothing.1, 3)));
        }
    }

    #[test]
    fn a_share_is_one_of_as_many_as_there_are_workers() {
        let share = Bounds::default().a_share_of(4);
        assert_eq!(share, Bounds { memory: 64 << 20, ..Bounds::default() });
        assert_eq!(Bounds::default().a_share_of(0), Bounds::default());
    }

    #[test]
    fn what_one_longest_datagram_takes_is_enough_for_it_and_a_byte_less_is_not() {
        for bytes in [usize::MAX, LONGEST, 100] {
            let memory = Bounds { bytes, ..WIDE }.of_the_longest();
            for (memory, held) in [(memory, 1), (memory - 1, 0)] {
                let mut groups = Groups::new(Bounds { bytes, memory, ..WIDE });
                groups.keep(client(0), 0, &vec![7; bytes.min(LONGEST)]);
                assert_eq!(groups.messages(), held, "{bytes}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_back_disturbs_no_order() {
        let mut workers = [Groups::new(WIDE), Groups::new(WIDE)];
        for (n, at) in [(0, 10), (0, 5), (1, 11), (0, 12)] {
            workers[n].keep(client(0), at, &[at as u8]);
        }
        let merged = Groups::merge(WIDE, &workers);
        assert_eq!(held(&merged)[0].1, [[10], [5], [11], [12]]);
    }

    #[test]
    fn merging_adds_up_what_was_dropped_and_bounds_what_is_left() {
        let mut workers =
            [Groups::new(Bounds { messages: 2, ..WIDE }), Groups::new(Bounds { messages: 2, ..WIDE })];
        for n in 0..8_u64 {
            let worker = &mut workers[n as usize / 2 % 2];
            worker.keep(client(n as usize / 4), n, &[n as u8]);
            worker.keep(client(7), n, &[n as u8]);
        }
        assert_eq!(workers.each_ref().map(dropped), [2, 2]);
        let merged = Groups::merge(Bounds { clients: 2, messages: 2, ..WIDE }, &workers);
        assert_eq!(held(&merged), [(client(1), vec![vec![6], vec![7]]), (client(7), vec![vec![6], vec![7]])]);
        assert_eq!(merged.dropped(), BTreeMap::from([("client_messages", 4 + 2 + 2 + 2), ("clients", 2)]));
    }

    /// Who says what to which worker.
    fn traffic() -> impl Strategy<Value = Vec<(usize, usize, Vec<u8>)>> {
        let message = prop::collection::vec(any::<u8>(), 0..30);
        prop::collection::vec((0..8_usize, 0..4_usize, message), 0..200)
    }

    fn bounds() -> impl Strategy<Value = Bounds> {
        let bounds = (1..8_usize, 1..8_usize, 1..60_usize, 0..4000_usize);
        bounds.prop_map(|(clients, messages, bytes, memory)| Bounds { clients, messages, bytes, memory })
    }

    /// The same, written as one would who has time and memory.
    #[derive(Default)]
    struct Plain(Vec<(usize, Vec<Vec<u8>>)>);

    impl Plain {
        fn keep(&mut self, bounds: &Bounds, who: usize, bytes: &[u8]) {
            let said = match self.0.iter().position(|(client, _)| *client == who) {
                Some(place) => self.0.remove(place).1,
                None => Vec::new(),
            };
            self.0.push((who, said));
            if self.0.len() > bounds.clients {
                self.0.remove(0);
            }
            let said = &mut self.0.last_mut().unwrap().1;
            if bytes.len() <= bounds.bytes {
                said.push(bytes.to_vec());
            }
            while said.len() > bounds.messages || said.concat().len() > bounds.bytes {
                said.remove(0);
            }
        }

        fn held(self) -> Vec<(SocketAddr, Vec<Vec<u8>>)> {
            let mut held: Vec<_> = self.0.into_iter().map(|(who, said)| (client(who), said)).collect();
            held.sort();
            held
        }
    }

    proptest! {
        #[test]
        fn memory_is_known_and_bounded_and_every_message_is_held_or_dropped(bounds in bounds(), traffic in traffic()) {
            let mut groups = Groups::new(bounds);
            for (n, (who, _, bytes)) in traffic.iter().enumerate() {
                groups.keep(client(*who), n as u64, bytes);
                let rings: usize = groups.clients.iter().map(|(_, client)| client.frames.capacity()).sum();
                prop_assert_eq!(groups.memory(), rings + groups.clients() * A_CLIENT + groups.most * A_PLACE);
                prop_assert!(groups.memory() <= bounds.memory && groups.clients() <= bounds.clients);
                prop_assert!(groups.clients.iter().all(|(_, client)| client.is_within(&bounds)));
                prop_assert!(groups.clients.iter().all(|(_, client)| client.frames.capacity() <= bounds.ring()));
                let held: usize = groups.clients.iter().map(|(_, client)| client.frames.count()).sum();
                prop_assert_eq!(groups.messages(), held);
                prop_assert_eq!(held as u64 + dropped(&groups), n as u64 + 1);
            }
        }

        #[test]
        fn what_is_held_is_what_one_with_time_and_memory_would_hold(bounds in bounds(), traffic in traffic()) {
            let bounds = Bounds { memory: usize::MAX, ..bounds };
            let (mut groups, mut plain) = (Groups::new(bounds), Plain::default());
            for (n, (who, _, bytes)) in traffic.iter().enumerate() {
                groups.keep(client(*who), n as u64, bytes);
                plain.keep(&bounds, *who, bytes);
            }
            prop_assert_eq!(held(&groups), plain.held());
        }

        #[test]
        fn however_the_traffic_is_spread_over_workers_the_merged_groups_are_the_same(
            bounds in bounds(),
            traffic in traffic(),
        ) {
            let bounds = Bounds { clients: usize::MAX, memory: usize::MAX, ..bounds };
            let mut one = Groups::new(bounds);
            let mut workers = [(); 4].map(|()| Groups::new(bounds));
            for (n, (who, worker, bytes)) in traffic.iter().enumerate() {
                one.keep(client(*who), n as u64, bytes);
                workers[*worker].keep(client(*who), n as u64, bytes);
            }
            let merged = Groups::merge(bounds, &workers);
            prop_assert_eq!(held(&merged), held(&one));
            prop_assert_eq!(known(&merged), known(&one));
            prop_assert_eq!(dropped(&merged), dropped(&one));
            prop_assert!(merged.memory() <= one.bounds.memory);

            // Nor does it matter how often they are merged on the way.
            let halves = [Groups::merge(bounds, &workers[..2]), Groups::merge(bounds, &workers[2..])];
            let of_halves = Groups::merge(bounds, &halves);
            prop_assert_eq!((held(&of_halves), known(&of_halves)), (held(&one), known(&one)));
        }

        #[test]
        fn where_one_bound_is_met_the_reason_is_the_same_however_the_traffic_is_spread(
            bounds in bounds(),
            traffic in traffic(),
        ) {
            for bounds in [Bounds { messages: bounds.messages, ..WIDE }, Bounds { bytes: bounds.bytes, ..WIDE }] {
                let mut one = Groups::new(bounds);
                let mut workers = [(); 4].map(|()| Groups::new(bounds));
                for (n, (who, worker, bytes)) in traffic.iter().enumerate() {
                    one.keep(client(*who), n as u64, bytes);
                    workers[*worker].keep(client(*who), n as u64, bytes);
                }
                let merged = Groups::merge(bounds, &workers);
                prop_assert_eq!((held(&merged), merged.dropped()), (held(&one), one.dropped()));
            }
        }

        #[test]
        fn merged_groups_are_within_their_bounds_and_every_message_is_held_or_dropped(
            bounds in bounds(),
            traffic in traffic(),
        ) {
            let mut workers = [(); 4].map(|()| Groups::new(WIDE));
            for (n, (who, worker, bytes)) in traffic.iter().enumerate() {
                workers[*worker].keep(client(*who), n as u64, bytes);
            }
            let merged = Groups::merge(bounds, &workers);
            prop_assert!(merged.memory() <= bounds.memory && merged.clients() <= bounds.clients);
            prop_assert_eq!(merged.messages() as u64 + dropped(&merged), traffic.len() as u64);
        }
    }
}
