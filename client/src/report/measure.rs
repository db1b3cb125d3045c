//! What is drawn of a scenario: figures of its cells, its own figure first.

use super::unit::Unit;
use crate::compare::{cell::Cell, scenario::Scenario};

/// A figure of a cell that a chart is made of.
pub struct Measure {
    /// Its name in the chart's.
    pub key: &'static str,
    /// The chart's title.
    pub title: &'static str,
    /// What stands at the axis.
    pub axis: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// Or else less is.
    pub more_is_better: bool,
    /// Whether a busy client makes it a lower bound.
    pub is_a_rate: bool,
    /// Where it is found.
    pub of: fn(&Cell) -> Option<f64>,
}

const THROUGHPUT: Measure = Measure {
    key: "throughput",
    title: "Throughput",
    axis: "answers a second",
    unit: Unit::PerSecond,
    more_is_better: true,
    is_a_rate: true,
    of: |cell| Some(cell.messages_per_s),
};

const HIGHEST_RATE: Measure = Measure {
    key: "rate",
    title: "Throughput",
    axis: "answers a second; of a schedule, the highest rate that was kept",
    of: |cell| Some(cell.highest_rate_per_s.unwrap_or(cell.messages_per_s)),
    ..THROUGHPUT
};

const CONNECTIONS: Measure = Measure {
    key: "connections",
    title: "Connections",
    axis: "opened, served once and closed a second",
    of: |cell| cell.connections_per_s,
    ..THROUGHPUT
};

const CPU: Measure = Measure {
    key: "cpu",
    title: "CPU per message",
    axis: "the server’s CPU time an answer",
    unit: Unit::Time,
    more_is_better: false,
    is_a_rate: false,
    of: |cell| Some(cell.server_cpu_us_per_message),
};

const CPU_OF_A_CONNECTION: Measure = Measure {
    title: "CPU per connection",
    axis: "the server’s CPU time a connection",
    of: |cell| cell.server_cpu_us_per_connection,
    ..CPU
};

const P99: Measure = Measure {
    key: "p99",
    title: "Latency, p99",
    axis: "99 % of the answers took no longer",
    of: |cell| cell.p99_us,
    ..CPU
};

const MEMORY_EACH: Measure = Measure {
    key: "memory",
    title: "Memory per connection",
    axis: "what came with the connections, for each (PSS)",
    unit: Unit::Bytes,
    of: |cell| Some(cell.memory_of_each()),
    ..CPU
};

const MEMORY: Measure = Measure {
    key: "memory",
    title: "Memory",
    axis: "of all the server’s processes (PSS)",
    unit: Unit::Bytes,
    of: |cell| Some(cell.peak_pss_bytes as f64),
    ..CPU
};

const FAIRNESS: Measure = Measure {
    key: "jain",
    title: "Fairness to clients",
    axis: "Jain’s index over the connections",
    unit: Unit::Number,
    is_a_rate: false,
    of: |cell| Some(cell.jain),
    ..THROUGHPUT
};

const FAIRNESS_TO_WORKERS: Measure = Measure {
    key: "jain-workers",
    title: "Fairness to workers",
    axis: "Jain’s index over the server’s workers",
    of: |cell| cell.jain_workers,
    ..FAIRNESS
};

const LOSS: Measure = Measure {
    key: "loss",
    title: "Loss",
    axis: "datagrams that did not come back in time",
    unit: Unit::Share,
    of: |cell| Some(cell.loss()),
    ..CPU
};

/// What is drawn of a scenario. The first is the figure that is compared.
pub fn measures(scenario: Scenario) -> &'static [Measure] {
    match scenario {
        Scenario::Echo => &[THROUGHPUT, P99, CPU, MEMORY_EACH],
        Scenario::Cpu | Scenario::Sleep => &[THROUGHPUT, P99, CPU, MEMORY],
        Scenario::Churn => &[CPU_OF_A_CONNECTION, CONNECTIONS, P99, MEMORY],
        Scenario::Idle => &[MEMORY_EACH, P99, CPU],
        Scenario::Stall => &[P99, CPU],
        Scenario::Fair => &[FAIRNESS, THROUGHPUT, P99, FAIRNESS_TO_WORKERS],
        Scenario::Overload => &[HIGHEST_RATE, P99, CPU],
        Scenario::Udp => &[CPU, THROUGHPUT, P99, LOSS, MEMORY],
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::compare::scenario::More;

    #[test]
    fn the_first_measure_of_a_scenario_is_the_figure_that_is_compared() {
        let cell = Cell {
            messages_per_s: 1.0,
            server_cpu_us_per_connection: Some(2.0),
            server_cpu_us_per_message: 3.0,
            bytes_per_connection: 4.0,
            p99_us: Some(5.0),
            jain: 0.6,
            highest_rate_per_s: Some(7.0),
            ..Cell::default()
        };
        for &scenario in Scenario::value_variants() {
            let (first, figure) = (&measures(scenario)[0], &scenario.character().figure);
            assert_eq!((first.of)(&cell), Some((figure.of)(&cell)), "{}", scenario.name());
            assert_eq!(
                first.more_is_better,
                matches!(figure.more, More::Better { .. }),
                "{}",
                scenario.name()
            );
        }
    }
}
