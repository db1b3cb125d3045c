//! `compare`: starts each contender, loads it, stops it; in blocks; and says what can be said.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use arguments::CpuList;
use clap::Args;
use serde::Serialize;

use super::{Failure, Outcome, number, print};
use crate::{
    compare::{
        blocks,
        cell::{Bench, Cell},
        contender::{AtOnce, Contender, OurServer},
        duet::{Duet, Slice},
        server, table,
        verdict::{BLOCKS_FOR_A_VERDICT, Group},
    },
    environment::{Environment, command_line},
    interrupt,
    progress::Progress,
};

/// Start servers, load them in interleaved blocks, and say which is faster.
#[derive(Debug, Args)]
pub struct Compare {
    /// Our models that take part, like fork,thread-pool/queue; with options for the server, like 'thread-pool
    /// --workers 4'; all (in every way), classic, loops [default: all that can run here, in their default way]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    models: Vec<String>,

    /// Another server that takes part, like 'go=./go-echo {port}'; can be given again
    #[arg(long, value_name = "NAME=COMMAND", value_parser = Contender::from_command)]
    with: Vec<Contender>,

    /// Compare two contenders finely: both stay up, the load alternates between them
    #[arg(long, value_names = ["A", "B"], num_args = 2, conflicts_with = "models")]
    duet: Vec<String>,

    /// Numbers of connections, a table each
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', default_value = "1,64,512",
          value_parser = number(1 << 20))]
    connections: Vec<usize>,

    /// How many bytes a message has
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = number(1 << 30))]
    size: usize,

    /// How often each cell is run; 5 for a verdict, 3 for a glance. Of a duet: how many pairs of slices
    /// [default: 5, of a duet 12]
    #[arg(short, long, value_name = "N", value_parser = number(1 << 20))]
    blocks: Option<usize>,

    /// How long each cell is measured
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = arguments::duration)]
    duration: Duration,

    /// How long each cell is loaded before that
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = arguments::duration)]
    warmup: Duration,

    /// Write the results as JSON, and the rows beside it as CSV
    #[arg(long, value_name = "FILE", default_value = "results/compare.json")]
    json: PathBuf,

    /// What the order of the cells and the bytes are made from
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// The servers' processors [default: all but the client's]
    #[arg(long, value_name = "LIST")]
    server_cpus: Option<CpuList>,

    /// The client's processors [default: the last quarter, at least one]
    #[arg(long, value_name = "LIST")]
    client_cpus: Option<CpuList>,

    /// The echo-server to compare the models of [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
}

/// What is written as JSON.
#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    command: String,
    seed: u64,
    environment: &'a Environment,
    server_cpus: &'a CpuList,
    client_cpus: &'a CpuList,
    size: usize,
    duration_s: f64,
    warmup_s: f64,
    blocks: usize,
    interrupted: bool,
    cells: &'a [Cell],
    groups: &'a [Group],
    duets: &'a [Duet],
}

impl Compare {
    /// Compares. Exit status 1 where nothing could be measured, 130 after ^C.
    pub fn run(self) -> Outcome {
        if self.json.extension().is_some_and(|extension| extension == "csv") {
            return Err(Failure::Usage("--json: the rows go into a .csv beside it; name a .json".into()));
        }
        let ours = OurServer::find(self.server.clone()).map_err(Failure::Usage)?;
        let contenders = self.contenders(&ours).map_err(Failure::Usage)?;
        let environment = Environment::read();
        let bench = self.bench(ours)?;
        let rehearsed = contenders.iter().try_for_each(|contender| contender.rehearse(&bench.ours));
        rehearsed.map_err(Failure::Usage)?;
        self.introduce(&bench, &environment);
        let interrupted = || interrupt::requested(&bench.stop);

        let (mut cells, mut duets) = (Vec::new(), Vec::new());
        match &contenders[..] {
            [a, b] if !self.duet.is_empty() => self.play(&bench, [a, b], &mut duets)?,
            all => self.run_blocks(&bench, all, &mut cells)?,
        }
        let groups: Vec<Group> = match self.duet.is_empty() {
            true => self.connections.iter().map(|&n| Group::of(n, &cells)).collect(),
            false => Vec::new(),
        };
        groups.iter().for_each(|group| print(&table::text(group)));
        duets.iter().for_each(|duet| print(&duet_text(duet)));
        self.write(&bench, environment, interrupted(), &cells, &groups, &duets)?;
        Ok(
            match (interrupted(), cells.iter().any(Cell::counts) || duets.iter().any(|d| d.reason.is_empty()))
            {
                (true, _) => ExitCode::from(130),
                (false, true) => ExitCode::SUCCESS,
                (false, false) => ExitCode::from(1),
            },
        )
    }

    fn blocks(&self) -> usize {
        self.blocks.unwrap_or(if self.duet.is_empty() { BLOCKS_FOR_A_VERDICT } else { 12 })
    }

    fn contenders(&self, ours: &OurServer) -> Result<Vec<Contender>, String> {
        if !self.duet.is_empty() {
            let find = |name: &String| match self.with.iter().find(|other| other.name == *name) {
                Some(other) => Ok(other.clone()),
                None => match &ours.contenders(name)?[..] {
                    [one] => Ok(one.clone()),
                    several => Err(format!("{name:?} means {} contenders; a duet is of two", several.len())),
                },
            };
            return self.duet.iter().map(find).collect();
        }
        let mut contenders = match self.models.is_empty() {
            true => ours.all(),
            false => {
                let meant: Result<Vec<_>, _> = self.models.iter().map(|text| ours.contenders(text)).collect();
                meant?.concat()
            }
        };
        contenders.extend(self.with.iter().cloned());
        let mut names: Vec<&str> = contenders.iter().map(|contender| contender.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("{} takes part twice; give one another name", pair[0])),
            None => Ok(contenders),
        }
    }

    fn bench(&self, ours: OurServer) -> Result<Bench, Failure> {
        let allowed = CpuList::allowed().map_err(|error| Failure::Failed(format!("processors: {error}")))?;
        let (servers, client) = allowed.split_last((allowed.count() / 4).max(1));
        for (option, list) in [("--server-cpus", &self.server_cpus), ("--client-cpus", &self.client_cpus)] {
            let Some(list) = list else { continue };
            let unusable =
                |error| Failure::Usage(format!("{option} {list}: {error}; see nproc(1) for what there is"));
            list.confine().and_then(|()| allowed.confine()).map_err(unusable)?;
        }
        Ok(Bench {
            ours,
            server_cpus: self.server_cpus.clone().unwrap_or(servers),
            client_cpus: self.client_cpus.clone().unwrap_or(client),
            size: self.size,
            warmup: self.warmup,
            duration: self.duration,
            seed: self.seed,
            stop: interrupt::on_signals(server::kill_all).map_err(Failure::io("signals"))?,
        })
    }

    fn introduce(&self, bench: &Bench, environment: &Environment) {
        let mut text = format!("{}\n", environment.line());
        text += &format!(
            "closed loop, {} bytes, echoes checked; servers on CPU {}, client on CPU {}; seed {}\n",
            self.size, bench.server_cpus, bench.client_cpus, self.seed
        );
        if !bench.server_cpus.is_disjoint(&bench.client_cpus) {
            text += "NOTE: servers and client share processors, so each slows the other\n";
        }
        if self.duet.is_empty() {
            text += table::LEGEND;
            if self.blocks() < BLOCKS_FOR_A_VERDICT {
                let n = self.blocks();
                text += &format!("{n} blocks are a glance: for a verdict, --blocks {BLOCKS_FOR_A_VERDICT}\n");
            }
        }
        print(&text);
    }

    /// Runs every cell once a block; each row is written as it ends.
    fn run_blocks(
        &self,
        bench: &Bench,
        contenders: &[Contender],
        cells: &mut Vec<Cell>,
    ) -> Result<(), Failure> {
        let mut rows = Rows::create(&self.json)?;
        let plan: Vec<(&Contender, usize)> =
            contenders.iter().flat_map(|c| self.connections.iter().map(move |&n| (c, n))).collect();
        let order = blocks::shuffled(plan.len(), self.blocks(), self.seed);
        let progress = Progress::of_steps("comparing", (plan.len() * order.len()) as u64);
        for (block, cells_of_block) in (1..).zip(order) {
            for number in cells_of_block {
                let (contender, connections) = plan[number];
                progress.doing(format!("{} at {connections}", contender.name));
                let cell = Cell::run(bench, contender, connections, block);
                if interrupt::requested(&bench.stop) {
                    progress.end(); // the cell was cut short, and does not count
                    return Ok(());
                }
                rows.write(&cell)?;
                cells.push(cell);
                progress.step();
            }
        }
        progress.end();
        Ok(())
    }

    fn play(&self, bench: &Bench, pair: [&Contender; 2], duets: &mut Vec<Duet>) -> Result<(), Failure> {
        let progress = Progress::of_steps("duet", (self.connections.len() * self.blocks()) as u64);
        for &connections in &self.connections {
            if connections > 1 && pair.iter().any(|contender| contender.at_once == AtOnce::One) {
                print(&format!("{connections} connections: not played, one serves one client at a time\n"));
                continue;
            }
            progress.doing(format!("{connections} connections"));
            match Duet::play(bench, pair, connections, self.blocks(), || progress.step()) {
                Ok(duet) => duets.push(duet),
                Err(sentence) if duets.is_empty() => return Err(Failure::Failed(sentence)),
                Err(sentence) => log::error!("{connections} connections: {sentence}"), // keep what was played
            }
            if interrupt::requested(&bench.stop) {
                break;
            }
        }
        progress.end();
        Ok(())
    }

    fn write(
        &self,
        bench: &Bench,
        mut environment: Environment,
        interrupted: bool,
        cells: &[Cell],
        groups: &[Group],
        duets: &[Duet],
    ) -> Result<(), Failure> {
        environment.end();
        let results = Results {
            schema: 1,
            command: command_line(),
            seed: self.seed,
            environment: &environment,
            server_cpus: &bench.server_cpus,
            client_cpus: &bench.client_cpus,
            size: self.size,
            duration_s: self.duration.as_secs_f64(),
            warmup_s: self.warmup.as_secs_f64(),
            blocks: self.blocks(),
            interrupted,
            cells,
            groups,
            duets,
        };
        let text =
            serde_json::to_string_pretty(&results).map_err(|error| Failure::Failed(error.to_string()))?;
        create_folder_of(&self.json).map_err(Failure::io(self.json.display()))?;
        fs::write(&self.json, text + "\n").map_err(Failure::io(self.json.display()))?;
        let rows = Rows::beside(&self.json);
        let rows = if cells.is_empty() { String::new() } else { format!(", {}", rows.display()) };
        print(&format!("\nresults: {}{rows}\n", self.json.display()));
        Ok(())
    }
}

fn create_folder_of(path: &Path) -> io::Result<()> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(Ok(()), fs::create_dir_all)
}

/// The raw rows: each is on disk when its cell has ended.
struct Rows {
    csv: csv::Writer<File>,
}

impl Rows {
    fn beside(json: &Path) -> PathBuf {
        json.with_extension("csv")
    }

    fn create(json: &Path) -> Result<Self, Failure> {
        let path = Self::beside(json);
        let usage = |error: io::Error| Failure::Usage(format!("{}: {error}", path.display()));
        create_folder_of(&path).map_err(usage)?;
        Ok(Self { csv: csv::Writer::from_writer(File::create(&path).map_err(usage)?) })
    }

    fn write(&mut self, cell: &Cell) -> Result<(), Failure> {
        let written = self.csv.serialize(cell).map_err(io::Error::other).and_then(|()| self.csv.flush());
        written.map_err(Failure::io("results"))
    }
}

/// A duet for people.
fn duet_text(duet: &Duet) -> String {
    use std::fmt::Write;
    type Figure = (&'static str, fn(&Slice) -> f64);
    const FIGURES: [Figure; 5] = [
        ("server CPU us/message", |slice| slice.server_cpu_us_per_message),
        ("client CPU us/message", |slice| slice.client_cpu_us_per_message),
        ("messages/s", |slice| slice.messages_per_s),
        ("p50 us", |slice| slice.p50_us),
        ("p99 us", |slice| slice.p99_us),
    ];
    let [a, b] = &duet.names;
    let mut text = format!("\n{} connections, {} pairs of slices\n", duet.connections, duet.pairs.len());
    if !duet.reason.is_empty() {
        let _ = writeln!(text, "  does not count: {}", duet.reason);
        return text;
    }
    let _ = writeln!(text, "{:<22}{a:>14}{b:>14}   ratio [95 %]", "");
    for (name, figure) in FIGURES {
        let (Some(of_a), Some(of_b), Some(ratio)) =
            (duet.figure(0, figure), duet.figure(1, figure), duet.ratio(figure))
        else {
            continue;
        };
        let _ = writeln!(
            text,
            "{name:<22}{:>14.2}{:>14.2}   {:.3} [{:.3}, {:.3}]",
            of_a.median, of_b.median, ratio.median, ratio.low, ratio.high
        );
    }
    text
}
