//! What is kept of a run: the files.

use std::{
    fs::File,
    io,
    time::{Duration, SystemTime},
};

use hdrhistogram::serialization::{V2DeflateSerializer, interval_log::IntervalLogWriterBuilder};

use super::Summary;
use crate::load::Window;

/// The result, for programs.
///
/// # Errors
/// Where the file takes no more.
pub fn json(mut file: File, result: &Summary) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut file, result)?;
    io::Write::write_all(&mut file, b"\n")
}

/// One interval, the measured time, in the format of HdrHistogram's log processors.
///
/// # Errors
/// Where the file takes no more.
pub fn hdr(mut file: File, window: &Window, began: SystemTime) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("latencies in nanoseconds").with_start_time(began).with_base_time(began);
    // Divides nanoseconds by this for the line's readable maximum, which is in milliseconds.
    builder.with_max_value_divisor(1e6);
    let mut log = builder.begin_log_with(&mut file, &mut serializer)?;
    log.write_histogram(&window.latency, Duration::ZERO, window.measured, None)
        .map_err(|error| io::Error::other(format!("{error:?}")))
}
