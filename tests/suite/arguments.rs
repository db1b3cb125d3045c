//! What a wrong argument is answered with: one line, and exit status 2.

use std::process::Command;

use crate::{
    stage::{Row, Transport, echo_client, echo_server, run},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] = promises![
    a_wrong_argument_of_the_server_is_answered_in_one_line_that_says_what_to_do,
    a_wrong_argument_of_the_client_is_answered_in_one_line_that_says_what_to_do,
    what_a_launcher_says_and_cannot_be_is_answered_in_one_line_that_says_what_to_do,
    a_port_that_is_in_use_is_answered_in_one_line,
    every_model_is_listed_as_a_table_of_eighty_columns,
];

#[track_caller]
fn is_one_line_that_says(program: &std::path::Path, args: &[&str], word: &str) {
    let output = run(program, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    assert!(said.contains(word), "{args:?} should say {word:?}: {said}");
    assert!(output.stdout.is_empty());
}

fn a_wrong_argument_of_the_server_is_answered_in_one_line_that_says_what_to_do() {
    for (args, word) in [
        (&["--model", "magic"][..], "event-loop"),
        (&["--model", "fork", "--dispatch", "accept"], "leave --dispatch out"),
        (&["--model", "thread-pool", "--dispatch", "magic"], "queue"),
        (&["--queue", "5"], "--dispatch queue"),
        (&["--workers", "0"], "1..=65536"),
        (&["--workers", "many"], "--workers"),
        (&["--workers", "72057594037927936"], "1..=65536"),
        (&["--buffer", "18446744073709551615"], "--buffer"),
        (&["--drain", "500000000000years"], "longer than a year"),
        (&["--work", "hard"], "cpu:20us"),
        (&["--drain", "soon"], "300ms"),
        (&["--cpus", "zero"], "0,2 or 1-3"),
        (&["--cpus", "900"], "nproc"),
        (&["--nodelay", "perhaps"], "on"),
        (&["--magic"], "--magic"),
        (&["127.0.0.1"], "tcp://127.0.0.1:7007"),
        (&["--dispatch", "accept", "--model", "prefork", "udp://127.0.0.1:0"], "shared, reuseport"),
        (&["--dispatch", "queue", "--model", "thread-pool", "udp://127.0.0.1:0"], "leave --dispatch out"),
        (&["udp://224.0.0.1:0"], "one of this machine"),
        (&["udp://255.255.255.255:0"], "one of this machine"),
        (&["udp://[ff02::1]:0"], "one of this machine"),
        (&["udp://192.0.2.1:0"], "address of this machine"),
        (&["tcp://192.0.2.1:0"], "address of this machine"),
        (&["udp://127.0.0.1"], "udp://[::1]:7007"),
        (&["--rate-limit", "0"], "--rate-limit"),
        (&["--groups", "/no/such/folder/groups.json", "udp://127.0.0.1:0"], "choose a file in a folder"),
        (&["--groups", "/", "udp://127.0.0.1:0"], "what is there is no file"),
        (&["--groups", "groups.json", "tcp://127.0.0.1:0"], "udp://"),
        (&["--groups", "groups.json", "udp://127.0.0.1:0", "udp://127.0.0.1:0"], "one udp:// endpoint"),
        (&["--max-clients", "5"], "--groups"),
        (&["--groups", "groups.json", "--max-messages", "0"], "--max-messages"),
        (&["--groups", "groups.json", "--max-bytes", "many"], "64KiB"),
    ] {
        is_one_line_that_says(echo_server(), args, word);
    }
}

fn a_wrong_argument_of_the_client_is_answered_in_one_line_that_says_what_to_do() {
    for (args, word) in [
        (&["talk", "127.0.0.1"][..], "tcp://127.0.0.1:7007"),
        (&["load", "unix:///run/echo.sock", "--nodelay", "on"], "is of TCP"),
        (&["load", "unix:///run/echo.sock", "--source", "127.0.0.2"], "--source"),
        (&["load", "udp://127.0.0.1:80", "--nodelay", "off"], "is of TCP"),
        (&["load", "tcp://127.0.0.1:80", "--nodelay", "perhaps"], "on or off"),
        (&["load", "tcp://127.0.0.1:80", "--source", "::1"], "different families"),
        (&["load", "tcp://127.0.0.1:80", "--half-close"], "--churn"),
        (&["load", "tcp://127.0.0.1:80", "--send-buffer", "0"], "1GiB"),
        (&["load", "tcp://127.0.0.1:80", "-c", "1048576"], "ulimit -n"),
        (&["load", "tcp://127.0.0.1:80", "-c", "4", "--ramp", "5"], "fewer steps"),
        (&["load", "tcp://127.0.0.1:80", "-c", "8", "--ramp", "3", "--rank", "0/4"], "fewer steps"),
        (&["load", "tcp://127.0.0.1:80", "--rank", "4/4"], "the first is 0"),
        (&["load", "tcp://127.0.0.1:80", "--rank", "first"], "0/4"),
        (&["load", "tcp://127.0.0.1:80", "-c", "3", "--rank", "0/4"], "choose more"),
        (&["load", "tcp://127.0.0.1:80", "--barrier", "127.0.0.1:7100"], "say --rank too"),
        (&["load", "tcp://127.0.0.1:80", "--barrier", "127.0.0.1", "--rank", "0/2"], "192.0.2.7:7100"),
        (&["load", "tcp://127.0.0.1:80", "--barrier", "192.0.2.7:7100", "--rank", "0/2"], "192.0.2.7:7100: "),
        (&["load", "tcp://127.0.0.1:80", "--start-at", "noon"], "2026-11-21T12:00:00Z"),
        (&["merge"], "RESULT.json"),
        (&["merge", "/no/such/result.json"], "/no/such/result.json"),
        (&["load", "udp://127.0.0.1:80", "--churn", "1"], "UDP has none"),
        (&["load", "udp://127.0.0.1:80", "--silent", "1"], "--silent is of connections"),
        (&["load", "unix:///run/echo.sock", "--reset", "1"], "--reset is of TCP"),
        (&["load", "tcp://127.0.0.1:80", "--stall", "1048576"], "ulimit -n"),
        (&["load", "tcp://127.0.0.1:80", "--dribble", "1", "--awkward-every", "100us"], "1ms or longer"),
        (&["load", "tcp://127.0.0.1:80", "--awkward-every", "20ms"], "--stall"),
        (&["load", "udp://127.0.0.1:80", "--size", "65508"], "65507"),
        (&["load", "udp://127.0.0.1:80", "--size", "5000", "--burst", "16"], "choose fewer"),
        (&["load", "udp://127.0.0.1:80", "--burst", "16", "--pipeline", "2"], "--pipeline"),
        (&["load", "tcp://127.0.0.1:80", "--burst", "16"], "udp://"),
        (&["load", "tcp://127.0.0.1:80", "--size", "big"], "10..1500"),
        (&["load", "tcp://127.0.0.1:80", "--size", "0..9"], "at least a byte"),
        (&["load", "udp://127.0.0.1:80", "--size", "1..99"], "at least 24"),
        (&["load", "udp://127.0.0.1:80", "--size", "99..70000"], "65507"),
        (&["load", "udp://127.0.0.1:80", "--size", "exp:99", "--burst", "2"], "one length"),
        (&["load", "tcp://127.0.0.1:80", "--size", "/no/such/file.csv"], "/no/such/file.csv"),
        (&["load", "tcp://127.0.0.1:80", "--rate", "fast"], "20000/s"),
        (&["load", "tcp://127.0.0.1:80", "--rate", "0"], "20000/s"),
        (&["load", "tcp://127.0.0.1:80", "--rate", "inf"], "20000/s"),
        (&["load", "tcp://127.0.0.1:80", "--rate", "9", "--pipeline", "2"], "--pipeline"),
        (&["load", "udp://127.0.0.1:80", "--rate", "9", "--burst", "2"], "--burst"),
        (&["load", "tcp://127.0.0.1:80", "--rate", "9", "--think", "1ms"], "--think"),
        (&["load", "tcp://127.0.0.1:80", "--arrivals", "poisson"], "--rate"),
        (&["load", "tcp://127.0.0.1:80", "--max-outstanding", "9"], "--rate"),
        (&["load", "tcp://127.0.0.1:80", "--size", "0"], "at least a byte"),
        (&["talk", "tcp://127.0.0.1:80", "--timeout", "1s"], "udp://"),
        (&["load", "tcp://127.0.0.1:80", "--connections", "0"], "--connections"),
        (&["load", "tcp://127.0.0.1:80", "--pipeline", "4611686018427387904"], "1..=65536"),
        (&["compare", "--client-cpus", "900"], "nproc"),
        (&["compare", "--plan", "no/such/plan.toml"], "no/such/plan.toml"),
        (&["compare", "--plan", "Cargo.toml", "--models", "fork"], "--models"),
        (&["compare", "--resume", "--results", "no/such/folder"], "--results"),
        (&["compare", "--work", "magic"], "cpu:2ms"),
        (&["compare", "--scenario", "cpu", "--work", "cpu:2"], "cpu:2ms"),
        (&["compare", "--rate", "5"], "echo has no schedule"),
        (&["compare", "--connections", "64,64"], "64 twice"),
        (&["compare", "--with", "a=x {port}", "--with", "a=y {port}"], "the same name"),
        (&["compare", "--with", "fork=x {port}"], "a model of ours is called so"),
        (&["compare", "--with", "a=unix:///x"], "tcp:// or udp://"),
        (&["compare", "--quick", "--thorough"], "--thorough"),
        (&["load", "tcp://127.0.0.1:80", "--json", "/no/such/folder/x"], "/no/such/folder/x"),
        (&["compare", "--models", "magic"], "event-loop"),
        (&["compare", "--models", "thread-pool/magic"], "queue"),
        (&["compare", "--with", "nonsense"], "{port}"),
        (&["compare", "--models", "fork,fork"], "twice"),
        (&["compare", "--duet", "fork", "magic"], "event-loop"),
        (&["compare", "--duet", "fork", "loops"], "a duet is of two"),
        (&["compare", "--scenario", "magic"], "echo, churn, cpu, sleep"),
        (&["compare", "--burst", "16", "--models", "fork"], "@udp"),
        (&["compare", "--scenario", "udp", "--models", "fork@tcp"], "fork is asked over tcp"),
        (
            &["compare", "--scenario", "churn", "--models", "fork", "--with", "x@udp=x {port}"],
            "x@udp is asked over udp, and --scenario churn is not",
        ),
        (&["compare", "--duet", "fork", "x", "--with", "x@udp=x {port}"], "no contender \"x\""),
        (
            &["compare", "--scenario", "udp", "--models", "none", "--with", "x=x {port}", "--size", "70000"],
            "65507",
        ),
        (&["compare", "--models", "none"], "--with"),
        (&["compare", "--models", "classic,fork"], "fork takes part twice"),
        (&["load", "tcp://127.0.0.1:80", "--churn", "0"], "--churn"),
        (&["compare", "--server", "/no/such/server"], "--server"),
    ] {
        is_one_line_that_says(echo_client(), args, word);
    }
}

fn what_a_launcher_says_and_cannot_be_is_answered_in_one_line_that_says_what_to_do() {
    for (variables, args, word) in [
        (&[("JOB_COMPLETION_INDEX", "3")][..], &[][..], "Set JOB_COMPLETIONS, or say --rank"),
        (&[("PMI_RANK", "4"), ("PMI_SIZE", "4")], &[], "--rank says otherwise"),
        (
            &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2"), ("SLURM_STEP_ID", "0")],
            &["--csv", "load.csv"],
            "put {rank} into its name",
        ),
    ] {
        let mut command = Command::new(echo_client());
        command.args(["load", "tcp://127.0.0.1:80"]).args(args).envs(variables.iter().copied());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{variables:?}: {said}");
        assert!(said.contains(word), "{variables:?} should say {word:?}: {said}");
    }
}

fn a_port_that_is_in_use_is_answered_in_one_line() {
    for transport in [Transport::Tcp, Transport::Udp] {
        let server = Row::table_of(transport)[0].start(&[]);
        let endpoint = format!("{}://{}", transport.name(), server.address);
        is_one_line_that_says(echo_server(), &[&endpoint], "choose another port");
    }
}

fn every_model_is_listed_as_a_table_of_eighty_columns() {
    let output = run(echo_server(), &["models"]);
    let table = String::from_utf8(output.stdout).unwrap();
    for row in Row::all() {
        assert!(table.contains(&row.model), "{table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
}
