//! How the figures were made, for a page; METHODOLOGY.md has all of it.

use serde_json::Value;

use crate::compare::results::Run;

/// How a figure comes about, a paragraph each.
pub const METHOD: [&str; 4] = [
    "A cell is one contender in one block at one point of a scenario. In a block all contenders of a point are started afresh \
     and take turns: short slices of load, in an order drawn anew for each round, so that what the machine does it does to all. Where \
     a scenario does not allow that, each has the machine for itself, one right after the other.",
    "A figure is the median over the blocks, and its interval holds 95 % of the medians of blocks drawn anew with \
     replacement (the percentile bootstrap). It says how steady a figure is. Who is told apart is another question.",
    "Two contenders are compared by the ratios of their figures within each block: the mean of the logarithms, jumps of the machine \
     drawn in, and its interval by Student's t. All comparisons of the run are judged together: an interval is as wide as their number \
     demands, so that one run in twenty at most tells equals apart. Where it holds 1, or where there are fewer than three blocks, they \
     are not told apart, whatever their medians say.",
    "A cell counts only if every echo was right, every connection was there and served, the server ended in order, and \
     the client was not what limited it. Else its reason stands where its figure would.",
];

/// What the figures do not say.
pub const BIASES: [&str; 5] = [
    "Client and server share one machine, its memory and its caches; over a network much of the difference disappears \
     behind the wire.",
    "Loopback has no losses, no distance and no network card; a message costs the system calls and little else.",
    "In a closed loop a slow server is asked less often, so its percentiles are those of the messages that were sent.",
    "An echo is hardly any work, so what is compared is the price of concurrency itself; work for each message makes \
     models more alike, or tells others apart.",
    "Virtual machines drift: compare ratios within a run, and single figures of different runs with care.",
];

/// Where a run was measured, at its last sitting; null where nothing tells of it.
pub fn environment(run: &Run) -> Value {
    run.sittings.last().map_or(Value::Null, |sitting| sitting.environment.clone())
}

/// The machine in a line.
pub fn machine(environment: &Value) -> String {
    let word = |name: &str| environment[name].as_str().map(str::to_owned);
    let cpus = environment["cpus"].as_u64().map(|n| format!("{n} CPUs"));
    [word("cpu_model"), cpus, word("kernel")].into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// A value as a person writes it.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{name} {}", plain(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}
