//! Groups as JSON, written as it is made: the text is never in memory as a whole.

use std::{
    fs::{self, Permissions},
    io::{self, BufWriter, Write},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use humantime::format_rfc3339_micros;
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeStruct},
};

use tempfile::NamedTempFile;

use super::{Client, Groups, frames::Message};

impl Groups {
    /// Writes the file at `path`, in place of what was there: whole or not at all.
    ///
    /// # Errors
    /// A sentence for the user, where the folder cannot be written to or the disk is full. What was there stays.
    pub fn write_whole(&self, path: &Path) -> Result<(), String> {
        self.replace(path).map_err(|error| refused(path, &error))
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(beside(path)?);
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n")?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.persist(path)?;
        Ok(())
    }
}

/// Whether groups could be written to `path` now. Nothing is.
///
/// # Errors
/// A sentence for the user, where they could not.
pub fn can_be_written(path: &Path) -> Result<(), String> {
    beside(path).map(drop).map_err(|error| refused(path, &error))
}

fn refused(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}; choose a file in a folder that can be written to and has room", path.display())
}

/// A file that can take the place of the one at `path`.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other("what is there is no file"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let everybody_may_read = Permissions::from_mode(0o644);
    let file = tempfile::Builder::new().permissions(everybody_may_read).tempfile_in(folder);
    Ok(file.map_err(|error| error.kind())?) // its own sentence names the temporary file
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
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

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

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("groups.json");
        fs::write(&path, "what was there").unwrap();
        Groups::new(Bounds::default()).write_whole(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"clients\":[],\"dropped\":{}}\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_a_sentence_and_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let groups = Groups::new(Bounds::default());
        let nowhere = folder.path().join("nowhere/groups.json");
        let sentence = groups.write_whole(&nowhere).unwrap_err();
        assert!(sentence.starts_with(&format!("{}: ", nowhere.display())), "{sentence}");
        assert!(sentence.contains("; choose"), "{sentence}");
        assert!(groups.write_whole(folder.path()).unwrap_err().contains("what is there is no file"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn whoever_reads_the_file_need_not_be_who_runs_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("groups.json");
        Groups::new(Bounds::default()).write_whole(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(Permissions::from_mode(mode & 0o600), Permissions::from_mode(0o600));
    }
}
