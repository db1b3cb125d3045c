//! `compare`: has contenders take turns under load, block by block, and says what can be said.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use arguments::{CpuList, Transport};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Failure, INTERRUPTED, Outcome, fits_a_datagram, number, percent, print, report};
use crate::{
    compare::{
        bench::Bench,
        blocks::Blocks,
        calls::Counted,
        catalogue::Catalogue,
        comparison::LEAST_BLOCKS,
        contender::{Contender, OurServer, short_name},
        draft::{Draft, DraftTrial},
        gate::Gate,
        pair::{Pair, pairs},
        plan::{AGAIN, COUNTING, Plan, Trial},
        results::{Folder, Rows, Run, whole},
        scalability::Law,
        scenario::{Depth, Scenario},
        scratch::{self, Scratch},
        sentence,
        table::{self, Form},
        textbook,
        verdict::Group,
    },
    environment::{Environment, command_line},
    interrupt,
    progress::Progress,
    server,
};

/// What stands below the options in the help.
const AFTERWARDS: &str = "\
Every contender is rehearsed before anything is measured: it is started, and one message is answered. Where one does not \
start, or is refused, the comparison ends there.

Exit status: 0 valid: each contender has a figure wherever it takes part; 1 a server failed: it did not start, was refused, \
answered wrongly, let nobody in, or did not end in order, or a --fail-if holds; 2 the command line or the plan is wrong; 3 measured and not valid, \
or this program or the machine failed; 130 interrupted, with the files written.";

/// Start servers, load them in turns, and say which is better, and by how much.
#[derive(Debug, Args)]
#[command(after_help = AFTERWARDS)]
pub struct Compare {
    /// Our models that take part, like fork,thread-pool/queue; with options for the server, like 'thread-pool
    /// --workers 4'; all (in every way), default (each in one way), main (one of each kind), classic, loops, none;
    /// behind a name @udp asks it over UDP. Others of the catalogue too, like python-threads; languages (all of it), cpython
    /// [default: by scenario, each that can run here in its default way]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    models: Vec<String>,

    /// Another server that takes part, like 'go=./go-echo {port}', over UDP 'go@udp=./go-echo -u {port}', or one that
    /// runs already, like 'go=tcp://127.0.0.1:7000' (tcp:// may be left out); {work} in it
    /// is what a message costs, as our --work has it, {workers} how many a pool has, {scratch} a folder to write into; can
    /// be given again
    #[arg(long, value_name = "NAME=COMMAND", value_parser = Contender::from_command)]
    with: Vec<Contender>,

    /// A catalogue of servers that are not ours, whose names can stand where a model's can [default: that of this suite,
    /// where it is found]
    #[arg(long, value_name = "FILE")]
    contenders: Option<PathBuf>,

    /// What the servers are put to: echo, churn, cpu, sleep, idle, stall, fair, overload, udp; several with commas,
    /// or all
    #[arg(long, value_name = "LIST", default_value = "echo")]
    scenario: Scenarios,

    /// Less time, fewer points and contenders: what differs much is told apart
    #[arg(long)]
    quick: bool,

    /// More time, more points: for claims of a few per cent
    #[arg(long, conflicts_with = "quick")]
    thorough: bool,

    /// Compare two contenders, all their figures, to a difference of 2 % (--resolve); one with itself shows what the machine does
    #[arg(long, value_names = ["A", "B"], num_args = 2, conflicts_with = "models")]
    duet: Vec<String>,

    /// Numbers of connections, a table each [default: by scenario]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', value_parser = number(1 << 20))]
    connections: Vec<usize>,

    /// How many bytes a message has; several with commas, a table each [default: 64]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', value_parser = number(1 << 30))]
    size: Vec<usize>,

    /// Over UDP: send N datagrams in one system call (UDP_SEGMENT), and the next N when all are back or lost
    #[arg(long, value_name = "N", value_parser = number(64))]
    burst: Option<usize>,

    /// What a message costs the servers besides the echo, like cpu:2ms or sleep:5ms [default: by scenario]
    #[arg(long, value_name = "WORK")]
    work: Option<String>,

    /// On a schedule, in stall: how many messages a second [default: 1000]
    #[arg(long, value_name = "N")]
    rate: Option<f64>,

    /// In overload: how long 99 of 100 answers may take at a rate that counts as kept [default: 10ms]
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    p99: Option<Duration>,

    /// How long all of it may take: it ends earlier where every difference is decided [default: 1m a point, --quick 21s,
    /// --thorough 3m, and more where blocks take longer]
    #[arg(short, long, value_name = "DURATION", value_parser = arguments::duration)]
    time: Option<Duration>,

    /// The smallest difference that matters: what is surely less is called equal. A point is decided when each pair is equal, or its
    /// interval reaches no further than half of the difference that is seen [default: 5%, --quick 10%, --thorough
    /// 2.5%, --duet 2%]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    resolve: Option<f64>,

    /// Exactly so many blocks, whatever they decide: in each the servers are started anew; 3 allow a verdict
    #[arg(short, long, value_name = "N", value_parser = number(1 << 20))]
    blocks: Option<usize>,

    /// How long each contender is measured in a block, in slices between which the others have theirs [default: 600ms,
    /// --quick 300ms, --thorough 1200ms, --duet 200ms]
    #[arg(short, long, value_name = "DURATION", value_parser = arguments::duration)]
    duration: Option<Duration>,

    /// How long each is loaded before that [default: 100ms, --quick 80ms, --thorough 200ms]
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    warmup: Option<Duration>,

    /// Leave out the system calls a message, which strace counts after all that is timed
    #[arg(long)]
    no_calls: bool,

    /// Fail, with status 1, where a figure of a contender is surely beyond a limit, like 'mine.cpu > 1.05 * event-loop.cpu' or
    /// 'mine.p99 > 10ms', at any point; figures are rate, cpu, p50, p99, p99.9, memory; can be given again
    #[arg(long, value_name = "CONDITION")]
    fail_if: Vec<Gate>,

    /// Fail also where a figure may be beyond its limit
    #[arg(long, requires = "fail_if")]
    fail_if_doubtful: bool,

    /// Run what a file says (TOML), like the plan.toml that is kept with every result; what it leaves open is as usual
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_A_PLAN)]
    plan: Option<PathBuf>,

    /// Finish the run in --results that was interrupted: no cell is run again
    #[arg(long, conflicts_with_all = OF_A_PLAN, conflicts_with_all = ["plan", "quick", "thorough"])]
    resume: bool,

    /// The folder for plan, raw rows, results and report; a run that is there already is moved into its folder earlier/
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,

    /// What the order of the cells and the bytes are made from [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// The servers' processors [default: all but the client's; in cpu and sleep all]
    #[arg(long, value_name = "LIST")]
    server_cpus: Option<CpuList>,

    /// The client's processors [default: the last quarter, at least one]
    #[arg(long, value_name = "LIST")]
    client_cpus: Option<CpuList>,

    /// The echo-server to compare the models of [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
}

/// What a plan says, so that the command line does not.
const OF_A_PLAN: [&str; 19] = [
    "time",
    "resolve",
    "no_calls",
    "models",
    "with",
    "scenario",
    "duet",
    "connections",
    "size",
    "burst",
    "work",
    "rate",
    "p99",
    "blocks",
    "duration",
    "warmup",
    "seed",
    "server_cpus",
    "client_cpus",
];

/// Scenarios as they are typed.
#[derive(Clone, Debug)]
struct Scenarios(Vec<Scenario>);

impl FromStr for Scenarios {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(Scenario::value_variants().to_vec()));
        }
        let mut all = Vec::new();
        for word in text.split(',') {
            let Ok(scenario) = Scenario::from_str(word, false) else {
                let names: Vec<&str> = Scenario::value_variants().iter().map(|it| it.name()).collect();
                return Err(format!("there is no scenario {word:?}; there are {}, all", names.join(", ")));
            };
            if !all.contains(&scenario) {
                all.push(scenario);
            }
        }
        Ok(Self(all))
    }
}

/// What is written as JSON: all that was measured, and what follows from it.
#[derive(Serialize)]
struct Results<'r> {
    schema: u32,
    #[serde(flatten)]
    run: &'r Run,
    interrupted: bool,
    groups: &'r [Group],
    /// Where there are two contenders: all their figures.
    pairs: &'r [Pair],
    laws: &'r [Law],
}

impl Compare {
    /// Compares. The exit status is [`Run::exit_status`], 1 where a gate goes off, or 130 after ^C.
    pub fn run(self) -> Outcome {
        let catalogue = Catalogue::find(self.contenders.as_deref()).map_err(Failure::Usage)?;
        let ours = OurServer::find(self.server.clone(), catalogue).map_err(Failure::Usage)?;
        let folder = Folder::at(&self.results);
        let (plan, done) = match (self.resume, &self.plan) {
            (true, _) => {
                let run = folder.read().map_err(Failure::Usage)?;
                let last = run.sittings.last().and_then(|sitting| sitting.server.clone());
                if last.is_some() && last != ours.digest() {
                    let other =
                        "--resume: the echo-server is not the program that it was; name that with --server";
                    return Err(Failure::Usage(other.into()));
                }
                (run.plan, run.cells)
            }
            (false, file) => {
                let draft = file.as_deref().map_or_else(|| self.draft(), Draft::read);
                let plan = draft.and_then(|draft| draft.settle(&ours, self.depth()));
                let plan = plan.map_err(Failure::Usage)?;
                self.is_of_two(&plan)?;
                (plan, Vec::new())
            }
        };
        let contenders = plan.contenders(&ours).map_err(Failure::Usage)?;
        plan.trial.iter().find_map(|trial| mismatch(trial, &contenders)).map_or(Ok(()), usage)?;
        self.know(&contenders)?;
        let _lock = folder.lock().map_err(Failure::Usage)?;
        let bench = bench(&plan, ours, &folder)?;
        rehearse(&plan, &contenders, &bench)?;
        if interrupt::requested(&bench.stop) {
            return Ok(ExitCode::from(INTERRUPTED)); // nothing was begun, and an earlier run stays where it is
        }
        let mut environment = Environment::read();
        let before = if self.resume { folder.took() } else { Duration::ZERO };
        let blocks = Blocks { plan: &plan, gates: &self.fail_if, before };
        print(&introduction(&plan, &environment, blocks.estimate(&done)))?;
        let mut rows = self.rows(&folder, &plan)?;
        let began = Instant::now();
        let at_folder = || Failure::io(self.results.display());
        folder.sit_down(command_line(), bench.ours.digest(), &environment).map_err(at_folder())?;
        let mut cells = done;
        blocks.run(&bench, &contenders, &mut rows, &mut cells).map_err(Failure::io("results"))?;
        count_calls(&plan, &bench, &contenders, &folder)?;
        environment.end();
        folder.stand_up(began.elapsed().as_secs_f64(), &environment).map_err(at_folder())?;
        let interrupted = interrupt::requested(&bench.stop);
        let run = folder.read().map_err(Failure::Harness)?;
        conclude(&folder, &run, interrupted)?;
        if interrupted {
            return Ok(ExitCode::from(INTERRUPTED));
        }
        self.hold(&run)?;
        Ok(ExitCode::from(run.exit_status()))
    }

    /// That everybody whom a gate asks for takes part.
    fn know(&self, contenders: &BTreeMap<&str, Contender>) -> Result<(), Failure> {
        let is_there = |name: &str| contenders.keys().any(|it| *it == name || short_name(it) == name);
        let asked_for = self.fail_if.iter().flat_map(Gate::contenders);
        asked_for.filter(|name| !is_there(name)).take(1).try_for_each(|name| {
            let names: Vec<&str> = contenders.keys().copied().collect();
            usage(format!("--fail-if: {name:?} does not take part; there are {}", names.join(", ")))
        })
    }

    /// Fails where a gate goes off.
    fn hold(&self, run: &Run) -> Result<(), Failure> {
        let complaint = |gate: &Gate| gate.complaint(&run.cells, self.fail_if_doubtful);
        let complaints: Vec<String> = self.fail_if.iter().filter_map(complaint).collect();
        match complaints.is_empty() {
            true => Ok(()),
            false => Err(Failure::Failed(format!("--fail-if {}", complaints.join("; ")))),
        }
    }

    /// Where the rows go: behind those that are there, or into a folder of which an earlier run was moved away.
    fn rows(&self, folder: &Folder, plan: &Plan) -> Result<Rows, Failure> {
        if self.resume {
            return folder.go_on().map_err(Failure::io(folder.rows().display()));
        }
        self.make_room(folder)?;
        folder
            .begin(plan)
            .map_err(|error| Failure::Usage(format!("--results {}: {error}", self.results.display())))
    }

    /// An earlier run is moved away, and it is said where to.
    fn make_room(&self, folder: &Folder) -> Result<(), Failure> {
        let at = self.results.display();
        let moved = folder.make_room().map_err(|error| Failure::Usage(format!("--results {at}: {error}")))?;
        moved.map_or(Ok(()), |earlier| {
            print(&format!("the run that was in {at} is now in {}\n", earlier.display()))
        })
    }

    fn depth(&self) -> Depth {
        match (self.quick, self.thorough) {
            (true, _) => Depth::Quick,
            (_, true) => Depth::Thorough,
            _ => Depth::Usual,
        }
    }

    /// What was asked for on the command line.
    fn draft(&self) -> Result<Draft, String> {
        let with: BTreeMap<String, String> =
            self.with.iter().filter_map(|other| Some((other.name.clone(), other.command_line()?))).collect();
        if with.len() < self.with.len() {
            return Err("--with: two programs have the same name; choose another".into());
        }
        let contenders = match (&self.duet[..], self.models.is_empty()) {
            ([one, other], _) if one == other => vec![one.clone(), one.clone() + AGAIN],
            ([one, other], _) => vec![one.clone(), other.clone()],
            (_, true) => Vec::new(),
            (_, false) => self.models.iter().chain(with.keys()).cloned().collect(),
        };
        let trial = |&scenario: &Scenario| DraftTrial {
            scenario,
            contenders: contenders.clone(),
            connections: self.connections.clone(),
            sizes: self.size.clone(),
            server_cpus: self.server_cpus.clone(),
            work: self.work.clone(),
            rate: self.rate,
            burst: self.burst,
            p99: self.p99,
        };
        Ok(Draft {
            seed: self.seed,
            blocks: self.blocks,
            time: self.time,
            resolve: self.resolve.or((!self.duet.is_empty()).then_some(FINE)),
            duration: self.duration.or((!self.duet.is_empty()).then_some(SHORT)),
            warmup: self.warmup,
            count_calls: Some(!self.no_calls),
            client_cpus: self.client_cpus.clone(),
            trial: self.scenario.0.iter().map(trial).collect(),
            with,
        })
    }

    /// That a duet is one.
    fn is_of_two(&self, plan: &Plan) -> Result<(), Failure> {
        let others = plan.trial.iter().map(|trial| trial.contenders.len()).find(|n| *n != 2);
        match others.filter(|_| !self.duet.is_empty()) {
            Some(n) => usage(format!("--duet: these are {n} contenders; a duet is of two")),
            None => Ok(()),
        }
    }
}

/// The version of what is written as JSON.
const SCHEMA: u32 = 2;

/// Which difference matters in a duet, unless told.
const FINE: f64 = 0.02;

/// How long each of two is measured in a block, unless told: they are started fast, and more blocks say more than longer ones.
const SHORT: Duration = Duration::from_millis(200);

/// The last act of an impatient end.
fn end_at_once() {
    server::kill_all();
    scratch::remove();
}

fn usage(sentence: String) -> Result<(), Failure> {
    Err(Failure::Usage(sentence))
}

/// What does not go together with what a trial's contenders are asked over.
fn mismatch(trial: &Trial, contenders: &BTreeMap<&str, Contender>) -> Option<String> {
    let of_trial = || trial.contenders.iter().filter_map(|name| contenders.get(name.as_str()));
    let scenario = trial.scenario;
    if let Some(other) = of_trial().find(|it| !scenario.is_of(it.transport)) {
        let (name, over) = (&other.name, other.transport);
        return Some(format!(
            "{name} is asked over {over}, and --scenario {} is not; choose another",
            scenario.name()
        ));
    }
    match of_trial().any(|it| it.transport == Transport::Udp) {
        true => trial.sizes.iter().find_map(|&size| fits_a_datagram(size, trial.burst)),
        false => trial.burst.map(|_| "--burst is of datagrams; put @udp behind a contender's name".into()),
    }
}

/// What all cells of a plan have in common. From here on a signal is heeded, and ends the run in order.
fn bench(plan: &Plan, ours: OurServer, folder: &Folder) -> Result<Bench, Failure> {
    let stop = interrupt::on_signals(end_at_once).map_err(Failure::io("signals"))?;
    let scratch = std::path::absolute(folder.scratch()).map_err(Failure::io("--results"))?;
    let (client_cpus, seed) = (plan.client_cpus.clone(), plan.seed);
    Ok(Bench { ours, client_cpus, warmup: plan.warmup, duration: plan.duration, seed, scratch, stop })
}

/// Starts everybody once, has one message answered, and ends it: who does not start, or is refused, is found out before
/// anything is measured. The same work is rehearsed once.
fn rehearse(plan: &Plan, contenders: &BTreeMap<&str, Contender>, bench: &Bench) -> Result<(), Failure> {
    let _scratch = Scratch::at(&bench.scratch).map_err(Failure::io(bench.scratch.display()))?;
    let mut rehearsed = BTreeSet::new();
    for trial in &plan.trial {
        for contender in trial.contenders.iter().filter_map(|name| contenders.get(name.as_str())) {
            let is_new = rehearsed.insert((&contender.name, trial.work()));
            if !is_new || trial.excludes(contender, 1).is_some() {
                continue;
            }
            let tried = bench.rehearse(trial, contender);
            if interrupt::requested(&bench.stop) {
                return Ok(());
            }
            tried.map_err(Failure::Failed)?;
        }
    }
    Ok(())
}

/// What is compared, where, on which processors, and how long it will take.
fn introduction(plan: &Plan, environment: &Environment, left: Duration) -> String {
    let mut text = format!("{}\n", environment.line());
    for trial in &plan.trial {
        let sizes: Vec<String> = trial.sizes.iter().map(usize::to_string).collect();
        text += &format!("{}: {} bytes", trial.scenario.name(), sizes.join(", "));
        text += &trial.burst.map(|n| format!(", bursts of {n}")).unwrap_or_default();
        text += &trial.work().map(|work| format!(", {work} a message")).unwrap_or_default();
        text += &match trial.rate {
            Some(rate) => format!(", open loop, {rate} a second"),
            None => ", closed loop".to_owned(),
        };
        text += &match &trial.server_cpus {
            Some(cpus) => format!("; servers on CPU {cpus}, client on CPU {}\n", plan.client_cpus),
            None => format!("; servers run already, client on CPU {}\n", plan.client_cpus),
        };
        if trial.server_cpus.as_ref().is_some_and(|cpus| !cpus.is_disjoint(&plan.client_cpus)) {
            text += "NOTE: servers and client share processors, so each slows the other\n";
        }
    }
    text += &format!("echoes checked; seed {}\n", plan.seed);
    let (counting, blocks) = (COUNTING * plan.counts().len() as u32, plan.blocks);
    text += &match plan.time {
        _ if left.is_zero() => "nothing is left to run\n".to_owned(),
        None => format!(
            "{blocks} block{}, about {}\n",
            if blocks == 1 { "" } else { "s" },
            rough(left + counting)
        ),
        Some(_) => {
            let resolve = 100.0 * plan.resolve;
            format!("{} at most, until differences of {resolve} % are decided\n", rough(left + counting))
        }
    };
    if blocks < LEAST_BLOCKS {
        text += &format!("{blocks} blocks allow no verdict; {LEAST_BLOCKS} would\n");
    }
    text
}

/// A time for people who wait.
fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..300 => format!("{seconds} s"),
        seconds @ 300..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Counts whose system calls are not counted so far: a pass of its own, since who is traced is slow.
fn count_calls(
    plan: &Plan,
    bench: &Bench,
    contenders: &BTreeMap<&str, Contender>,
    folder: &Folder,
) -> Result<(), Failure> {
    let mut calls = folder.read_calls();
    let is_there = |calls: &[Counted], trial: &Trial, name: &str| {
        calls.iter().any(|row| row.scenario == trial.scenario && row.contender == name)
    };
    let left: Vec<(&Trial, &str)> =
        plan.counts().into_iter().filter(|(trial, name)| !is_there(&calls, trial, name)).collect();
    let progress = Progress::of_steps("counting calls", left.len() as u64);
    for (trial, name) in left {
        let Some(contender) = contenders.get(name) else { continue };
        progress.doing(format!("{} {name}", trial.scenario.name()));
        let counted = bench.count_calls(trial, contender);
        if interrupt::requested(&bench.stop) {
            break;
        }
        calls.push(counted);
        folder.write_calls(&calls).map_err(Failure::io(folder.path().display()))?;
        progress.steps(1);
    }
    progress.end();
    Ok(())
}

/// The tables of all scenarios, and what is said of them.
fn tables(run: &Run) -> String {
    let (groups, laws) = (run.groups(), run.laws());
    let pairs = pairs(&groups, &run.cells);
    let mut text = String::new();
    for trial in &run.plan.trial {
        let of_trial = groups.iter().filter(|group| group.scenario == trial.scenario);
        let of_group = |group: &Group| {
            let of_pair =
                pairs.iter().filter(|pair| pair.is_of(group)).map(|it| table::of_pair(it, Form::Plain));
            let of_pair: String = of_pair.collect();
            table::of_group(group, Form::Plain) + &of_pair + &textbook::table(group, Form::Plain)
        };
        let tables: String = of_trial.clone().map(of_group).collect();
        if tables.is_empty() {
            continue; // it was ended before
        }
        let shows = table::folded(trial.scenario.character().shows, "", "");
        let left_out = sentence::left_out(of_trial);
        let left_out = left_out.map_or(String::new(), |it| format!("\n{}\n", table::folded(&it, "", "  ")));
        let calls = table::of_calls(trial.scenario, &run.calls);
        let laws = table::of_laws(trial.scenario, &laws, Form::Plain);
        text += &format!("\n{shows}\n{}{tables}{left_out}{laws}{calls}", table::legend(trial.scenario));
    }
    text
}

/// The tables, and the files.
fn conclude(folder: &Folder, run: &Run, interrupted: bool) -> Result<(), Failure> {
    print(&tables(&run.in_short()))?;
    let (groups, laws) = (run.groups(), run.laws());
    let pairs = pairs(&groups, &run.cells);
    let results = Results { schema: SCHEMA, run, interrupted, groups: &groups, pairs: &pairs, laws: &laws };
    let text = serde_json::to_string_pretty(&results).map_err(|error| Failure::Harness(error.to_string()))?;
    let json = folder.json();
    whole(&json, text + "\n").map_err(Failure::io("--results"))?;
    print(&format!("\nresults: {}, {}\n", json.display(), folder.rows().display()))?;
    if let Some(left) = run.left() {
        print(&format!("{left}: go on with --resume --results {}\n", folder.path().display()))?;
    }
    print("\n")?;
    report::make(run, &[], &folder.report())
}
