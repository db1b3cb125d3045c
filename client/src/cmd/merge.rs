//! `merge`: the results of several generators of one load become one: histograms and counters are added, percentiles
//! taken of the sum. The merged result has the form of a result.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::Args;
use log::warn;
use serde_json::Value;

mod agreement;

use agreement::Told;

use super::{
    Failure, Outcome,
    load::{AFTERWARDS, Files, Outage, Part, Run, Subject, Summary, Verdict},
};
use crate::{environment::command_line, load::Rank};

/// Make one result of those of several generators.
#[derive(Debug, Args)]
#[command(after_help = AFTERWARDS)]
pub struct Merge {
    /// What each rank of one run wrote with load --json
    #[arg(value_name = "RESULT.json", required = true)]
    results: Vec<PathBuf>,

    /// Merge what is there where ranks wrote no result: the figures are of less than the whole load, and the merged
    /// result is not valid
    #[arg(long)]
    partial: bool,

    #[command(flatten)]
    files: Files,
}

impl Merge {
    /// Merges. The exit status is that of one load.
    pub fn run(self) -> Outcome {
        let mut sum = None;
        for path in &self.results {
            match Told::read(path) {
                Ok(told) => Sum::add(&mut sum, told).map_err(Failure::Usage)?,
                Err(why) if self.partial => warn!("{why}"),
                Err(why) => return Err(Failure::Usage(why)),
            }
        }
        let sum = sum.ok_or_else(|| Failure::Usage("no rank wrote a result".into()))?;
        let (result, run) = sum.whole(self.partial).map_err(Failure::Usage)?;
        self.files.open(Rank::ALONE)?.write(&result, &run)?;
        Ok(ExitCode::from(run.exit_status(result.valid)))
    }
}

/// The results that were read so far, added up. Of each only what stands in the merged result is kept.
struct Sum {
    /// What the one of the lowest rank is of, and where it was: the others are held to that.
    subject: Subject,
    file: String,
    run: Run,
    parts: BTreeMap<usize, Kept>,
    threads: u64,
}

/// What is kept of a result.
struct Kept {
    file: String,
    part: Part,
    why: BTreeMap<String, String>,
    outages: Vec<Outage>,
}

impl Sum {
    /// Adds a result.
    ///
    /// # Errors
    /// Why it is none of the same run.
    fn add(sum: &mut Option<Self>, told: Told) -> Result<(), String> {
        let Told { file, rank, summary, run } = told;
        let threads = summary.subject.settings.get("threads").and_then(Value::as_u64).unwrap_or(0);
        let kept = Kept {
            file: file.clone(),
            part: summary.part(rank),
            outages: Outage::all(&run.window, run.connecting.established),
            why: summary.why,
        };
        let subject = summary.subject;
        let Some(sum) = sum else {
            let parts = BTreeMap::from([(rank.rank, kept)]);
            *sum = Some(Self { subject, file, run, parts, threads });
            return Ok(());
        };
        agreement::between((&sum.file, &sum.subject), (&file, &subject))?;
        if let Some(other) = sum.parts.get(&rank.rank) {
            return Err(format!("rank {} is there twice: {} and {file}", rank.rank, other.file));
        }
        if sum.parts.keys().all(|&other| rank.rank < other) {
            (sum.subject, sum.file) = (subject, file);
        }
        sum.parts.insert(rank.rank, kept);
        sum.run.merge(run);
        sum.threads += threads;
        Ok(())
    }

    /// One result of all, or of those that are there.
    ///
    /// # Errors
    /// Which ranks are not, where all should be.
    fn whole(self, partial: bool) -> Result<(Summary, Run), String> {
        let Self { subject, run, parts, threads, .. } = self;
        let ranks = agreement::ranks(&subject);
        let missing: Vec<usize> = (0..ranks).filter(|rank| !parts.contains_key(rank)).collect();
        let mut verdicts = verdicts(&parts);
        if !missing.is_empty() {
            let absence = format!("{} of {ranks} wrote no result", Rank::list(&missing));
            if !partial {
                return Err(format!(
                    "{absence}; --partial merges the others, into a result that is not valid"
                ));
            }
            verdicts.push(Verdict::void("partial", absence));
        }
        agreement::doubts(&parts, &run).into_iter().for_each(|doubt| {
            verdicts.retain(|verdict| verdict.name != doubt.name); // it says more
            verdicts.push(doubt);
        });
        let ranks = parts.into_values().map(|kept| kept.part).collect();
        let mut subject = Subject { rank: None, ranks, command: command_line(), ..subject };
        subject.settings.insert("threads".into(), threads.into());
        Ok((Summary::new(subject, &run, verdicts), run))
    }
}

/// What is wrong with a part is wrong with the whole.
fn verdicts(parts: &BTreeMap<usize, Kept>) -> Vec<Verdict> {
    let mut names: Vec<&String> = Vec::new();
    for name in parts.values().flat_map(|kept| &kept.part.verdicts) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.into_iter().map(|name| verdict(name, parts)).collect()
}

/// One verdict, of the ranks that have it. Where they say the same of it, it is said once.
fn verdict(name: &String, parts: &BTreeMap<usize, Kept>) -> Verdict {
    let (mut said, mut voids) = (Vec::<(&str, Vec<usize>)>::new(), false);
    for (&rank, Kept { part, why, .. }) in parts.iter().filter(|(_, kept)| kept.part.verdicts.contains(name))
    {
        voids |= !part.valid;
        let why = why.get(name).map_or("", String::as_str);
        match said.iter_mut().find(|(known, _)| *known == why) {
            Some((_, ranks)) => ranks.push(rank),
            None => said.push((why, vec![rank])),
        }
    }
    let why: Vec<_> = said.iter().map(|(why, ranks)| format!("{}: {why}", Rank::list(ranks))).collect();
    Verdict { name: name.clone(), why: why.join("; "), voids }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, UNIX_EPOCH},
    };

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::cmd::load::Placed;
    use crate::load::{Audit, Connecting, Fault, Faults, Interval, Punctuality, Second, Window, histogram};

    /// What a rank may have seen.
    #[derive(Clone, Debug, Default)]
    struct Seen {
        latencies: Vec<u64>,
        dropped: u64,
        lost: u64,
        wrong: u64,
        verdicts: Vec<&'static str>,
        since_ms: u64,
        measured_ms: u64,
    }

    fn sample() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(prop_oneof![1u64..200_000, 1u64..70_000_000_000], 0..60)
    }

    fn recorded(latencies: &[u64]) -> Interval {
        let mut latency = histogram();
        latencies.iter().for_each(|&ns| latency.saturating_record(ns));
        let messages = latencies.len() as u64;
        let kept = Punctuality { due: messages, lateness: latency.clone(), ..Punctuality::new() };
        Interval { messages, bytes: 64 * messages, latency, punctuality: Some(kept), ..Interval::new() }
    }

    /// A rank's result, written and read again.
    fn told(rank: Rank, seen: &Seen, change: impl Fn(&mut Value)) -> Result<Told, String> {
        let Interval { messages, bytes, latency, punctuality, .. } = recorded(&seen.latencies);
        let measured = Duration::from_millis(seen.measured_ms);
        let mut faults = Faults::default();
        if seen.wrong > 0 {
            faults.add_all(Fault::Wrong, seen.wrong, format!("seen by {}", rank.rank));
        }
        let halves = seen.latencies.split_at(seen.latencies.len() / 2);
        let series = [halves.0, halves.1].into_iter().zip(0..);
        let second = |(part, n)| Second::of(&recorded(part), Duration::from_secs(n), Duration::from_secs(1));
        let mut series: Vec<Second> = series.map(second).collect();
        series[0].lost_in_flight = seen.lost;
        let (sent, dropped) = (messages + seen.lost, seen.dropped);
        let mut window = Window {
            measured,
            messages,
            bytes,
            messages_in_all: messages + 1,
            sent,
            lost_in_flight: seen.lost,
            latency,
            punctuality: punctuality.map(|kept| Punctuality { due: sent + dropped, dropped, ..kept }),
            series,
            audit: Some(Audit { sent: messages, server_kernel_drops: Some(7), ..Audit::default() }),
            ..Window::new()
        };
        window.by_connection.extend([messages]);
        let run = Run {
            connecting: Connecting { asked: 1, established: 1, ..Connecting::new() },
            since: UNIX_EPOCH + Duration::from_millis(1_000_000 + seen.since_ms),
            window,
            steps: Vec::new(),
            changes: Vec::new(),
            awkward: None,
            highest: None,
            lost: 0,
            faults,
            late: Duration::ZERO,
            interrupted: false,
        };
        let verdict = |name: &&str| Verdict {
            name: (*name).into(),
            why: format!("so it is, {}", seen.wrong),
            voids: true,
        };
        let settings = json!({ "connections": 4, "size": 64, "churn": null, "verify": true, "threads": 1 });
        let subject = Subject {
            rank: Some(Placed::by_option(rank)),
            run: Some("one".into()),
            ranks: Vec::new(),
            endpoint: "tcp://192.0.2.7:7".into(),
            command: String::new(),
            seed: 1,
            environment: Value::Null,
            settings: settings.as_object().unwrap().clone(),
        };
        let result = Summary::new(subject, &run, seen.verdicts.iter().map(verdict).collect());
        let mut json = serde_json::to_value(&result).unwrap();
        change(&mut json);
        Told::parse(format!("{}.json", rank.rank), &json.to_string())
    }

    fn merged(parts: Vec<Told>) -> Result<(Summary, Run), String> {
        let mut sum = None;
        parts.into_iter().try_for_each(|told| Sum::add(&mut sum, told))?;
        sum.unwrap().whole(false)
    }

    fn all(seen: &[Seen]) -> Vec<Told> {
        let ranks = seen.len();
        seen.iter()
            .enumerate()
            .map(|(rank, seen)| told(Rank { rank, ranks }, seen, |_| {}).unwrap())
            .collect()
    }

    fn usual() -> Seen {
        Seen { latencies: vec![1_000, 2_000], measured_ms: 2_000, ..Seen::default() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_merge_of_n_parts_is_the_histogram_of_all_samples_bucket_for_bucket(
            samples in prop::collection::vec(sample(), 1..6), turned: bool, lost in 0u64..9,
        ) {
            let seen = |latencies: &Vec<u64>| Seen { latencies: latencies.clone(), lost, ..usual() };
            let mut parts = all(&samples.iter().map(seen).collect::<Vec<_>>());
            if turned {
                parts.reverse(); // whatever their order is
            }
            let (result, run) = merged(parts).unwrap();
            let whole = recorded(&samples.concat());
            prop_assert_eq!(&run.window.latency, &whole.latency);
            let kept = run.window.punctuality.as_ref().unwrap();
            let (sent, lost) = (whole.messages + lost * samples.len() as u64, lost * samples.len() as u64);
            prop_assert_eq!((&kept.lateness, kept.due), (&whole.latency, sent));
            prop_assert_eq!((run.window.sent, run.window.lost_in_flight), (sent, lost));
            prop_assert_eq!((run.window.messages, run.window.bytes), (whole.messages, whole.bytes));
            prop_assert_eq!(run.window.messages_in_all, whole.messages + samples.len() as u64);
            // And so it is when the merged result is read again, second by second too.
            let again = result.run().unwrap();
            prop_assert_eq!(&again.window.latency, &whole.latency);
            let mut sum = histogram();
            again.window.series.iter().for_each(|second| sum.add(second.latency.histogram()).unwrap());
            prop_assert_eq!(&sum, &whole.latency);
            let of_seconds = again.window.series.iter().map(|second| second.lost_in_flight);
            prop_assert_eq!((of_seconds.sum(), again.window.sent, again.window.lost_in_flight), (lost, sent, lost));
        }
    }

    #[test]
    fn counters_are_added_and_what_all_saw_of_the_server_is_not() {
        let seen = Seen { dropped: 2, lost: 1, wrong: 3, ..usual() };
        let (result, run) = merged(all(&[seen.clone(), seen.clone(), seen])).unwrap();
        let json = serde_json::to_value(&result).unwrap();
        assert_eq!(
            json["departures"],
            json!({ "due": 15, "dropped": 6, "sent": 9, "answered": 6, "lost_in_flight": 3 })
        );
        assert_eq!((&json["udp"]["sent"], &json["udp"]["server_kernel_drops"]), (&6.into(), &7.into()));
        assert_eq!((&json["errors"]["wrong"], &json["settings"]["threads"]), (&9.into(), &3.into()));
        assert_eq!((&json["connections"]["served"], &json["connections"]["jain"]), (&3.into(), &1.0.into()));
        assert_eq!(run.window.messages, 6);
        assert!((json["messages_per_s"].as_f64().unwrap() - 3.0).abs() < 1e-9, "{json}");
    }

    #[test]
    fn a_part_that_is_void_voids_the_whole_and_its_rank_is_named() {
        let void = Seen { verdicts: vec!["wrong-echo", "errors"], ..usual() };
        let other = Seen { wrong: 9, ..void.clone() };
        let (result, _) = merged(all(&[usual(), void.clone(), other, void])).unwrap();
        assert_eq!((result.valid, result.verdicts), (false, vec!["wrong-echo".into(), "errors".into()]));
        let why: BTreeMap<_, _> = result.why;
        assert_eq!(why["wrong-echo"], "ranks 1, 3: so it is, 0; rank 2: so it is, 9");
        let (result, _) = merged(all(&[usual(), usual()])).unwrap();
        assert!(result.valid && result.verdicts.is_empty());
    }

    #[track_caller]
    fn is_refused(parts: Vec<Result<Told, String>>, word: &str) {
        let said = parts.into_iter().collect::<Result<_, _>>().and_then(merged).map(drop).unwrap_err();
        assert!(said.contains(word) && said.lines().count() == 1, "{word:?} should be in: {said}");
    }

    #[test]
    fn what_is_not_one_run_of_all_ranks_is_refused() {
        let of = |rank, ranks| told(Rank { rank, ranks }, &usual(), |_| {});
        let but = |change: fn(&mut Value)| vec![of(0, 2), told(Rank { rank: 1, ranks: 2 }, &usual(), change)];
        is_refused(vec![of(0, 2), of(0, 2)], "rank 0 is there twice: 0.json and 0.json");
        is_refused(vec![of(3, 4), of(1, 4)], "ranks 0, 2 of 4 wrote no result; --partial");
        is_refused(vec![of(0, 2), of(1, 3)], "differ in the number of ranks: 2 and 3");
        is_refused(but(|json| json["run"] = "two".into()), "0.json and 1.json are of different runs");
        is_refused(but(|json| json["run"] = Value::Null), "of different runs");
        is_refused(but(|json| json["settings"]["size"] = 65.into()), "differ in size: 64 and 65");
        is_refused(but(|json| json["settings"]["new"] = 1.into()), "differ in new: null and 1");
        is_refused(but(|json| json["endpoint"] = "udp://[::1]:7".into()), "differ in the server");
        is_refused(but(|json| json["schema"] = 2.into()), "schema 2");
        is_refused(but(|json| json["histograms"]["latency"] = "no".into()), "no result of load --json");
        is_refused(but(|json| json["measured_s"] = (-1).into()), "no time");
        is_refused(but(|json| *json = json!([1])), "it names no schema");
        is_refused(but(|json| json["ranks"] = json!([json])), "no result of load --json");
        // What each may have for itself.
        let own = but(|json| {
            json["settings"]["threads"] = 9.into();
            json["command"] = "another".into();
            json["environment"] = json!({ "host": "another" });
        });
        assert!(merged(own.into_iter().map(Result::unwrap).collect()).is_ok());
        let empty = Told::parse("1.json".into(), "\n").map(drop).unwrap_err();
        assert_eq!(empty, "1.json: it is empty: its rank wrote no result");
    }

    #[test]
    fn what_is_there_of_a_run_is_merged_where_that_is_asked_for_and_is_void() {
        let mut sum = None;
        for rank in [2, 0] {
            Sum::add(&mut sum, told(Rank { rank, ranks: 4 }, &usual(), |_| {}).unwrap()).unwrap();
        }
        let (result, run) = sum.unwrap().whole(true).unwrap();
        assert_eq!((result.valid, run.window.messages), (false, 4));
        assert_eq!(result.why["partial"], "ranks 1, 3 of 4 wrote no result");
        assert_eq!(result.subject.ranks.len(), 2);
    }

    #[test]
    fn an_outage_that_not_all_ranks_had_is_no_result_where_it_was_long() {
        // Ten seconds, in which a rank has these answers.
        let part = |rank, answers: [u64; 10]| {
            let seen = Seen { latencies: vec![1_000; answers.iter().sum::<u64>() as usize], ..usual() };
            let told = told(Rank { rank, ranks: 2 }, &Seen { measured_ms: 10_000, ..seen }, |json| {
                let entry = json["series"][0].clone();
                let entries = answers.iter().enumerate().map(|(n, &messages)| {
                    let mut entry = entry.clone();
                    entry["from_s"] = n.into();
                    (entry["messages"], entry["due"]) = (messages.into(), 9.into());
                    entry
                });
                json["series"] = entries.collect();
            });
            told.unwrap()
        };
        let steady = [9; 10];
        for (other, mine, is_valid) in [
            (steady, [9, 0, 0, 0, 9, 9, 9, 9, 9, 9], false),
            (steady, [9, 0, 9, 9, 9, 9, 9, 9, 9, 9], true),
            ([9, 0, 0, 0, 9, 9, 9, 9, 9, 9], [9, 0, 0, 0, 9, 9, 9, 9, 9, 9], true),
        ] {
            let (result, _) = merged(vec![part(0, other), part(1, mine)]).unwrap();
            assert_eq!(result.valid, is_valid, "{mine:?}: {:?}", result.why);
            assert!(
                is_valid || result.why["outage"].starts_with("rank 1 had no answer for 3 s"),
                "{:?}",
                result.why
            );
        }
    }

    #[test]
    fn windows_have_to_overlap_for_nine_tenths_of_the_longest() {
        let at = |since_ms, measured_ms| Seen { since_ms, measured_ms, ..usual() };
        for (windows, may) in [
            ([at(0, 2000), at(190, 2000)], true),
            ([at(0, 2000), at(210, 2000)], false),
            ([at(0, 2000), at(100, 1810)], true),
            ([at(0, 2000), at(0, 1000)], false),
            ([at(0, 2000), at(5000, 2000)], false),
            ([at(0, 0), at(0, 0)], true),
        ] {
            let (result, _) = merged(all(&windows)).unwrap();
            assert_eq!(result.valid, may, "{windows:?}: {:?}", result.why);
            assert!(may || result.why["unsynchronised"].contains("90 %"), "{:?}", result.why);
        }
    }
}
