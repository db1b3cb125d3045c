//! The messages of one client, in arrival order, one after another in one ring of bytes.
//!
//! Each is a frame: how long it is, when it came, and the message itself. To keep one is to copy it to the ring's
//! end, to drop the oldest is to step over it, and to hand all over is to copy at most two pieces: a message costs
//! no allocation of its own.

use std::{borrow::Cow, collections::VecDeque};

/// What comes before each message: its length, and when it came.
const HEAD: usize = size_of::<u32>() + size_of::<u64>();

/// Messages in arrival order.
#[derive(Default)]
pub struct Frames {
    ring: VecDeque<u8>,
    count: usize,
}

/// One that is held.
pub struct Message<'a> {
    /// When it came, in nanoseconds since 1970.
    pub at: u64,
    /// What it says.
    pub bytes: Cow<'a, [u8]>,
}

impl Frames {
    /// How much of a ring a message of `bytes` takes.
    pub const fn takes(bytes: usize) -> usize {
        HEAD + bytes
    }

    /// How much of a ring `messages` with `bytes` in all take.
    pub const fn take(messages: usize, bytes: usize) -> usize {
        bytes.saturating_add(messages.saturating_mul(HEAD))
    }

    /// How many messages there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How long they are together.
    pub fn bytes(&self) -> usize {
        self.ring.len() - self.count * HEAD
    }

    /// How much of the ring they take.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// How big the ring is: what was asked of the allocator.
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// How much of the ring is free.
    pub fn room(&self) -> usize {
        self.ring.capacity() - self.ring.len()
    }

    /// Makes the ring `capacity` bytes big, where it is smaller.
    pub fn grow(&mut self, capacity: usize) {
        self.ring.reserve_exact(capacity.saturating_sub(self.ring.len()));
    }

    /// Keeps a message of at most 4 GiB, the newest one. The ring grows by itself only where there is no room.
    pub fn push(&mut self, at: u64, bytes: &[u8]) {
        let mut head = [0; HEAD];
        let (length, stamp) = head.split_at_mut(size_of::<u32>());
        length.copy_from_slice(&(bytes.len() as u32).to_ne_bytes());
        stamp.copy_from_slice(&at.to_ne_bytes());
        self.ring.extend(&head);
        self.ring.extend(bytes);
        self.count += 1;
    }

    /// Drops the oldest one, and says when it came.
    pub fn pop(&mut self) -> Option<u64> {
        let (length, at) = head_at(self.slices(), 0)?;
        self.ring.drain(..HEAD + length);
        self.count -= 1;
        Some(at)
    }

    /// Each, from the oldest on.
    pub fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        let slices = self.slices();
        let mut next = 0;
        std::iter::from_fn(move || {
            let (length, at) = head_at(slices, next)?;
            let start = next + HEAD;
            next = start + length;
            Some(Message { at, bytes: piece(slices, start, length)? })
        })
    }

    /// The ring as it lies in memory.
    pub fn slices(&self) -> (&[u8], &[u8]) {
        self.ring.as_slices()
    }

    /// A ring as another process had it, in one piece; `None` where these are not `count` messages.
    pub fn from_ring(ring: Vec<u8>, count: usize) -> Option<Self> {
        let mut found = 0;
        let mut next = 0;
        while let Some((length, _)) = head_at((&ring, &[]), next) {
            next = next.checked_add(HEAD + length)?;
            found += 1;
        }
        (found == count && next == ring.len()).then(|| Self { ring: ring.into(), count })
    }
}

/// What stands before the message whose frame begins `from` bytes after the oldest one's: its length, and when it came.
fn head_at((first, second): (&[u8], &[u8]), from: usize) -> Option<(usize, u64)> {
    let mut head = [0; HEAD];
    match first.get(from..from.checked_add(HEAD)?) {
        Some(whole) => head.copy_from_slice(whole),
        None if from + HEAD > first.len() + second.len() => return None,
        None => {
            let bytes = first.iter().chain(second).skip(from);
            head.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
        }
    }
    let (length, at) = head.split_first_chunk()?;
    Some((u32::from_ne_bytes(*length) as usize, u64::from_ne_bytes(*at.first_chunk()?)))
}

/// `length` bytes of a ring in one piece.
fn piece<'a>((first, second): (&'a [u8], &'a [u8]), from: usize, length: usize) -> Option<Cow<'a, [u8]>> {
    let to = from.checked_add(length)?;
    if to <= first.len() {
        return first.get(from..to).map(Cow::Borrowed);
    }
    if from >= first.len() {
        return second.get(from - first.len()..to - first.len()).map(Cow::Borrowed);
    }
    let rest = second.get(..to - first.len())?;
    Some(Cow::Owned([&first[from..], rest].concat()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(frames: &Frames) -> Vec<(u64, Vec<u8>)> {
        frames.iter().map(|message| (message.at, message.bytes.into_owned())).collect()
    }

    proptest! {
        #[test]
        fn what_was_kept_last_is_there_in_order_wherever_the_ring_begins(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..100),
            most in 1..10_usize,
        ) {
            let mut frames = Frames::default();
            frames.grow(400);
            let mut kept = Vec::new();
            for (at, bytes) in messages.into_iter().enumerate() {
                while frames.count() >= most || frames.room() < Frames::takes(bytes.len()) {
                    let (oldest, _) = kept.remove(0);
                    prop_assert_eq!(frames.pop(), Some(oldest));
                }
                frames.push(at as u64, &bytes);
                kept.push((at as u64, bytes));
                prop_assert_eq!(frames.capacity(), 400);
                prop_assert_eq!(frames.count(), kept.len());
                prop_assert_eq!(frames.bytes(), kept.iter().map(|(_, bytes)| bytes.len()).sum::<usize>());
            }
            prop_assert_eq!(said(&frames), kept);
        }

        #[test]
        fn any_bytes_are_messages_or_refused(ring in prop::collection::vec(0..20_u8, 0..100), count in 0..5_usize) {
            if let Some(frames) = Frames::from_ring(ring, count) {
                prop_assert_eq!(said(&frames).len(), count);
            }
        }
    }

    #[test]
    fn nothing_is_dropped_from_nothing() {
        assert_eq!(Frames::default().pop(), None);
    }

    #[test]
    fn a_ring_becomes_as_big_as_it_is_told_and_no_bigger() {
        let mut frames = Frames::default();
        for capacity in [12, 13, 100, 1000] {
            frames.grow(capacity);
            assert_eq!(frames.capacity(), capacity);
            frames.push(0, b"");
        }
    }
}
