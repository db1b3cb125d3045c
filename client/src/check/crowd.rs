//! Several clients at once, of a server that may serve fewer: who is served, and who waits.

use std::time::Duration;

use super::{
    client::Client,
    exam::{Exam, Stop},
    examinee::Examinee,
    words::words,
};

/// Whose first line has not come back by then waits for its turn: a server may serve fewer clients at once.
const MOMENT: Duration = Duration::from_millis(500);
/// What each of them says.
pub const LINE: &[u8] = b"the same to you\n";

/// Clients that are connected.
pub struct Crowd<'e> {
    /// Those whose first line came back.
    pub served: Vec<Client<'e>>,
    /// Those who were not answered.
    pub waiting: Vec<Client<'e>>,
    /// How many did not even get into the server's queue.
    pub outside: usize,
    /// How many the server has turned away.
    pub refused: usize,
}

impl<'e> Crowd<'e> {
    /// Nobody yet.
    pub fn new() -> Self {
        Self { served: Vec::new(), waiting: Vec::new(), outside: 0, refused: 0 }
    }

    /// Connects one after the other, at most so many, until one is not served.
    ///
    /// # Errors
    /// Where not even the first one is served.
    pub fn gather(exam: &'e Exam<'e>, server: &Examinee<'_>, most: usize) -> Result<Self, Stop> {
        let mut crowd = Self::new();
        while crowd.served.len() < most && crowd.joined_by_another(exam, server)? {}
        if crowd.served.is_empty() {
            let patience = exam.scaled(MOMENT);
            return Err(Stop::Late(words!(
                "the first client was not answered within {patience:.1?}",
                "第一个客户端在 {patience:.1?} 内没有得到回应"
            )));
        }
        Ok(crowd)
    }

    /// One more connects; whether it is served.
    ///
    /// # Errors
    /// Where nobody listens any more.
    pub fn joined_by_another(&mut self, exam: &'e Exam<'e>, server: &Examinee<'_>) -> Result<bool, Stop> {
        let mut client = match exam.client(server) {
            Ok(client) => client,
            Err(Stop::Late(_)) => {
                self.outside += 1; // the accept queue is full
                return Ok(false);
            }
            Err(other) => return Err(other),
        };
        // Behind somebody who waits, nobody need be waited for as long.
        let moment = if self.waiting.is_empty() { MOMENT } else { MOMENT / 5 };
        let answered = client.send(LINE).and_then(|()| client.hears_within(moment));
        match answered
            .and_then(|answered| if answered { client.hear(LINE).map(|()| true) } else { Ok(false) })
        {
            Ok(true) => self.served.push(client),
            Ok(false) => {
                self.waiting.push(client);
                return Ok(false);
            }
            Err(Stop::Fault(_)) => {
                self.refused += 1;
                return Ok(false);
            }
            Err(other) => return Err(other),
        }
        Ok(true)
    }

    /// All leave, and those who waited when they have had their turn.
    pub fn leave(self) {
        drop(self.served);
        self.waiting.into_iter().for_each(Client::leave);
    }

    /// Each of those who are served is answered once more.
    ///
    /// # Errors
    /// As [`Client::echo`].
    pub fn echo(&mut self) -> Result<(), Stop> {
        self.served.iter_mut().try_for_each(|client| client.echo(LINE))
    }
}
