//! What is kept of a run: the files.

use std::{
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use files::Output;
use hdrhistogram::{
    Histogram,
    serialization::{
        Deserializer, Serializer, V2DeflateSerializer,
        interval_log::{IntervalLogWriterBuilder, Tag},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Percentiles, Run, Summary};
use crate::{
    cmd::{Failure, print},
    load::{Interval, Kept, Punctuality, Rank, Second, Window, histogram},
};

/// What is written of a result, and where.
#[derive(Debug, Args)]
pub struct Files {
    /// Write the result as JSON; to -, on stdout: in one line, and nothing else is printed there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the measured time as CSV, a line a second
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Print the result as one line of name=value words
    #[arg(long)]
    line: bool,

    /// Write the latencies as an HdrHistogram log (V2), in nanoseconds, an interval a second; of an open loop also
    /// those tagged service and send-lateness
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,
}

/// Files that are ready to be written.
pub struct Opened {
    json: Option<Output>,
    /// Whether the JSON is what is printed.
    is_json_printed: bool,
    csv: Option<Output>,
    hdr: Option<Output>,
    line: bool,
}

/// What stands for a rank's number in the name of a file.
const RANK: &str = "{rank}";

/// The name that stands for stdout.
const STDOUT: &str = "-";

impl Files {
    /// Whether the JSON goes to stdout, where nothing else is printed then.
    pub fn is_json_printed(&self) -> bool {
        self.json.as_ref().is_some_and(|path| path == STDOUT)
    }

    /// The option whose file several ranks would write, since its name is the same for all.
    pub fn shared(&self) -> Option<&'static str> {
        let files = [("--json", &self.json), ("--csv", &self.csv), ("--hdr", &self.hdr)];
        let is_shared = |path: &PathBuf| path != STDOUT && !path.to_string_lossy().contains(RANK);
        files.into_iter().find(|(_, path)| path.as_ref().is_some_and(is_shared)).map(|(name, _)| name)
    }

    /// Looks at the files of a rank: before the work, so that a wrong path does not cost it.
    ///
    /// # Errors
    /// Which one cannot be written.
    pub fn open(&self, rank: Rank) -> Result<Opened, Failure> {
        for (option, path) in [("--csv", &self.csv), ("--hdr", &self.hdr)] {
            if path.as_ref().is_some_and(|path| path == STDOUT) {
                return Err(Failure::Usage(format!("{option}: - is for --json; name a file")));
            }
        }
        let is_json_printed = self.is_json_printed();
        if is_json_printed && self.line {
            return Err(Failure::Usage("--line and --json - would both be printed; choose one".into()));
        }
        let named = |path: &Option<PathBuf>| {
            let rank = rank.rank.to_string();
            let name = |path: &PathBuf| arguments::filled(path.as_os_str(), RANK, rank.as_ref());
            path.as_ref().map(|path| PathBuf::from(name(path)))
        };
        let json = named(&self.json).filter(|_| !is_json_printed);
        let paths = [("--json", json), ("--csv", named(&self.csv)), ("--hdr", named(&self.hdr))];
        let given: Vec<&PathBuf> = paths.iter().filter_map(|(_, path)| path.as_ref()).collect();
        if let Some(path) =
            (1..given.len()).find_map(|n| given[..n].iter().find(|path| files::are_one(path, given[n])))
        {
            return Err(Failure::Usage(format!(
                "{}: two results cannot be written to one file",
                path.display()
            )));
        }
        let open = |(option, path): (&str, Option<PathBuf>)| {
            let opened = path.map(|path| Output::open(&path)).transpose();
            opened.map_err(|error| Failure::Usage(format!("{option} {error}")))
        };
        let [json, csv, hdr] = paths.map(open);
        Ok(Opened { json: json?, is_json_printed, csv: csv?, hdr: hdr?, line: self.line })
    }
}

impl Opened {
    /// Writes the result, and prints it. One of a server that said nothing takes no other's place.
    ///
    /// # Errors
    /// Where a file takes no more.
    pub fn write(self, result: &Summary, run: &Run) -> Result<(), Failure> {
        type Write<'w> = &'w dyn Fn(&mut dyn io::Write) -> io::Result<()>;
        let files: [(&str, &Option<Output>, Write<'_>); 3] = [
            ("--json", &self.json, &|file| json(file, result)),
            ("--csv", &self.csv, &|file| csv(file, &run.window)),
            ("--hdr", &self.hdr, &|file| hdr(file, &run.window, run.since)),
        ];
        let files =
            files.into_iter().filter_map(|(option, file, write)| Some((option, file.as_ref()?, write)));
        let (stay, to_write): (Vec<_>, Vec<_>) =
            files.partition(|(_, file, _)| run.is_of_nobody() && file.holds_something());
        let written = to_write.into_iter().map(|(option, file, write)| {
            file.write(write).map_err(|error| Failure::Harness(format!("{option} {error}")))
        });
        // One that takes no more costs none of the others.
        let written: Vec<_> = written.collect();
        if !stay.is_empty() {
            let stay: Vec<_> = stay.iter().map(|(_, file, _)| file.path().display().to_string()).collect();
            eprintln!(
                "echo-client: no message was answered; the earlier result stays in {}",
                stay.join(", ")
            );
        }
        let printed = print(&match () {
            () if self.is_json_printed => format!("{}\n", json!(result)),
            () if self.line => result.line(),
            () => result.for_people(run),
        });
        written.into_iter().chain([printed]).collect()
    }
}

/// The result, for programs.
fn json(mut file: &mut dyn io::Write, result: &Summary) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut file, result)?;
    file.write_all(b"\n")
}

/// A second of the measured time, or the last part of one: a line of CSV, and most of an entry of the JSON's series.
#[derive(Clone, Serialize, Deserialize)]
pub struct Row {
    second: usize,
    /// Since the measured time began; of a staircase, with the warm-ups of later steps.
    from_s: f64,
    length_s: f64,
    messages: u64,
    messages_per_s: f64,
    bytes: u64,
    recorded: u64,
    p50_us: Option<f64>,
    p90_us: Option<f64>,
    p99_us: Option<f64>,
    p999_us: Option<f64>,
    max_us: Option<f64>,
    /// In an open loop.
    due: Option<u64>,
    dropped: Option<u64>,
    send_lateness_p99_us: Option<f64>,
    /// The messages that were given up in it, and rank behind those that were recorded.
    #[serde(default)]
    lost_in_flight: u64,
}

/// A second of the JSON's series.
#[derive(Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Its figures.
    #[serde(flatten)]
    pub row: Row,
    /// What they are of.
    pub histograms: Histograms,
}

impl Entry {
    /// Of the seconds of a series.
    pub fn all(series: &[Second]) -> impl Iterator<Item = Self> {
        Row::all(series)
            .zip(series)
            .map(|(row, second)| Self { row, histograms: Histograms::of(&second.interval()) })
    }

    /// The second.
    ///
    /// # Errors
    /// What is no histogram of ours, or no time.
    pub fn second(&self) -> Result<Second, String> {
        let Row { from_s, length_s, messages, bytes, due, dropped, lost_in_flight, .. } = self.row;
        let seen = self.histograms.interval(messages, bytes, due, dropped)?;
        let seen = Interval { lost_in_flight, ..seen };
        Ok(Second::of(&seen, seconds(from_s)?, seconds(length_s)?))
    }
}

impl Row {
    fn all(series: &[Second]) -> impl Iterator<Item = Self> {
        series.iter().enumerate().map(|(n, second)| Self::of(n, second))
    }

    fn of(number: usize, second: &Second) -> Self {
        let length_s = second.length.as_secs_f64();
        let latency = Percentiles::with_lost(&second.latency.histogram(), second.lost_in_flight);
        let kept = second.kept.as_ref();
        Self {
            second: number,
            from_s: second.begin.as_secs_f64(),
            length_s,
            messages: second.messages,
            messages_per_s: second.messages as f64 / length_s.max(1e-9),
            bytes: second.bytes,
            recorded: latency.count,
            p50_us: latency.p50,
            p90_us: latency.p90,
            p99_us: latency.p99,
            p999_us: latency.p999,
            max_us: latency.max,
            due: kept.map(|kept| kept.due),
            dropped: kept.map(|kept| kept.dropped),
            send_lateness_p99_us: kept.and_then(|kept| Percentiles::of(&kept.lateness.histogram()).p99),
            lost_in_flight: second.lost_in_flight,
        }
    }
}

/// The measured time, a line a second.
fn csv(file: &mut dyn io::Write, window: &Window) -> io::Result<()> {
    let mut lines = csv::Writer::from_writer(file);
    Row::all(&window.series).try_for_each(|row| lines.serialize(row))?;
    lines.flush()
}

/// Histograms in nanoseconds, as HdrHistogram has them (V2, deflated), in base64.
#[derive(Clone, Serialize, Deserialize)]
pub struct Histograms {
    /// From when each message was due; in a closed loop, from when it left.
    pub latency: String,
    /// In an open loop: from when each left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// In an open loop: how late each left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_lateness: Option<String>,
    /// Of a whole run: how long connections took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<String>,
}

impl Histograms {
    /// Of what was seen.
    pub fn of(seen: &Interval) -> Self {
        let kept = seen.punctuality.as_ref();
        Self {
            latency: encoded(&seen.latency),
            service: kept.map(|kept| encoded(&kept.service)),
            send_lateness: kept.map(|kept| encoded(&kept.lateness)),
            connect: None,
        }
    }

    /// What was seen, as these histograms and counters say.
    ///
    /// # Errors
    /// What is no histogram of ours.
    pub fn interval(
        &self,
        messages: u64,
        bytes: u64,
        due: Option<u64>,
        dropped: Option<u64>,
    ) -> Result<Interval, String> {
        let punctuality = match (due, dropped, &self.send_lateness, &self.service) {
            (Some(due), Some(dropped), Some(lateness), Some(service)) => {
                let (lateness, service) = (decoded(lateness)?, decoded(service)?);
                Some(Punctuality { due, dropped, lateness, service })
            }
            _ => None,
        };
        Ok(Interval { messages, bytes, latency: decoded(&self.latency)?, punctuality, ..Interval::new() })
    }
}

/// A histogram as HdrHistogram has it (V2, deflated), in base64: what stands in a log's line.
pub fn encoded(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    written.unwrap_or_else(|error| unreachable!("it is written to memory: {error}"));
    STANDARD.encode(bytes)
}

/// The histogram that was [`encoded`].
///
/// # Errors
/// What it is instead.
pub fn decoded(text: &str) -> Result<Histogram<u64>, String> {
    let bytes = STANDARD.decode(text).map_err(|error| format!("a histogram: {error}"))?;
    let read: Histogram<u64> = Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| format!("a histogram: {error}"))?;
    let ours = histogram();
    let form = |histogram: &Histogram<u64>| (histogram.low(), histogram.high(), histogram.sigfig());
    match form(&read) == form(&ours) {
        true => Ok(read),
        false => Err("a histogram with other bounds".into()),
    }
}

/// A time of a result.
///
/// # Errors
/// Where it is none.
pub fn seconds(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{seconds} s is no time"))
}

/// An interval a second, in the format of HdrHistogram's log processors.
fn hdr(mut file: &mut dyn io::Write, window: &Window, since: SystemTime) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("latencies in nanoseconds").with_start_time(since).with_base_time(since);
    // Divides nanoseconds by this for the line's readable maximum, which is in milliseconds.
    builder.with_max_value_divisor(1e6);
    let mut log = builder.begin_log_with(&mut file, &mut serializer)?;
    for Second { begin, length, latency, kept, .. } in &window.series {
        let mut write = |histogram: &Histogram<u64>, tag: Option<Tag<'static>>| {
            let written = log.write_histogram(histogram, *begin, *length, tag);
            written.map_err(|error| io::Error::other(format!("{error:?}")))
        };
        write(&latency.histogram(), None)?;
        if let Some(Kept { lateness, service, .. }) = kept {
            write(&service.histogram(), Tag::new("service"))?;
            write(&lateness.histogram(), Tag::new("send-lateness"))?;
        }
    }
    Ok(())
}
