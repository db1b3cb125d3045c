//! What is kept of a run: the files.

use std::{fs::File, io, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{
        Serializer, V2DeflateSerializer,
        interval_log::{IntervalLogWriterBuilder, Tag},
    },
};
use serde::Serialize;

use super::{Percentiles, Summary};
use crate::load::{Kept, Second, Window};

/// The result, for programs.
///
/// # Errors
/// Where the file takes no more.
pub fn json(mut file: File, result: &Summary<'_>) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut file, result)?;
    io::Write::write_all(&mut file, b"\n")
}

/// A second of the measured time, or the last part of one: a line of CSV, an entry of the JSON's series.
#[derive(Serialize)]
pub struct Row {
    second: usize,
    /// Since the measured time began; of a staircase, with the warm-ups of later steps.
    from_s: f64,
    length_s: f64,
    messages: u64,
    messages_per_s: f64,
    bytes: u64,
    recorded: u64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    /// In an open loop.
    due: Option<u64>,
    dropped: Option<u64>,
    send_lateness_p99_us: Option<f64>,
}

impl Row {
    /// Of the seconds of a series.
    pub fn all(series: &[Second]) -> impl Iterator<Item = Self> {
        series.iter().enumerate().map(|(n, second)| Self::of(n, second))
    }

    fn of(number: usize, second: &Second) -> Self {
        let length_s = second.length.as_secs_f64();
        let latency = Percentiles::of(&second.latency.histogram());
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
            send_lateness_p99_us: kept.map(|kept| Percentiles::of(&kept.lateness.histogram()).p99),
        }
    }
}

/// The measured time, a line a second.
///
/// # Errors
/// Where the file takes no more.
pub fn csv(file: File, window: &Window) -> io::Result<()> {
    let mut lines = csv::Writer::from_writer(file);
    Row::all(&window.series).try_for_each(|row| lines.serialize(row))?;
    lines.flush()
}

/// A histogram as HdrHistogram has it (V2, deflated), in base64: what stands in a log's line.
pub fn encoded(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    written.unwrap_or_else(|error| unreachable!("it is written to memory: {error}"));
    STANDARD.encode(bytes)
}

/// An interval a second, in the format of HdrHistogram's log processors.
///
/// # Errors
/// Where the file takes no more.
pub fn hdr(mut file: File, window: &Window, since: SystemTime) -> io::Result<()> {
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
