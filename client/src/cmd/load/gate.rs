//! Gates: what a result may not be, where a script is to stop at it.

use std::str::FromStr;

use serde_json::Value;

use super::us;

/// A condition under which a load fails, like `p99>10ms`: any figure of the JSON, by its path, and a bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    text: String,
    /// The path to the figure in the JSON, with dots.
    figure: String,
    fails_above: bool,
    bound: f64,
}

/// Shorter names of what is asked for most.
const SHORT: [(&str, &str); 8] = [
    ("highest", "highest_rate.per_s"),
    ("p50", "latency_us.p50"),
    ("p90", "latency_us.p90"),
    ("p99", "latency_us.p99"),
    ("p99.9", "latency_us.p999"),
    ("p99.99", "latency_us.p9999"),
    ("max", "latency_us.max"),
    ("mean", "latency_us.mean"),
];

/// Where figures stand in the JSON; what lies below is looked up when there is a result.
const PLACES: [&str; 15] = [
    "latency_us",
    "service_us",
    "send_lateness_us",
    "connect_us",
    "messages",
    "messages_per_s",
    "bytes_per_s",
    "connections_per_s",
    "highest_rate",
    "departures",
    "udp",
    "errors",
    "connections",
    "client_cpu_us_per_message",
    "client_busiest_thread",
];

impl FromStr for Gate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            || format!("{text:?}; write it like 'p99>10ms', 'messages_per_s<50000' or 'errors.reset>0'");
        let at = text.find(['<', '>']).ok_or_else(form)?;
        let (name, bound) = (text[..at].trim(), text[at + 1..].trim());
        let long = SHORT.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long);
        if !PLACES.contains(&long.split('.').next().unwrap_or_default()) {
            let names: Vec<&str> = SHORT.iter().map(|(short, _)| *short).chain(PLACES).collect();
            return Err(format!("there is no figure {name:?}; there are {}", names.join(", ")));
        }
        let bound = match (bound.parse::<f64>(), is_time(long)) {
            (Ok(number), _) if number.is_finite() => number,
            (_, true) => arguments::duration(bound).map_err(|_| form())?.as_secs_f64() * 1e6,
            _ => return Err(form()),
        };
        Ok(Self { text: text.into(), figure: long.into(), fails_above: &text[at..=at] == ">", bound })
    }
}

/// Whether a figure is a time, in microseconds.
fn is_time(figure: &str) -> bool {
    figure.split('.').next().is_some_and(|place| place.ends_with("_us"))
}

impl Gate {
    /// What is wrong with a result as JSON, and by how much; nothing where it may be so. What is not known is wrong.
    pub fn complaint(&self, result: &Value) -> Option<String> {
        let Self { text, figure, fails_above, bound } = self;
        let written = |number: f64| if is_time(figure) { us(number) } else { number.to_string() };
        let Some(seen) = self.figure_of(result) else {
            return Some(format!("{text}: {figure} is not known"));
        };
        let is_wrong = if *fails_above { seen > *bound } else { seen < *bound };
        let by = match 100.0 * (seen / bound - 1.0) {
            percent if percent.is_finite() => format!(", {percent:+.0} %"),
            _ => String::new(),
        };
        is_wrong.then(|| format!("{text}: {figure} is {}{by}", written(seen)))
    }

    /// The figure; of errors what did not happen is none, and all of them are their sum.
    fn figure_of(&self, result: &Value) -> Option<f64> {
        let counts = result["errors"].as_object()?;
        match self.figure.strip_prefix("errors") {
            Some("") => Some(counts.values().filter_map(Value::as_f64).sum()),
            Some(kind) => Some(counts.get(&kind[1..]).and_then(Value::as_f64).unwrap_or_default()),
            None => result.pointer(&format!("/{}", self.figure.replace('.', "/")))?.as_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaint(gate: &str) -> Option<String> {
        let result = json!({
            "latency_us": { "p99": 12_000.0, "p999": null }, "messages_per_s": 40_000.0, "errors": { "reset": 2 },
        });
        gate.parse::<Gate>().unwrap().complaint(&result)
    }

    #[test]
    fn a_gate_goes_off_beyond_its_bound_and_only_there() {
        assert_eq!(complaint("p99>10ms").unwrap(), "p99>10ms: latency_us.p99 is 12.0ms, +20 %");
        assert_eq!(complaint("p99 > 12ms"), None);
        assert_eq!(
            complaint("messages_per_s<50000").unwrap(),
            "messages_per_s<50000: messages_per_s is 40000, -20 %"
        );
        assert_eq!(complaint("messages_per_s<40000"), None);
        assert_eq!(complaint("errors>0").unwrap(), "errors>0: errors is 2");
        assert_eq!(complaint("errors.reset>2"), None);
        assert_eq!(complaint("errors.short>0"), None, "what did not happen is none");
        assert_eq!(complaint("p99.9>1s").unwrap(), "p99.9>1s: latency_us.p999 is not known");
    }

    #[test]
    fn what_is_no_gate_is_refused() {
        for text in ["", "p99", "p98>1ms", "p99>soon", "messages_per_s<10ms", "errors>"] {
            assert!(text.parse::<Gate>().is_err(), "{text}");
        }
    }
}
