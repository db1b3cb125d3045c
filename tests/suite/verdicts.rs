//! The verdicts of `echo-client load`: each appears when it should, and no other does. What a client says that is kept
//! from its processor stands in `load`, what one says that cannot keep its schedule in `open_loop`.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::Command,
    thread,
};

use nix::unistd::Uid;
use serde_json::{Value, json};

use crate::{
    stage::{Row, echo_client, echo_server},
    suite::{
        Promise, liars,
        load::{load, text},
        open_loop::in_the_end,
        promises,
    },
};

pub const PROMISES: &[Promise] = promises![
    a_healthy_run_has_no_verdict_whatever_the_model_and_the_loop,
    a_server_that_lets_half_of_them_in_is_short_of_connections_and_the_others_are_measured,
    who_comes_and_goes_over_more_than_half_of_an_addresss_ports_is_told_to_give_more_addresses,
    one_flipped_bit_is_a_wrong_echo_and_nothing_else,
];

/// Its verdicts; how busy this machine is, is not the server's.
fn of_server(result: &Value) -> Vec<&str> {
    let all = result["verdicts"].as_array().unwrap().iter().map(|verdict| verdict.as_str().unwrap());
    all.filter(|&verdict| verdict != "client-bound").collect()
}

fn a_healthy_run_has_no_verdict_whatever_the_model_and_the_loop() {
    for row in Row::all() {
        let server = row.start(&[]);
        let connections = if row.is_concurrent() { "4" } else { "1" };
        for pace in [&["--think", "5ms"][..], &["--rate", "400", "--max-lateness", "200ms"]] {
            let args = ["-c", connections, "-d", "200ms"];
            in_the_end(|| {
                let (output, result) = load(server.address, &[&args, pace].concat());
                let is_healthy = output.status.success()
                    && (&result["valid"], &result["verdicts"], &result["why"])
                        == (&true.into(), &json!([]), &json!({}));
                if is_healthy { Ok(()) } else { Err(format!("{} {pace:?}: {result}", row.label())) }
            });
        }
    }
}

/// Lets so many clients in, and hears nobody else from then on.
fn lets_in(clients: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok).take(clients) {
            thread::spawn(move || {
                let mut room = [0; 4096];
                while let Ok(n @ 1..) = client.read(&mut room) {
                    client.write_all(&room[..n]).unwrap();
                }
            });
        }
    });
    address
}

fn a_server_that_lets_half_of_them_in_is_short_of_connections_and_the_others_are_measured() {
    in_the_end(|| {
        // One after the other, so that nobody waits in the queue when it is closed.
        let args = ["-c", "8", "-d", "200ms", "--connect-rate", "20"];
        let (output, result) = load(lets_in(4), &args);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stdout));
        assert_eq!(result["connections"]["asked"], 8, "{result}");
        // Half of them had all: who never came up had nothing.
        assert!(result["connections"]["jain"].as_f64() <= Some(0.5), "{result}");
        assert_eq!(of_server(&result), ["connections-short", "errors"], "{result}");
        assert_eq!(
            (&result["valid"], &result["connections"]["served"]),
            (&false.into(), &4.into()),
            "{result}"
        );
        let is_half = result["connections"]["established"] == 4 && result["errors"] == json!({"refused": 4});
        if is_half { Ok(()) } else { Err(result.to_string()) }
    });
}

/// A namespace of a network has ports of its own, and none of them is taken back early (tcp_tw_reuse): so many are used
/// towards one server that connecting is a search. With two addresses to come from there are enough.
fn who_comes_and_goes_over_more_than_half_of_an_addresss_ports_is_told_to_give_more_addresses() {
    if !Uid::effective().is_root() {
        return eprintln!("skipped: not root, who alone can make a namespace");
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "ip link set lo up && cd /proc/sys/net/ipv4 && echo 0 > tcp_tw_reuse \
        && echo 20000 20399 > ip_local_port_range && cd \"$3\" && { \"$1\" tcp://127.0.0.1:0 > server & } \
        && until grep -q listening server; do sleep 0.01; done && at=$(sed 's/.*\"endpoint\":\"\\([^\"]*\\).*/\\1/' server) \
        && for source in 127.0.0.1 127.0.0.2,127.0.0.3; do \"$2\" load \"$at\" -c 2 --churn 1 --rate 250 \
        -d 1s --warmup 0 --max-lateness 10s --source $source --json $source.json; done; kill $!; wait";
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--net", "sh", "-c", script, "sh"])
        .arg(echo_server())
        .arg(echo_client())
        .arg(folder.path());
    let output = unshare.output().unwrap();
    let result = |source: &str| -> Value {
        let read = fs::read_to_string(folder.path().join(source));
        serde_json::from_str(&read.unwrap_or_else(|error| panic!("{error}: {output:?}"))).unwrap()
    };
    let (one, two) = (result("127.0.0.1.json"), result("127.0.0.2,127.0.0.3.json"));
    assert_eq!((of_server(&one), &one["valid"]), (vec!["ports-short"], &false.into()), "{one}");
    let why = one["why"]["ports-short"].as_str().unwrap();
    assert!(why.contains("of the 400 ports of 127.0.0.1") && why.contains("--source"), "{why}");
    assert_eq!((of_server(&two), &two["valid"]), (vec![], &true.into()), "{two}");
}

fn one_flipped_bit_is_a_wrong_echo_and_nothing_else() {
    // The bit is in message 100: it thinks, so that this is not in the warm-up.
    let args = ["-c", "1", "-d", "3s", "--size", "10000", "--think", "5ms"];
    let (output, result) = load(liars::start(liars::flips_a_bit), &args);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert_eq!((of_server(&result), &result["valid"]), (vec!["wrong-echo"], &false.into()), "{result}");
}
