//! What a comparison leaves: a folder with the plan, the raw rows, and where they were measured. All else is a view of
//! them, and can be made again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    calls::Counted,
    cell::{Cause, Cell, believed},
    contender::short_name,
    plan::Plan,
    scalability::{Law, laws},
    verdict::{Group, groups},
};
use crate::{cmd::NOT_VALID, environment::Environment};

/// A folder of results.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

/// One sitting of an experiment: a run, or the rest of one that was interrupted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sitting {
    /// When it began (RFC 3339).
    pub began: String,
    /// How long it took, in seconds; while it lasts, or where it was killed, not known.
    pub took_s: Option<f64>,
    /// The command that was typed.
    pub command: String,
    /// What tells our server's program from another one.
    #[serde(default)]
    pub server: Option<String>,
    /// Where it was measured.
    pub environment: Value,
}

/// A comparison that was run, as it is kept.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// What was to be run.
    pub plan: Plan,
    /// When and where.
    pub sittings: Vec<Sitting>,
    /// What came of it: raw rows.
    pub cells: Vec<Cell>,
    /// The servers' system calls, which were counted apart.
    pub calls: Vec<Counted>,
}

impl Run {
    /// All contenders at each point, judged.
    pub fn groups(&self) -> Vec<Group> {
        groups(&self.plan, &self.cells)
    }

    /// The same with short names, for people.
    pub fn in_short(&self) -> Self {
        let mut run = self.clone();
        let full: BTreeSet<String> = run.cells.iter().map(|cell| cell.contender.clone()).collect();
        let of = |name: &str| {
            let short = short_name(name);
            let is_one = full.iter().filter(|other| short_name(other) == short).count() <= 1;
            if is_one { short } else { name.to_owned() }
        };
        let names: BTreeMap<&str, String> = full.iter().map(|name| (name.as_str(), of(name))).collect();
        let in_trials = run.plan.trial.iter_mut().flat_map(|trial| &mut trial.contenders);
        let in_cells = run.cells.iter_mut().map(|cell| &mut cell.contender);
        let in_calls = run.calls.iter_mut().map(|row| &mut row.contender);
        for name in in_trials.chain(in_cells).chain(in_calls) {
            if let Some(short) = names.get(name.as_str()) {
                name.clone_from(short);
            }
        }
        run
    }

    /// How each contender scales, where enough numbers of connections were measured.
    pub fn laws(&self) -> Vec<Law> {
        laws(&self.plan, &self.cells)
    }

    /// The exit status: 1 where a server failed, 3 where a contender has no figure where it took part, or nobody has any.
    pub fn exit_status(&self) -> u8 {
        let cells = || self.cells.iter();
        let valid: BTreeSet<_> = believed(&self.cells).map(Cell::place).collect();
        let took_part = |cell: &&Cell| cell.cause != Some(Cause::Plan);
        match () {
            () if cells().any(|cell| cell.cause == Some(Cause::Server)) => 1,
            () if valid.is_empty() => NOT_VALID,
            () if cells().filter(took_part).any(|cell| !valid.contains(&cell.place())) => NOT_VALID,
            () => 0,
        }
    }

    /// What is still to be done, in words; nothing where all is done.
    pub fn left(&self) -> Option<String> {
        let Self { plan, cells, calls, .. } = self;
        let uncounted = plan.counts().len().saturating_sub(calls.len());
        if plan.time.is_some() {
            return (uncounted > 0).then(|| "it was ended before its time".into());
        }
        let of_block = |block: usize| plan.situations(block).into_iter().map(move |it| (block, it));
        let of_point = |(block, (trial, point))| plan.left(block, trial, point, cells).len();
        match ((1..=plan.blocks).flat_map(of_block).map(of_point).sum::<usize>(), uncounted) {
            (0, 0) => None,
            (0, _) => Some("system calls are left to count".into()),
            (cells, _) => Some(format!("{cells} cells are left")),
        }
    }
}

impl Folder {
    /// At a path, whatever is there.
    pub fn at(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the plan is.
    pub fn plan(&self) -> PathBuf {
        self.path.join("plan.toml")
    }

    /// Where the raw rows are, a line a cell.
    pub fn rows(&self) -> PathBuf {
        self.path.join("cells.csv")
    }

    fn calls(&self) -> PathBuf {
        self.path.join("calls.csv")
    }

    fn sittings(&self) -> PathBuf {
        self.path.join("environment.json")
    }

    /// Where all of it is, as JSON.
    pub fn json(&self) -> PathBuf {
        self.path.join("results.json")
    }

    /// Where the report is.
    pub fn report(&self) -> PathBuf {
        self.path.join("report")
    }

    /// Where contenders may write while they run.
    pub fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }

    /// Keeps others from writing here while the file that is returned is open.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn lock(&self) -> Result<File, String> {
        let named = |error: io::Error| format!("--results {}: {error}", self.path.display());
        fs::create_dir_all(&self.path).map_err(named)?;
        let folder = File::open(&self.path).map_err(named)?;
        match folder.try_lock() {
            Ok(()) => Ok(folder),
            Err(_) => Err(format!(
                "--results {}: another compare writes there; wait for it, or choose another folder",
                self.path.display()
            )),
        }
    }

    /// Makes room for a new run: one that is there is moved into the folder `earlier`, below its time. Where it is now.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn make_room(&self) -> io::Result<Option<PathBuf>> {
        let all = [self.plan(), self.rows(), self.calls(), self.sittings(), self.json(), self.report()];
        let there: Vec<&PathBuf> = all.iter().filter(|path| path.exists()).collect();
        let Some(first) = there.first() else { return Ok(None) };
        let written = fs::metadata(first).and_then(|about| about.modified()).unwrap_or(SystemTime::now());
        let name =
            Timestamp::try_from(written).unwrap_or_default().strftime("%Y-%m-%dT%H-%M-%SZ").to_string();
        let free = |n: usize| if n == 0 { name.clone() } else { format!("{name}-{n}") };
        let paths = (0..).map(|n| self.path.join("earlier").join(free(n)));
        let earlier = paths.into_iter().find(|path| !path.exists()).unwrap_or_default();
        fs::create_dir_all(&earlier)?;
        for path in there {
            fs::rename(path, earlier.join(path.file_name().unwrap_or_default()))?;
        }
        Ok(Some(earlier))
    }

    /// Begins a run: the plan is kept, and rows can be written.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn begin(&self, plan: &Plan) -> io::Result<Rows> {
        whole(&self.plan(), plan.to_toml().map_err(io::Error::other)?)?;
        let file = File::create(self.rows())?;
        Ok(Rows { csv: csv::Writer::from_writer(file) })
    }

    /// Goes on with a run that was interrupted. A last line that was not finished is cut off.
    ///
    /// # Errors
    /// Where the system refuses, or the rows have other columns than ours.
    pub fn go_on(&self) -> io::Result<Rows> {
        let rows = fs::read(self.rows())?;
        let mut example = csv::Writer::from_writer(Vec::new());
        example.serialize(Cell::default())?;
        let example = example.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
        let header = |text: &[u8]| text.split(|&byte| byte == b'\n').next().map(<[u8]>::to_vec);
        if rows.contains(&b'\n') && header(&rows) != header(&example) {
            return Err(io::Error::other(
                "its columns are another version's; start it anew, without --resume",
            ));
        }
        let end = rows.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let file = File::options().append(true).open(self.rows())?;
        file.set_len(end as u64)?;
        Ok(Rows { csv: csv::WriterBuilder::new().has_headers(end == 0).from_writer(file) })
    }

    /// Reads a run.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn read(&self) -> Result<Run, String> {
        if !self.plan().exists() {
            return Err(format!(
                "{}: no results of compare (no plan.toml there); name a folder of --results",
                self.path.display()
            ));
        }
        let plan = Plan::read(&self.plan())?;
        let path = self.rows();
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| named(&error))?;
        let finished = text.rfind('\n').map_or("", |last| &text[..=last]);
        let cells: Result<Vec<Cell>, csv::Error> =
            csv::Reader::from_reader(finished.as_bytes()).deserialize().collect();
        let cells = cells.map_err(|error| named(&error))?;
        Ok(Run { plan, sittings: self.read_sittings(), cells, calls: self.read_calls() })
    }

    /// What was counted so far.
    pub fn read_calls(&self) -> Vec<Counted> {
        let rows = csv::Reader::from_path(self.calls()).map(csv::Reader::into_deserialize);
        rows.map(|rows| rows.filter_map(Result::ok).collect()).unwrap_or_default()
    }

    /// Keeps what was counted.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn write_calls(&self, calls: &[Counted]) -> io::Result<()> {
        let mut rows = csv::Writer::from_writer(Vec::new());
        calls.iter().try_for_each(|row| rows.serialize(row))?;
        whole(&self.calls(), rows.into_inner().unwrap_or_default())
    }

    /// How long all sittings took that have ended.
    pub fn took(&self) -> Duration {
        let took = self.read_sittings().iter().filter_map(|sitting| sitting.took_s).sum();
        Duration::try_from_secs_f64(took).unwrap_or_default()
    }

    fn read_sittings(&self) -> Vec<Sitting> {
        let text = fs::read_to_string(self.sittings()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Notes that a sitting begins.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn sit_down(
        &self,
        command: String,
        server: Option<String>,
        environment: &Environment,
    ) -> io::Result<()> {
        let sitting = Sitting {
            began: Timestamp::now().to_string(),
            took_s: None,
            command,
            server,
            environment: serde_json::to_value(environment)?,
        };
        let mut all = self.read_sittings();
        all.push(sitting);
        self.write_sittings(&all)
    }

    /// Notes that it has ended: how long it took, and what the machine was like meanwhile.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn stand_up(&self, took_s: f64, environment: &Environment) -> io::Result<()> {
        let mut all = self.read_sittings();
        if let Some(last) = all.last_mut() {
            last.took_s = Some(took_s);
            last.environment = serde_json::to_value(environment)?;
        }
        self.write_sittings(&all)
    }

    fn write_sittings(&self, all: &[Sitting]) -> io::Result<()> {
        whole(&self.sittings(), serde_json::to_string_pretty(all)? + "\n")
    }
}

/// Writes a file whole or not at all.
///
/// # Errors
/// Where the system refuses; it names the file.
pub fn whole(path: &Path, text: impl AsRef<[u8]>) -> io::Result<()> {
    Ok(files::replace(path, |file: &mut dyn Write| file.write_all(text.as_ref()))?)
}

/// The raw rows: each is on disk when its cell has ended.
pub struct Rows {
    csv: csv::Writer<File>,
}

impl Rows {
    /// Writes one.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn write(&mut self, cell: &Cell) -> io::Result<()> {
        self.csv.serialize(cell)?;
        self.csv.flush()
    }
}
