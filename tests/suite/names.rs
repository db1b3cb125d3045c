//! Host names with several addresses: the server is at each of them, and a client finds the one where somebody is. And how
//! many workers there are where a control group grants less than the machine has.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use tempfile::NamedTempFile;

use crate::{
    stage::{PATIENCE, Row, Server, Transport, address_in, connect, echo, echo_client, echo_server, within},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_server_is_at_each_address_of_a_name_on_one_port,
    a_client_finds_the_address_of_a_name_where_somebody_is,
    a_pool_of_loops_has_no_more_workers_than_its_control_group_is_granted_processors,
];

/// What /etc/hosts says to a command, in a mount namespace of its own.
const HOSTS: &str = "127.0.0.1 both.test\n::1 both.test\n192.0.2.1 mostly.test\n127.0.0.1 mostly.test\n";

fn hosts() -> NamedTempFile {
    let mut hosts = NamedTempFile::new().unwrap();
    hosts.write_all(HOSTS.as_bytes()).unwrap();
    hosts
}

fn knowing(hosts: &NamedTempFile, program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount --bind \"$HOSTS\" /etc/hosts && exec \"$0\" \"$@\""]);
    command.env("HOSTS", hosts.path()).arg(program).stdin(Stdio::null());
    command
}

fn a_server_is_at_each_address_of_a_name_on_one_port() {
    let hosts = hosts();
    for transport in [Transport::Tcp, Transport::Udp] {
        for (name, addresses) in [("both.test", &["127.0.0.1", "::1"][..]), ("mostly.test", &["127.0.0.1"])] {
            let mut command = knowing(&hosts, echo_server());
            command.args(["--model", "event-loop", &format!("{}://{name}:0", transport.name())]);
            let server = Server::spawn(command);
            let mut there: Vec<SocketAddr> = addresses.iter().map(|_| address_in(&server.line())).collect();
            there.sort();
            let ips: Vec<String> = there.iter().map(|address| address.ip().to_string()).collect();
            assert_eq!(ips, addresses, "{name}");
            assert!(there.iter().all(|address| address.port() == there[0].port()), "{there:?}");
            if transport == Transport::Tcp {
                there.iter().for_each(|address| echo(&mut connect(*address), b"to each"));
            }
            server.signal(Signal::SIGTERM);
            let (status, said) = server.ended();
            assert!(status.success());
            assert_eq!(said.iter().filter(|line| line.contains("\"final\"")).count(), addresses.len());
        }
    }
}

fn a_client_finds_the_address_of_a_name_where_somebody_is() {
    let hosts = hosts();
    for transport in [Transport::Tcp, Transport::Udp] {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let row = &Row::table_of(transport)[0];
            let server = row.start_at(address, Command::new(echo_server()), &[]);
            let endpoint = format!("{}://both.test:{}", transport.name(), server.address.port());
            let mut talk = knowing(&hosts, echo_client());
            talk.args(["talk", &endpoint]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut talk = talk.spawn().unwrap();
            talk.stdin.take().unwrap().write_all(b"somebody\n").unwrap();
            assert_eq!(io::read_to_string(talk.stdout.take().unwrap()).unwrap(), "somebody\n", "{address}");
            assert!(talk.wait().unwrap().success());
            let load = ["load", &endpoint, "-c", "1", "-d", "100ms", "--warmup", "0", "--line"];
            let load = knowing(&hosts, echo_client()).args(load).output().unwrap();
            let said = String::from_utf8_lossy(&load.stdout).into_owned();
            assert!(said.contains("established=1") || load.status.success(), "{address}: {said}");
            let only = if transport == Transport::Tcp { "bytes" } else { "udp-sizes" };
            let check = ["check", "--only", only, &endpoint];
            let check = knowing(&hosts, echo_client()).args(check).output().unwrap();
            assert!(check.status.success(), "{address}: {}", String::from_utf8_lossy(&check.stdout));
        }
    }
}

/// A control group that is granted one processor; `None` where there is no right to make one.
struct Group(PathBuf);

impl Group {
    fn of_one_processor() -> Option<Self> {
        let name = format!("echo-suite-{}", std::process::id());
        let [v2, v1] = ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu"].map(|root| Path::new(root).join(&name));
        for (group, file, quota) in [(v2, "cpu.max", "100000 100000"), (v1, "cpu.cfs_quota_us", "100000")] {
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let made = Self(group);
            if made.0.join(file).exists() && fs::write(made.0.join(file), quota).is_ok() {
                return Some(made);
            }
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It can be removed once the last process in it is reaped.
        within(PATIENCE, "the group is empty", || fs::remove_dir(&self.0).ok());
    }
}

fn a_pool_of_loops_has_no_more_workers_than_its_control_group_is_granted_processors() {
    let Some(group) = Group::of_one_processor() else {
        println!("skipped: no control group can be made here");
        return;
    };
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ > \"$GROUP/cgroup.procs\" && exec \"$0\" \"$@\""]).env("GROUP", &group.0);
    command.arg(echo_server()).args(["--model", "multi-reactor", "tcp://127.0.0.1:0"]);
    let server = Server::spawn(command);
    assert_eq!(server.line()["workers"], 1);
    server.signal(Signal::SIGTERM);
    server.ended();
}
