//! `compare`: starts each contender, loads it, stops it; in blocks; and says what can be said.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use arguments::{CpuList, Transport};
use clap::Args;
use serde::Serialize;

use super::{Failure, Outcome, fits_a_datagram, number, print};
use crate::{
    compare::{
        blocks,
        catalogue::Catalogue,
        cell::{Bench, Cell},
        contender::{Contender, OurServer},
        duet::Duet,
        scenario::Scenario,
        server,
        table::{self, Form},
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
    /// --workers 4'; all (in every way), classic, loops, none; behind a name @udp asks it over UDP. Others of the catalogue
    /// too, like python-threads; languages, cpython [default: all of ours that can run here, in their default way]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    models: Vec<String>,

    /// Another server that takes part, like 'go=./go-echo {port}', over UDP 'go@udp=./go-echo -u {port}'; {work}, {workers}
    /// and {scratch} are given to it too; can be given again
    #[arg(long, value_name = "NAME=COMMAND", value_parser = Contender::from_command)]
    with: Vec<Contender>,

    /// A catalogue of servers that are not ours, whose names can stand where a model's can [default: that of this suite,
    /// where it is found]
    #[arg(long, value_name = "FILE")]
    contenders: Option<PathBuf>,

    /// What the servers are put to
    #[arg(long, value_enum, default_value = "echo")]
    scenario: Scenario,

    /// Compare two contenders finely: both stay up, the load alternates between them
    #[arg(long, value_names = ["A", "B"], num_args = 2, conflicts_with = "models")]
    duet: Vec<String>,

    /// Numbers of connections, a table each [default: 1,64,512; of idle ones 10000]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', value_parser = number(1 << 20))]
    connections: Vec<usize>,

    /// How many bytes a message has
    #[arg(short, long, value_name = "BYTES", default_value = "64", value_parser = number(1 << 30))]
    size: usize,

    /// Over UDP: send N datagrams in one system call (UDP_SEGMENT), and the next N when all are back or lost
    #[arg(long, value_name = "N", value_parser = number(64))]
    burst: Option<usize>,

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

    /// Write the tables as GitHub's Markdown too
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

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
    scenario: Scenario,
    environment: &'a Environment,
    server_cpus: &'a CpuList,
    client_cpus: &'a CpuList,
    size: usize,
    burst: Option<usize>,
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
        self.contradiction().map_or(Ok(()), |sentence| Err(Failure::Usage(sentence.into())))?;
        let ours = OurServer::find(self.server.clone()).map_err(Failure::Usage)?;
        let catalogue = Catalogue::find(self.contenders.as_deref()).map_err(Failure::Usage)?;
        let contenders = self.contenders(&ours, &catalogue).map_err(Failure::Usage)?;
        self.mismatch(&contenders).map_or(Ok(()), |sentence| Err(Failure::Usage(sentence)))?;
        let environment = Environment::read();
        let bench = self.bench(ours)?;
        let rehearsed = contenders.iter().try_for_each(|contender| contender.rehearse(&bench.ours));
        rehearsed.map_err(Failure::Usage)?;
        let markdown = self.markdown.as_deref().map(create_with_its_folder).transpose()?;
        let introduction = self.introduction(&bench, &environment);
        print(&format!("{introduction}{}", self.legend()))?;
        let interrupted = || interrupt::requested(&bench.stop);

        let (mut cells, mut duets) = (Vec::new(), Vec::new());
        match &contenders[..] {
            [a, b] if !self.duet.is_empty() => self.play(&bench, [a, b], &mut duets)?,
            all => self.run_blocks(&bench, all, &mut cells)?,
        }
        let groups: Vec<Group> = match self.duet.is_empty() {
            true => self.connections().iter().map(|&n| Group::of(self.scenario, n, &cells)).collect(),
            false => Vec::new(),
        };
        let tables = |form| -> String {
            let of_groups = groups.iter().map(|group| table::of_group(group, form));
            of_groups.chain(duets.iter().map(|duet| table::of_duet(duet, form))).collect()
        };
        print(&tables(Form::Plain))?;
        if let Some(mut file) = markdown {
            let about = format!("{}\n{introduction}\n```\n{}\n```\n", self.legend(), command_line());
            let page = format!("{}\n{}", tables(Form::Markdown).trim_start(), about.trim_start());
            file.write_all(page.as_bytes()).map_err(Failure::io("--markdown"))?;
        }
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

    /// Options that do not go together.
    fn contradiction(&self) -> Option<&'static str> {
        if self.json.extension().is_some_and(|extension| extension == "csv") {
            return Some("--json: the rows go into a .csv beside it; name a .json");
        }
        let plays_idle = !self.duet.is_empty() && self.scenario == Scenario::Idle;
        plays_idle.then_some("--duet: idle connections are not played; compare them without it")
    }

    /// What does not go together with what the contenders are asked over.
    fn mismatch(&self, contenders: &[Contender]) -> Option<String> {
        let scenario = self.scenario.name();
        let Some(first) = contenders.first() else {
            return Some("nobody takes part; name a program, like --with 'mine=./my-server {port}'".into());
        };
        if let Some(other) = contenders.iter().find(|it| !self.scenario.is_of(it.transport)) {
            let (name, over) = (&other.name, other.transport);
            return Some(format!(
                "{name} is asked over {over}, and --scenario {scenario} is not; choose another"
            ));
        }
        if !self.duet.is_empty() && contenders.iter().any(|it| it.transport != first.transport) {
            return Some(
                "--duet: one is asked over UDP and one over TCP; put @udp behind both or neither".into(),
            );
        }
        match contenders.iter().any(|it| it.transport == Transport::Udp) {
            true => fits_a_datagram(self.size, self.burst),
            false => self.burst.map(|_| "--burst is of datagrams; put @udp behind a contender's name".into()),
        }
    }

    /// What the columns mean; those of a duet say it themselves.
    fn legend(&self) -> &'static str {
        if self.duet.is_empty() { table::legend(self.scenario) } else { "" }
    }

    fn connections(&self) -> Vec<usize> {
        match self.connections.is_empty() {
            true => self.scenario.connections(),
            false => self.connections.clone(),
        }
    }

    fn blocks(&self) -> usize {
        self.blocks.unwrap_or(if self.duet.is_empty() { BLOCKS_FOR_A_VERDICT } else { 12 })
    }

    fn contenders(&self, ours: &OurServer, catalogue: &Catalogue) -> Result<Vec<Contender>, String> {
        let usual = self.scenario.usual();
        let with = || self.with.iter().map(|contender| contender.clone().usually_over(usual));
        if !self.duet.is_empty() {
            let find = |name: &String| match with().find(|other| other.is_called(name, usual)) {
                Some(other) => Ok(other),
                None => match &catalogue.or_ours(ours, name, usual)?[..] {
                    [one] => Ok(one.clone()),
                    several => Err(format!("{name:?} means {} contenders; a duet is of two", several.len())),
                },
            };
            return self.duet.iter().map(find).collect();
        }
        let mut contenders = match self.models.is_empty() {
            true => ours.all(usual),
            false => {
                let meant: Result<Vec<_>, _> =
                    self.models.iter().map(|text| catalogue.or_ours(ours, text, usual)).collect();
                meant?.concat()
            }
        };
        contenders.extend(with());
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
            scenario: self.scenario,
            server_cpus: self.server_cpus.clone().unwrap_or(servers),
            client_cpus: self.client_cpus.clone().unwrap_or(client),
            size: self.size,
            burst: self.burst,
            warmup: self.warmup,
            duration: self.duration,
            seed: self.seed,
            stop: interrupt::on_signals(server::kill_all).map_err(Failure::io("signals"))?,
        })
    }

    /// What was compared, where, and on which processors.
    fn introduction(&self, bench: &Bench, environment: &Environment) -> String {
        let mut text = format!("{}\n", environment.line());
        text += &format!(
            "{}, closed loop, {} bytes{}, echoes checked; servers on CPU {}, client on CPU {}; seed {}\n",
            self.scenario.name(),
            self.size,
            self.burst.map(|n| format!(", bursts of {n}")).unwrap_or_default(),
            bench.server_cpus,
            bench.client_cpus,
            self.seed
        );
        if !bench.server_cpus.is_disjoint(&bench.client_cpus) {
            text += "NOTE: servers and client share processors, so each slows the other\n";
        }
        if self.duet.is_empty() && self.blocks() < BLOCKS_FOR_A_VERDICT {
            let n = self.blocks();
            text += &format!("{n} blocks are a glance: for a verdict, --blocks {BLOCKS_FOR_A_VERDICT}\n");
        }
        text
    }

    /// Runs every cell once a block; each row is written as it ends.
    fn run_blocks(
        &self,
        bench: &Bench,
        contenders: &[Contender],
        cells: &mut Vec<Cell>,
    ) -> Result<(), Failure> {
        let mut rows = Rows::create(&self.json)?;
        let connections = self.connections();
        let plan: Vec<(&Contender, usize)> =
            contenders.iter().flat_map(|c| connections.iter().map(move |&n| (c, n))).collect();
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
        let numbers = self.connections();
        let progress = Progress::of_steps("duet", (numbers.len() * self.blocks()) as u64);
        for connections in numbers {
            if pair.iter().any(|contender| bench.is_beyond(contender, connections)) {
                print(&format!("{connections} connections: not played, one serves one client at a time\n"))?;
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
            scenario: self.scenario,
            environment: &environment,
            server_cpus: &bench.server_cpus,
            client_cpus: &bench.client_cpus,
            size: self.size,
            burst: self.burst,
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
        print(&format!("\nresults: {}{rows}\n", self.json.display()))?;
        Ok(())
    }
}

fn create_with_its_folder(path: &Path) -> Result<File, Failure> {
    create_folder_of(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    File::create(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
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
        Ok(Self { csv: csv::Writer::from_writer(create_with_its_folder(&path)?) })
    }

    fn write(&mut self, cell: &Cell) -> Result<(), Failure> {
        let written = self.csv.serialize(cell).map_err(io::Error::other).and_then(|()| self.csv.flush());
        written.map_err(Failure::io("results"))
    }
}
