//! A bounded queue between threads: one side puts, the other takes, and each waits for the other.
//!
//! The bounded buffer of Dijkstra and Hoare, as a monitor: a lock, and a condition for each reason to wait.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{config::QueueOrder, scoreboard::Scoreboard};

/// The queue.
pub struct Queue<'a, T> {
    state: Mutex<State<T>>,
    not_empty: Condvar,
    not_full: Condvar,
    order: QueueOrder,
    board: &'a Scoreboard,
}

struct State<T> {
    waiting: VecDeque<T>,
    most: usize,
    closed: bool,
}

impl<T> State<T> {
    fn is_full(&self) -> bool {
        self.waiting.len() >= self.most
    }
}

impl<'a, T> Queue<'a, T> {
    /// An empty one, for at most `most`; its length is shown on `board`.
    pub fn new(most: usize, order: QueueOrder, board: &'a Scoreboard) -> Self {
        let state = Mutex::new(State { waiting: VecDeque::new(), most, closed: false });
        Self { state, not_empty: Condvar::new(), not_full: Condvar::new(), order, board }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `item` in, once there is room.
    pub fn put(&self, item: T) {
        let state = self.not_full.wait_while(self.state(), |state| state.is_full());
        self.push(state.unwrap_or_else(PoisonError::into_inner), item);
    }

    /// Puts `item` in, or gives it back where there is no room within that time.
    pub fn put_within(&self, patience: Duration, item: T) -> Result<(), T> {
        let waited = self.not_full.wait_timeout_while(self.state(), patience, |state| state.is_full());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_full() {
            return Err(item);
        }
        self.push(state, item);
        Ok(())
    }

    fn push(&self, mut state: MutexGuard<'_, State<T>>, item: T) {
        state.waiting.push_back(item);
        self.board.queued(state.waiting.len());
        drop(state);
        self.not_empty.notify_one();
    }

    /// Takes the next one, once there is one; `None` when the queue is closed and empty.
    pub fn take(&self) -> Option<T> {
        let nothing = |state: &mut State<T>| state.waiting.is_empty() && !state.closed;
        let mut state =
            self.not_empty.wait_while(self.state(), nothing).unwrap_or_else(PoisonError::into_inner);
        let item = match self.order {
            QueueOrder::Fifo => state.waiting.pop_front(),
            QueueOrder::Lifo => state.waiting.pop_back(),
        };
        self.board.queued(state.waiting.len());
        drop(state);
        self.not_full.notify_one();
        item
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.state().waiting.is_empty()
    }

    /// Takes those out that `which` points at: their places in what waits, in ascending order.
    pub fn remove(&self, which: impl FnOnce(&mut VecDeque<T>) -> Vec<usize>) -> Vec<T> {
        let mut state = self.state();
        let places = which(&mut state.waiting);
        let removed: Vec<T> = places.into_iter().rev().filter_map(|n| state.waiting.remove(n)).collect();
        self.board.queued(state.waiting.len());
        drop(state);
        removed.iter().for_each(|_| self.not_full.notify_one());
        removed
    }

    /// There is room for all from now on.
    pub fn opens(&self) {
        self.state().most = usize::MAX;
        self.not_full.notify_all();
    }

    /// Nothing more will be put in.
    pub fn close(&self) {
        self.state().closed = true;
        self.not_empty.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_is_first_out_or_last_out_as_told() {
        let board = Scoreboard::new(1).unwrap();
        for (order, expected) in [(QueueOrder::Fifo, [1, 2, 3]), (QueueOrder::Lifo, [3, 2, 1])] {
            let queue = Queue::new(3, order, &board);
            (1..=3).for_each(|n| queue.put(n));
            assert_eq!(queue.put_within(Duration::ZERO, 4), Err(4));
            queue.close();
            assert_eq!(std::iter::from_fn(|| queue.take()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn who_is_taken_out_of_the_middle_makes_room() {
        let board = Scoreboard::new(1).unwrap();
        let queue = Queue::new(4, QueueOrder::Fifo, &board);
        (1..=4).for_each(|n| queue.put(n));
        assert_eq!(queue.remove(|waiting| vec![0, waiting.len() - 2]), [3, 1]);
        assert_eq!(queue.put_within(Duration::ZERO, 5), Ok(()));
        queue.close();
        assert_eq!(std::iter::from_fn(|| queue.take()).collect::<Vec<_>>(), [2, 4, 5]);
    }

    #[test]
    fn a_full_queue_makes_who_puts_wait_and_loses_nothing() {
        let board = Scoreboard::new(1).unwrap();
        let queue = Queue::new(2, QueueOrder::Fifo, &board);
        std::thread::scope(|scope| {
            let takers: Vec<_> =
                (0..3).map(|_| scope.spawn(|| std::iter::from_fn(|| queue.take()).sum::<u64>())).collect();
            (1..=1000).for_each(|n| queue.put(n));
            queue.close();
            let sum: u64 = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
            assert_eq!(sum, 500_500);
        });
    }
}
