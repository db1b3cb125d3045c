//! `check`: looks for the classic bugs of an echo server, whoever wrote it, shows what was seen, and grades.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{
    Args, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};
use nix::unistd::{AccessFlags, User, access, geteuid};

use super::{Failure, INTERRUPTED, Outcome, print};
use crate::{
    check::{
        self, CHECKS,
        examinee::Confinement,
        examiner::{Examiner, TimeScale},
        target::{Pattern, Source, Target},
        words::Language,
    },
    grade::{
        Entry, FORMS, Form, Sheet,
        file::GradeFile,
        rubric::{Marks, Rubric},
    },
    interrupt,
    progress::Progress,
    server,
};

/// What stands below the options in the help.
const AFTERWARDS: &str = "\
Give an endpoint; a process as well; or a command, and there is a fresh server for each check: more is seen each time. \
In a command, and in endpoints before it, {port} stands for a free port.

Examples:
  echo-client check tcp://127.0.0.1:7007
  echo-client check --pid 4711 tcp://127.0.0.1:7007
  echo-client check -- ./server {port}
  echo-client check --only bytes,half-close -- python3 server.py {port}
  echo-client check udp://127.0.0.1:{port} -- ./server {port}
  echo-client check --rubric lab.toml --format junit=lab.xml -- ./server {port}

Exit status: 0 nothing failed, 1 something failed or was not run, 2 the command line or the rubric is wrong, 3 the \
examiner failed, which is no fault of the server's, 130 interrupted: what was examined until then is written.";

/// The forms, for the help.
fn forms() -> String {
    let form = |form: &Form| format!("  {}: {}", form.name, form.summary);
    let forms: Vec<String> = FORMS.iter().map(form).collect();
    format!(
        "How the result is told, and into which file; several times for several, at most one of them to stdout. Files \
         are written anew after each check\n{}",
        forms.join("\n")
    )
}

/// Look for the classic bugs of an echo server, and grade it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = AFTERWARDS)]
pub struct Check {
    #[command(subcommand)]
    explain: Option<Other>,

    /// Where it listens, like tcp://127.0.0.1:7007 (tcp:// may be left out); for a command, like udp://127.0.0.1:{port}
    /// [default for a command: tcp://127.0.0.1:{port}]
    #[arg(value_name = "ENDPOINT")]
    #[allow(rustdoc::broken_intra_doc_links, reason = "an address is no link")]
    endpoints: Vec<Pattern>,

    /// The server's process, where it runs on this machine: its descriptors, threads and children are looked at too
    #[arg(long, value_name = "PID", conflicts_with = "command", requires = "endpoints")]
    pid: Option<u32>,

    /// Make these checks alone
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    only: Vec<String>,

    /// Do not make these
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    skip: Vec<String>,

    /// List the checks, and what each needs
    #[arg(long)]
    list: bool,

    /// Which checks: quick is over in 25 s
    #[arg(long, value_enum, default_value_t = Profile::Full)]
    profile: Profile,

    /// By how much durations are stretched: auto asks how slow this machine is just now
    #[arg(long, value_name = "auto|FACTOR", default_value = "auto", value_parser = scale)]
    time_scale: TimeScale,

    /// A server that serves one client after the other is not blamed for that
    #[arg(long, value_name = "WHAT")]
    expect: Option<Expected>,

    #[arg(
        long = "format",
        value_name = "FORM[=FILE]",
        help = forms(),
        value_parser = OsStringValueParser::new().try_map(|text| Told::read(&text))
    )]
    formats: Vec<Told>,

    /// What checks are worth, and which count: TOML
    #[arg(long, value_name = "FILE")]
    rubric: Option<PathBuf>,

    /// Of all that is random [default: chosen, and told]
    #[arg(long, value_name = "N", env = "ECHO_SEED")]
    seed: Option<u64>,

    /// In which language it is told [default: the environment's]
    #[arg(long, value_enum, global = true)]
    lang: Option<Language>,

    /// Run the server as this user
    #[arg(long, value_name = "NAME", requires = "command")]
    user: Option<String>,

    /// How much memory each of the server's processes may map
    #[arg(long, value_name = "BYTES", requires = "command", value_parser = arguments::bytes)]
    memory: Option<usize>,

    /// How many processes and threads its user may have
    #[arg(long, value_name = "N", requires = "command")]
    processes: Option<u64>,

    /// How the server is started, like ./server {port}
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Say what a check looks for: the bug, how it is provoked, what to read
    Explain {
        /// The check, like half-close
        id: String,
    },
}

/// Which checks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// Those that are over in a moment.
    Quick,
    /// All.
    Full,
}

/// What a server may be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Expected {
    /// One client after the other.
    Iterative,
}

/// A form, and the file that it goes to, if not stdout.
#[derive(Clone, Debug)]
struct Told {
    form: &'static Form,
    file: Option<PathBuf>,
}

impl Told {
    /// Reads `FORM` or `FORM=FILE`, where the file's name may be any bytes.
    fn read(text: &OsString) -> Result<Self, String> {
        let mut parts = text.as_bytes().splitn(2, |byte| *byte == b'=').map(OsStr::from_bytes);
        let (name, file) = (parts.next().unwrap_or_default(), parts.next().map(PathBuf::from));
        let form = FORMS.iter().find(|form| form.name == name).ok_or_else(|| {
            let names: Vec<&str> = FORMS.iter().map(|form| form.name).collect();
            format!("there are {}", names.join(", "))
        })?;
        let name = form.name;
        if file.as_ref().is_some_and(|file: &PathBuf| file.as_os_str().is_empty()) {
            return Err(format!("into which file? Write it like {name}=FILE"));
        }
        Ok(Self { form, file })
    }
}

impl Check {
    /// Makes the checks; the exit status is 0 where nothing failed, 1 where something did, 3 where we did, 130 after ^C.
    pub fn run(self) -> Outcome {
        let language = self.lang.unwrap_or_else(Language::of_environment);
        if let Some(Other::Explain { id }) = &self.explain {
            let check = check::named(id).map_err(Failure::Usage)?;
            print(check.explanation.told(language))?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.list {
            print(&crate::grade::people::list(CHECKS, language))?;
            return Ok(ExitCode::SUCCESS);
        }
        let target = Target::new(self.endpoints.clone(), self.source()?).map_err(Failure::Usage)?;
        let mut sheet = self.sheet(&target, language)?;
        let files = self.files()?;
        for file in &files {
            file.write(&sheet).map_err(Failure::Usage)?;
        }
        target.is_there().map_err(Failure::Usage)?;
        // From here on whatever goes wrong is our fault, or the machine's, and neither the user's nor the server's.
        let examined = self.examine(&mut sheet, &target, &files);
        let told = print(&(self.printed().write)(&sheet));
        let is_interrupted = told.and(examined).map_err(|failure| Failure::Harness(failure.to_string()))?;
        Ok(ExitCode::from(if is_interrupted { INTERRUPTED } else { sheet.exit_status() }))
    }

    /// Makes every check on the sheet, until a signal says otherwise. After each the files are written anew; one that
    /// cannot be written costs neither the others nor what is printed. Returns whether a signal did.
    fn examine(&self, sheet: &mut Sheet, target: &Target, files: &[GradeFile]) -> Result<bool, Failure> {
        let stop = interrupt::on_signals(server::kill_all).map_err(Failure::io("signals"))?;
        let mut examiner = Examiner::new(target, self.time_scale, sheet.seed, self.expect.is_some());
        let progress = Progress::of_steps("check", sheet.entries.len() as u64);
        let mut written = Ok(());
        for n in 0..sheet.entries.len() {
            let check = sheet.entries[n].check;
            progress.doing(check.id.into());
            let record = examiner.examine(check, &stop);
            if interrupt::requested(&stop) {
                break;
            }
            sheet.entries[n].enter(record);
            for file in files {
                written = written.and(file.write(sheet).map_err(Failure::Harness));
            }
            progress.steps(1);
        }
        progress.end();
        written.map(|()| interrupt::requested(&stop))
    }

    fn source(&self) -> Result<Source, Failure> {
        let Some(program) = self.command.first() else {
            return Ok(self.pid.map_or(Source::Address, Source::Pid));
        };
        if let Err(why) = look_for(program) {
            return Err(Failure::Usage(format!("{program}: {why}")));
        }
        let confinement = Confinement {
            memory: self.memory.map(|bytes| bytes as u64),
            processes: self.processes,
            user: self.user.as_deref().map(user).transpose()?,
            ..Confinement::default()
        };
        Ok(Source::Command(self.command.clone(), confinement))
    }

    /// The sheet with every check that is to be made, none of which has been.
    fn sheet(&self, target: &Target, language: Language) -> Result<Sheet, Failure> {
        for id in self.only.iter().chain(&self.skip) {
            check::named(id).map_err(Failure::Usage)?;
        }
        let rubric = self.rubric.as_deref().map(read).transpose()?;
        let is_wanted = |check: &&&'static check::Check| {
            let is_named = |ids: &[String]| ids.iter().any(|id| id == check.id);
            target.serves(check.transport)
                && (self.only.is_empty() || is_named(&self.only))
                && !is_named(&self.skip)
                && (self.profile == Profile::Full || check.is_quick)
        };
        let is_unserved = |check: &&check::Check| !target.serves(check.transport);
        if let Some(check) = rubric.iter().flat_map(Rubric::checks).find(is_unserved) {
            let (id, transport) = (check.id, check.transport);
            let sentence =
                format!("the rubric counts {id}; give an endpoint of {transport} too, or leave it out");
            return Err(Failure::Usage(sentence));
        }
        let entry = |check: &&'static check::Check| {
            let marks = rubric.as_ref().map_or(Some(Marks::usual(check)), |rubric| rubric.marks(check))?;
            Some(Entry::new(check, marks))
        };
        let entries: Vec<Entry> = CHECKS.iter().filter(is_wanted).filter_map(entry).collect();
        if entries.is_empty() {
            return Err(Failure::Usage("no check is left to make; check --list shows them".into()));
        }
        let title = rubric.and_then(|rubric| rubric.title).unwrap_or_else(|| target.name());
        let seed = self.seed.unwrap_or_else(|| rand::random_range(0..1 << 32));
        Ok(Sheet::new(&title, &target.name(), seed, language, entries))
    }

    /// The files in which the result is told.
    fn files(&self) -> Result<Vec<GradeFile>, Failure> {
        let usage = |sentence: &str| Err(Failure::Usage(format!("--format: {sentence}")));
        if self.formats.iter().filter(|told| told.file.is_none()).count() > 1 {
            return usage("two go to stdout; give one of them a file, like tap=out.tap");
        }
        let opened =
            self.formats.iter().filter_map(|Told { form, file }| Some(GradeFile::open(form, file.as_ref()?)));
        let files: Vec<GradeFile> = opened.collect::<Result<_, _>>().map_err(Failure::Usage)?;
        let are_one = |n: usize| files[..n].iter().any(|file| files::are_one(file.path(), files[n].path()));
        if (1..files.len()).any(are_one) { usage("one file holds one result") } else { Ok(files) }
    }

    /// The form that is printed: people's, unless another is to go to stdout.
    fn printed(&self) -> &'static Form {
        self.formats.iter().find(|told| told.file.is_none()).map_or(&FORMS[0], |told| told.form)
    }
}

fn read(path: &Path) -> Result<Rubric, Failure> {
    let usage = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| usage(&error))?;
    Rubric::read(&text).map_err(|error| usage(&error))
}

/// Looks for a program, here or in PATH (execvp(3)).
///
/// # Errors
/// Why it cannot be run, and what to do.
fn look_for(name: &str) -> Result<(), String> {
    let may_run = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_here = Path::new(name).is_file();
    match name.contains('/') {
        true if may_run(Path::new(name)) => Ok(()),
        true if is_here => {
            Err(format!("it may not be run: chmod +x {name}, or name its interpreter before it"))
        }
        false if std::env::split_paths(&path).any(|folder| may_run(&folder.join(name))) => Ok(()),
        false if is_here => Err(format!("PATH has no such program; that of this folder is ./{name}")),
        _ => Err("no such program; build it, or give its path".into()),
    }
}

fn user(name: &str) -> Result<(u32, u32), Failure> {
    let found = User::from_name(name).ok().flatten();
    let user = found.ok_or_else(|| Failure::Usage(format!("--user: there is no {name}")))?;
    if user.uid != geteuid() && !geteuid().is_root() {
        return Err(Failure::Usage("--user: only root may run a server as somebody else".into()));
    }
    Ok((user.uid.as_raw(), user.gid.as_raw()))
}

fn scale(text: &str) -> Result<TimeScale, String> {
    match text.parse::<f64>() {
        _ if text == "auto" => Ok(TimeScale::Auto),
        Ok(factor) if (0.1..=100.0).contains(&factor) => Ok(TimeScale::By(factor)),
        _ => Err("write auto, or a factor from 0.1 to 100".into()),
    }
}
