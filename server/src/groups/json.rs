//! Groups as JSON, written as it is made: the text is never in memory as a whole.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::{Duration, UNIX_EPOCH},
};

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use humantime::format_rfc3339_micros;
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeStruct},
};

use super::{Client, Groups, frames::Message};

impl Groups {
    /// Writes them as a line of JSON.
    ///
    /// # Errors
    /// Where no more is taken.
    pub fn write(&self, mut to: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut to, self)?;
        to.write_all(b"\n")
    }
}

impl Serialize for Groups {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut groups = serializer.serialize_struct("Groups", 2)?;
        groups.serialize_field("clients", &Sequence(|| self.iter().map(Known)))?;
        groups.serialize_field("dropped", &self.dropped())?;
        groups.end()
    }
}

/// What can be gone through again and again.
struct Sequence<F>(F);

impl<F: Fn() -> I, I: Iterator<Item: Serialize>> Serialize for Sequence<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0())
    }
}

/// A client and its address.
struct Known<'a>((SocketAddr, &'a Client));

impl Serialize for Known<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self((address, client)) = self;
        let moment = |at| format_rfc3339_micros(UNIX_EPOCH + Duration::from_nanos(at));
        let mut known = serializer.serialize_struct("Client", 6)?;
        known.serialize_field("address", address)?;
        known.serialize_field("first_heard", &Shown(moment(client.first_heard)))?;
        known.serialize_field("last_heard", &Shown(moment(client.last_heard)))?;
        known.serialize_field("received_messages", &client.received_messages)?;
        known.serialize_field("received_bytes", &client.received_bytes)?;
        known.serialize_field("messages", &Sequence(|| client.messages()))?;
        known.end()
    }
}

impl Serialize for Message<'_> {
    /// As text where it is UTF-8, else in base64 (RFC 4648); the key says which.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut message = serializer.serialize_map(Some(1))?;
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => message.serialize_entry("text", text)?,
            Err(_) => {
                message.serialize_entry("base64", &Shown(Base64Display::new(&self.bytes, &STANDARD)))?
            }
        }
        message.end()
    }
}

/// What is written as it is shown.
struct Shown<T>(T);

impl<T: std::fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{super::Bounds, *};

    fn parsed(groups: &Groups) -> Value {
        serde_json::from_str(&serde_json::to_string(groups).unwrap()).unwrap()
    }

    #[test]
    fn the_file_says_who_said_what_and_when() {
        let mut groups = Groups::new(Bounds { messages: 3, ..Bounds::default() });
        let at = 1_700_000_000_123_456_789;
        for (n, bytes) in [&b"lost"[..], b"hello", b"", b"\xff\x00"].into_iter().enumerate() {
            groups.keep("[::ffff:127.0.0.1]:4242".parse().unwrap(), at + n as u64 * 1_000_000_000, bytes);
        }
        groups.keep("[fe80::1%3]:7".parse().unwrap(), at, b"\"\n");
        groups.keep("127.0.0.1:999".parse().unwrap(), at, b"");
        assert_eq!(
            parsed(&groups),
            json!({
                "clients": [
                    {
                        "address": "127.0.0.1:999",
                        "first_heard": "2023-11-14T22:13:20.123456Z",
                        "last_heard": "2023-11-14T22:13:20.123456Z",
                        "received_messages": 1,
                        "received_bytes": 0,
                        "messages": [{ "text": "" }],
                    },
                    {
                        "address": "127.0.0.1:4242",
                        "first_heard": "2023-11-14T22:13:20.123456Z",
                        "last_heard": "2023-11-14T22:13:23.123456Z",
                        "received_messages": 4,
                        "received_bytes": 11,
                        "messages": [{ "text": "hello" }, { "text": "" }, { "base64": "/wA=" }],
                    },
                    {
                        "address": "[fe80::1%3]:7",
                        "first_heard": "2023-11-14T22:13:20.123456Z",
                        "last_heard": "2023-11-14T22:13:20.123456Z",
                        "received_messages": 1,
                        "received_bytes": 2,
                        "messages": [{ "text": "\"\n" }],
                    },
                ],
                "dropped": { "client_messages": 1 },
            })
        );
    }

    proptest! {
        #[test]
        fn any_message_comes_back_from_the_file(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..50),
        ) {
            let mut groups = Groups::new(Bounds { bytes: 500, ..Bounds::default() });
            messages.iter().for_each(|bytes| groups.keep(([127, 0, 0, 1], 1).into(), 0, bytes));
            let file = parsed(&groups);
            let held = file["clients"].as_array().unwrap().iter().flat_map(|c| c["messages"].as_array().unwrap());
            let bytes = |message: &Value| match message["text"].as_str() {
                Some(text) => text.as_bytes().to_vec(),
                None => STANDARD.decode(message["base64"].as_str().unwrap()).unwrap(),
            };
            let held: Vec<Vec<u8>> = held.map(bytes).collect();
            prop_assert!(messages.ends_with(&held));
            prop_assert_eq!(held.len(), groups.messages());
        }
    }
}
