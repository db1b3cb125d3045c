//! Whether `compare` can be believed: many full runs each of a server with itself under two names, of one with its
//! equal that was made a tenth slower on purpose, and of a client that is kept from running. `make honesty`.

use std::{
    env,
    error::Error,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::Value;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Our own server as anybody's, so that it may take part twice.
const SERVER: &str = "target/release/echo-server --model event-loop tcp://127.0.0.1:{port}";

/// What a message costs the one and the other: 50 and 55 us of CPU time beside that of the echo.
const WORK: [&str; 2] = ["cpu:50us", "cpu:55us"];

/// How long a cell is, and its warm-up: half of what is usual, which is harder. All else is as usual.
const CELL: [&str; 4] = ["--duration", "200ms", "--warmup", "80ms"];

/// How many pairs of slices tell the true ratio.
const PAIRS: &str = "120";

/// One verdict, of one point.
struct Seen {
    leader: String,
    middle: f64,
    low: f64,
    high: f64,
    told_apart: bool,
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
    equals(folder, runs)?;
    slower(folder, runs)?;
    weak(folder, runs.div_ceil(4))
}

/// The same server under two names, in the usual setting: three points, so three comparisons a run.
fn equals(folder: &Path, runs: usize) -> Outcome<()> {
    println!("### The same server under two names\n");
    println!("| run | 1 connection | 64 connections | 512 connections | told apart |\n|--:|---|---|---|---|");
    let with = [format!("one={SERVER}"), format!("same={SERVER}")];
    let mut silent = 0;
    for run in 1..=runs {
        let seen = compare(folder, run, &with, &[])?;
        let none = !seen.iter().any(|verdict| verdict.told_apart);
        silent += usize::from(none);
        let ratios: Vec<String> =
            seen.iter().map(|it| format!("{:.3} [{:.3}, {:.3}]", it.middle, it.low, it.high)).collect();
        println!("| {run} | {} | {} |", ratios.join(" | "), if none { "no" } else { "**yes**" });
    }
    println!("\nNot told apart in {silent} of {runs} runs.\n");
    Ok(())
}

/// One that does a tenth more for each message; the true ratio is that of a long duet of the two.
fn slower(folder: &Path, runs: usize) -> Outcome<()> {
    let with = [("plain", WORK[0]), ("slower", WORK[1])]
        .map(|(name, work)| format!("{name}={SERVER} --work {work}"));
    let truth = duet(folder, &with)?;
    println!("### A server that does a tenth more for each message ({} and {})\n", WORK[0], WORK[1]);
    println!("The true ratio of their rates, by a duet of {PAIRS} pairs of slices: {truth:.4}\n");
    println!("| run | faster | ratio | told apart | the true one is in it |\n|--:|---|---|---|---|");
    let (mut right, mut held) = (0, 0);
    for run in 1..=runs {
        let seen = compare(folder, run, &with, &["--connections", "64"])?;
        let [Seen { leader, middle, low, high, told_apart }] = &seen[..] else {
            println!("| {run} | - | no verdict | no | no |");
            continue;
        };
        let (is_right, holds) = (*told_apart && leader == "plain", *low <= truth && truth <= *high);
        right += usize::from(is_right);
        held += usize::from(is_right && holds);
        let word = |yes| if yes { "yes" } else { "**no**" };
        println!(
            "| {run} | {leader} | {middle:.3} [{low:.3}, {high:.3}] | {} | {} |",
            word(*told_apart),
            word(holds)
        );
    }
    println!(
        "\nTold apart in the right direction in {right} of {runs} runs, with the true ratio in the interval in {held}.\n"
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
        let args = ["--connections", "64", "--models", "event-loop,thread", "--client-cpus", &last];
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

/// The verdicts of one full run, point by point.
fn compare(folder: &Path, run: usize, with: &[String], more: &[&str]) -> Outcome<Vec<Seen>> {
    verdicts(&results(folder, run, with, &[&["--models", "none"], more].concat())?)
}

fn results(folder: &Path, run: usize, with: &[String], more: &[&str]) -> Outcome<Value> {
    let _ = fs::remove_dir_all(folder);
    let mut client = client(folder, with);
    client.args(["--no-calls", "--seed", &run.to_string()]).args(CELL).args(more);
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
    client.args(["--duet", "plain", "slower", "--connections", "64", "--blocks", PAIRS]);
    client.status()?;
    let duets: Value = serde_json::from_str(&fs::read_to_string(folder.join("duets.json"))?)?;
    if duets["duets"][0]["reason"] != "" {
        return Err(format!("the duet does not count: {}", duets["duets"][0]["reason"]).into());
    }
    let pairs = duets["duets"][0]["pairs"].as_array().ok_or("no pairs")?;
    let rate = |slice: &Value| slice["messages_per_s"].as_f64().unwrap_or(f64::NAN);
    let mut ratios: Vec<f64> = pairs.iter().map(|pair| rate(&pair[0]) / rate(&pair[1])).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().ok_or_else(|| "an empty duet".into())
}
