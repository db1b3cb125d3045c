//! Whether `compare` can be believed: many full runs of a server with itself under two names and with one that was made a twentieth
//! slower on purpose, and of a client that is kept from running. `make honesty`.

use std::{
    env,
    error::Error,
    fmt, fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::Value;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Our own server as anybody's, so that it may take part twice.
const SERVER: &str = "target/release/echo-server --model event-loop tcp://127.0.0.1:{port}";

/// What a message costs beside that of the echo: a twentieth more makes the slower one.
const WORK: &str = "cpu:50us";
const MORE_WORK: &str = "cpu:53us";

/// How long a run may take; it ends earlier where all is decided.
const TIME: &str = "2m";

/// How long the duet is that tells the true ratio: so many blocks.
const TRUTH: &str = "150";

/// One verdict, of one point.
#[derive(Clone)]
struct Seen {
    leader: String,
    other: String,
    middle: f64,
    low: f64,
    high: f64,
    told_apart: bool,
}

impl Seen {
    fn inverse(&self) -> Self {
        let Self { leader, other, middle, low, high, told_apart } = self.clone();
        Self {
            leader: other,
            other: leader,
            middle: 1.0 / middle,
            low: 1.0 / high,
            high: 1.0 / low,
            told_apart,
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} [{:.3}, {:.3}]", self.middle, self.low, self.high)
    }
}

/// Somebody who uses a processor for nothing; it ends with this.
struct Burner(Child);

impl Drop for Burner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Outcome<()> {
    if env::args().any(|argument| argument == "--test") {
        return Ok(()); // it measures, and promises nothing
    }
    let runs = env::var("RUNS").map_or(Ok(20), |text| text.parse())?;
    let folder = Path::new("results/honesty");
    equals_and_a_slower_one(folder, runs)?;
    weak(folder, runs.div_ceil(4))
}

/// One server under two names, and a third that does a twentieth more for each message.
fn equals_and_a_slower_one(folder: &Path, runs: usize) -> Outcome<()> {
    let with = [("plain", WORK), ("same", WORK), ("slower", MORE_WORK)]
        .map(|(name, work)| format!("{name}={SERVER} --work {work}"));
    let truth = duet(folder, &with)?;
    println!(
        "### One server under two names, and one that does more for each message ({WORK} and {MORE_WORK})\n"
    );
    println!("The true ratio of their rates, by a duet of {TRUTH} blocks: {truth:.4}\n");
    println!("| run | blocks | same | told apart | slower | told apart | the true ratio is in it |");
    println!("|--:|--:|---|---|---|---|---|");
    let (mut silent, mut right, mut held) = (0, 0, 0);
    for run in 1..=runs {
        let results =
            results(folder, run, &with, &["--connections", "64", "--models", "none", "--time", TIME])?;
        let blocks = results["cells"].as_array().ok_or("no cells")?.len() / with.len();
        let seen = verdicts(&results)?;
        let of_plain = |other: &str| {
            let is_it = |it: &&Seen| {
                [&it.leader, &it.other].iter().all(|name| ["plain", other].contains(&name.as_str()))
            };
            seen.iter().find(is_it).map(|it| if it.leader == "plain" { it.clone() } else { it.inverse() })
        };
        let (Some(same), Some(slower)) = (of_plain("same"), of_plain("slower")) else {
            println!("| {run} | {blocks} | no verdict | no | no verdict | **no** | **no** |");
            continue;
        };
        let (is_found, holds) =
            (slower.told_apart && slower.middle > 1.0, slower.low <= truth && truth <= slower.high);
        silent += usize::from(!same.told_apart);
        right += usize::from(is_found);
        held += usize::from(holds);
        let word = |yes, wanted| match (yes, yes == wanted) {
            (true, true) => "yes",
            (true, false) => "**yes**",
            (false, true) => "no",
            (false, false) => "**no**",
        };
        println!(
            "| {run} | {blocks} | {same} | {} | {slower} | {} | {} |",
            word(same.told_apart, false),
            word(is_found, true),
            word(holds, true)
        );
    }
    println!(
        "\nThe equals were not told apart in {silent} of {runs} runs; the slower one was found in {right}, with the true ratio \
         in the interval in {held}.\n"
    );
    Ok(())
}

/// Three others want the client's processor.
fn weak(folder: &Path, runs: usize) -> Outcome<()> {
    println!(
        "### A client that is kept from running\n\n| run | cells | void as client-bound | rankings |\n|--:|--:|--:|--:|"
    );
    let last = (thread::available_parallelism()?.get() - 1).to_string();
    for run in 1..=runs {
        let burn = || {
            Command::new("taskset").args(["-c", &last, "sh", "-c", "while :; do :; done"]).spawn().map(Burner)
        };
        let burners = [burn()?, burn()?, burn()?];
        let args = [
            "--connections",
            "64",
            "--models",
            "event-loop,thread",
            "--client-cpus",
            &last,
            "--blocks",
            "10",
        ];
        let results = results(folder, run, &[], &args)?;
        drop(burners);
        let cells = results["cells"].as_array().ok_or("no cells")?;
        let bound = cells
            .iter()
            .filter(|cell| cell["reason"].as_str().unwrap_or_default().starts_with("client-bound"));
        let told = verdicts(&results)?.iter().filter(|verdict| verdict.told_apart).count();
        println!("| {run} | {} | {} | {told} |", cells.len(), bound.count());
    }
    Ok(())
}

fn results(folder: &Path, run: usize, with: &[String], more: &[&str]) -> Outcome<Value> {
    let _ = fs::remove_dir_all(folder);
    let mut client = client(folder, with);
    client.args(["--no-calls", "--seed", &run.to_string()]).args(more);
    client.status()?; // what it says is in its results
    Ok(serde_json::from_str(&fs::read_to_string(folder.join("results.json"))?)?)
}

fn client(folder: &Path, with: &[String]) -> Command {
    let mut client = Command::new("target/release/echo-client");
    client.arg("compare").arg("--results").arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
    for program in with {
        client.args(["--with", program]);
    }
    client
}

fn verdicts(results: &Value) -> Outcome<Vec<Seen>> {
    let groups = results["groups"].as_array().ok_or("no groups")?;
    let all = groups.iter().flat_map(|group| group["verdicts"].as_array().into_iter().flatten());
    let figure = |verdict: &Value, key: &str| verdict["ratio"][key].as_f64().unwrap_or(f64::NAN);
    Ok(all
        .map(|it| Seen {
            leader: it["leader"].as_str().unwrap_or_default().into(),
            other: it["other"].as_str().unwrap_or_default().into(),
            middle: figure(it, "middle"),
            low: figure(it, "low"),
            high: figure(it, "high"),
            told_apart: it["told_apart"] == true,
        })
        .collect())
}

/// How many times the rate of the second the first has.
fn duet(folder: &Path, with: &[String]) -> Outcome<f64> {
    let _ = fs::remove_dir_all(folder);
    let mut client = client(folder, with);
    client.args(["--duet", "plain", "slower", "--connections", "64", "--no-calls", "--blocks", TRUTH]);
    client.status()?;
    let results: Value = serde_json::from_str(&fs::read_to_string(folder.join("results.json"))?)?;
    let figures = results["pairs"][0]["figures"].as_array().ok_or("the duet does not count")?;
    let rate = figures.iter().find(|row| row["name"] == "messages/s").ok_or("no rate")?;
    rate["ratio"]["middle"].as_f64().ok_or_else(|| "too few blocks of the duet count".into())
}
