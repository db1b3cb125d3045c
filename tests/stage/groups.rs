//! The file that a server writes with `--groups`, as it is read back.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tempfile::TempDir;

use super::count;

/// The file, in a folder of its own.
pub struct GroupsFile {
    folder: TempDir,
    path: PathBuf,
}

/// What stands in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Groups {
    pub clients: BTreeMap<SocketAddr, Client>,
    pub dropped: Value,
}

/// What it tells of a client, but for the time.
#[derive(Debug, PartialEq, Eq)]
pub struct Client {
    pub received_messages: u64,
    pub received_bytes: u64,
    pub messages: Vec<Vec<u8>>,
}

impl GroupsFile {
    /// Where it is to be; it is not there yet.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("groups.json");
        Self { folder, path }
    }

    pub fn path(&self) -> &str {
        self.path.to_str().expect("a path that is text")
    }

    pub fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// From now on it cannot be written.
    pub fn is_taken_away(&self) {
        fs::remove_dir_all(self.folder.path()).expect("the folder is gone");
    }

    /// Whether nothing else is in its folder.
    pub fn is_alone(&self) -> bool {
        fs::read_dir(self.folder.path()).expect("the folder").count() == 1
    }

    /// Reads it; whenever that is, it is whole, and what it says of itself is true.
    #[track_caller]
    pub fn read(&self) -> Groups {
        let file = fs::read(&self.path).expect("the file");
        let file: Value = serde_json::from_slice(&file).expect("a file of JSON");
        let listed = file["clients"].as_array().expect("a list of clients");
        let known: Vec<(SocketAddr, Client)> = listed.iter().map(client).collect();
        assert!(known.is_sorted_by_key(|(address, _)| *address), "the clients stand in some other order");
        let groups = Groups { clients: known.into_iter().collect(), dropped: file["dropped"].clone() };
        assert_eq!(groups.clients.len(), listed.len(), "each client stands there once");
        groups
    }
}

impl Groups {
    /// How many messages are held.
    pub fn messages(&self) -> usize {
        self.clients.values().map(|client| client.messages.len()).sum()
    }

    /// How many datagrams are not held, for whatever reason.
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.as_object().expect("a map").values().map(count).sum()
    }
}

impl Client {
    /// Who said this, all of which is held.
    pub fn who_said(messages: impl Iterator<Item = Vec<u8>>) -> Self {
        let messages: Vec<Vec<u8>> = messages.collect();
        let received_bytes = messages.iter().map(|message| message.len() as u64).sum();
        Self { received_messages: messages.len() as u64, received_bytes, messages }
    }
}

fn client(listed: &Value) -> (SocketAddr, Client) {
    let text = |name: &str| listed[name].as_str().unwrap_or_else(|| panic!("no {name}: {listed}"));
    let address: SocketAddr = text("address").parse().expect("an address and a port");
    assert!(address.ip().to_canonical() == address.ip(), "{address} is an IPv4 address");
    // RFC 3339, of one length and zone, so that the earlier comes before the later as text too.
    let [first, last] = ["first_heard", "last_heard"].map(text);
    assert!(first <= last && first.len() == last.len() && last.ends_with('Z'), "{first} to {last}");
    let client = Client {
        received_messages: count(&listed["received_messages"]),
        received_bytes: count(&listed["received_bytes"]),
        messages: listed["messages"].as_array().expect("a list of messages").iter().map(message).collect(),
    };
    assert!(client.messages.len() as u64 <= client.received_messages, "{listed}");
    (address, client)
}

/// As text where it is that, else in base64: never the other way.
fn message(listed: &Value) -> Vec<u8> {
    match (listed["text"].as_str(), listed["base64"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(base64)) => {
            let bytes = STANDARD.decode(base64).expect("base64");
            assert!(str::from_utf8(&bytes).is_err(), "this is text: {bytes:?}");
            bytes
        }
        _ => panic!("neither text nor base64, or both: {listed}"),
    }
}
