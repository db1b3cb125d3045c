//! What is said of a comparison in words.

use std::{collections::BTreeMap, time::Duration};

use super::{
    comparison::{LEAST_BLOCKS, Ratio, Verdict},
    scenario::{More, Scenario},
    verdict::Group,
};

/// Who leads at a point, whom it is surely better than and by how much, who is equal to it, and of whom more time would tell.
/// `None` where nobody is compared.
pub fn of_point(group: &Group) -> Option<String> {
    let (leader, verdicts) = (group.leader()?, group.verdicts_of_the_leader().collect::<Vec<_>>());
    let blocks = verdicts.iter().map(|verdict| verdict.pairs).max()?;
    if blocks < LEAST_BLOCKS {
        return Some(format!("of the {LEAST_BLOCKS} blocks that a verdict needs there are {blocks}"));
    }
    let (apart, others): (Vec<&Verdict>, Vec<&Verdict>) =
        verdicts.into_iter().partition(|verdict| verdict.told_apart);
    let (apart, better): (Vec<&Verdict>, Vec<&Verdict>) =
        apart.into_iter().partition(|verdict| verdict.leader == leader);
    let (equal, unsure): (Vec<&Verdict>, Vec<&Verdict>) =
        others.into_iter().partition(|verdict| verdict.equal_within.is_some());
    let it = if apart.is_empty() { leader } else { "it" };
    let mut parts = Vec::new();
    if !apart.is_empty() {
        parts.push(ahead(group.scenario, leader, &apart));
    }
    parts.extend(better.iter().map(|verdict| of_pair(group.scenario, verdict)));
    if let Some(bound) = equal.iter().filter_map(|verdict| verdict.equal_within).reduce(f64::max) {
        let names = equal.iter().map(|verdict| verdict.against(leader).to_owned());
        let (names, are) = (listed(names), if equal.len() == 1 { "is" } else { "are" });
        parts.push(format!("{names} {are} equal to {it} within {:.0} %", (100.0 * bound).ceil().max(1.0)));
    }
    if !unsure.is_empty() {
        let names =
            unsure.iter().map(|it| format!("{} {}", it.against(leader), percent(it.ratio_of(leader))));
        let are = if unsure.len() == 1 { "is" } else { "are" };
        let more = about(more_time(group, &unsure));
        parts.push(format!("{} {are} not told apart from {it}: {more} more would do", listed(names)));
    }
    Some(parts.join("; "))
}

/// In short so many are named at most.
const MOST_NAMED: usize = 4;

/// Who may be the best at a point, and by how much the next is worse. `None` where nobody is told apart from the leader.
pub fn in_short(group: &Group) -> Option<String> {
    let leader = group.leader()?;
    let is_worse = |verdict: &&Verdict| verdict.told_apart && verdict.leader == leader;
    let worse: Vec<&Verdict> = group.verdicts_of_the_leader().filter(is_worse).collect();
    let is_behind = |name: &str| worse.iter().any(|verdict| verdict.other == name);
    let names = || group.there().filter(|line| line.figure.is_some()).map(|line| line.contender.as_str());
    let next = names().find(|name| is_behind(name))?;
    let verdict = worse.iter().find(|verdict| verdict.other == next)?;
    let next = Verdict { other: format!("the next ({next})"), ..Verdict::clone(verdict) };
    let next = of_pair(group.scenario, &next);
    let first: Vec<String> = names().filter(|name| !is_behind(name)).map(str::to_owned).collect();
    Some(match first.len() {
        1 => next,
        n if n > MOST_NAMED => format!("{} and {} others lead, not told apart; {next}", first[0], n - 1),
        _ => format!("{} lead, not told apart; {next}", listed(first.into_iter())),
    })
}

/// Whom the leader is better than, and by how much.
fn ahead(scenario: Scenario, leader: &str, verdicts: &[&Verdict]) -> String {
    let ratio = |verdict: &Verdict| (verdict.against(leader).to_owned(), verdict.ratio_of(leader));
    // What the first has said, the others need not say again.
    let all = verdicts.iter().map(|verdict| ratio(verdict)).enumerate();
    match scenario.character().figure.more {
        More::Better { more, as_much } => {
            let each = all.map(|(n, (other, ratio))| match (several(ratio), n) {
                (Some(times), _) => format!("{times} {as_much} as {other}"),
                (None, 0) => format!("{} {more} than {other}", by(ratio)),
                (None, _) => format!("{} than {other}", by(ratio)),
            });
            format!("{leader} is {}", listed(each))
        }
        More::Costs { what, each } => listed(all.map(|(n, (other, ratio))| match (several(ratio), n) {
            (Some(times), 0) => format!("{other} takes {times} the {what} a {each} of {leader}"),
            (None, 0) => format!("{other} takes {} more {what} a {each} than {leader}", by(ratio)),
            (Some(times), _) => format!("{other} {times} as much"),
            (None, _) => format!("{other} {} more", by(ratio)),
        })),
    }
}

/// Who was not to take part in a scenario, and why: what holds for all its points is said once.
pub fn left_out<'g>(groups: impl Iterator<Item = &'g Group>) -> Option<String> {
    let mut places: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    let mut points = 0;
    for group in groups {
        points += 1;
        for (line, reason) in group.lines.iter().filter_map(|line| Some((line, line.left_out.as_deref()?))) {
            let title = group.point.title(group.scenario);
            places.entry((&line.contender, reason)).or_default().push(title);
        }
    }
    let one = |((contender, reason), at): ((&str, &str), Vec<String>)| match at.len() < points {
        true => format!("{contender} at {} ({reason})", at.join(", ")),
        false => format!("{contender} ({reason})"),
    };
    let all = listed(places.into_iter().map(one));
    (!all.is_empty()).then(|| format!("left out: {all}"))
}

/// How much longer would decide all of these.
fn more_time(group: &Group, unsure: &[&Verdict]) -> Duration {
    let more =
        |verdict: &&Verdict| verdict.pairs as f64 * (verdict.ratio.times_the_blocks(group.resolve) - 1.0);
    group.block_takes.mul_f64(unsure.iter().map(more).fold(1.0, f64::max).min(1e6))
}

/// A time that is an estimate, for people who wait.
pub fn about(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..10 => format!("about {} s", seconds.max(1)),
        seconds @ 10..120 => format!("about {} s", seconds.div_ceil(10) * 10),
        seconds @ 120..7200 => format!("about {} min", seconds.div_ceil(60)),
        seconds => format!("about {} h", seconds.div_ceil(3600)),
    }
}

/// Words with commas, and an "and" before the last one.
fn listed(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    match &words[..] {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Says who is better by how much; or that they are equal, and within what; or that they are not told apart.
pub fn of_pair(scenario: Scenario, verdict: &Verdict) -> String {
    let Verdict { leader, other, ratio, pairs, told_apart, .. } = verdict;
    if *pairs < LEAST_BLOCKS {
        return format!(
            "{leader} and {other}: of the {LEAST_BLOCKS} blocks that a verdict needs there are {pairs}"
        );
    }
    if let Some(bound) = verdict.equal_within {
        return format!("{leader} and {other}: equal within {:.0} %", (100.0 * bound).ceil().max(1.0));
    }
    if !told_apart {
        return format!("{leader} and {other}: not told apart {}", percent(*ratio));
    }
    ahead(scenario, leader, &[verdict])
}
/// A ratio in words, where percent would be hard to read.
fn several(Ratio { middle, low, high, .. }: Ratio) -> Option<String> {
    (middle >= 3.0).then(|| format!("{middle:.1} times [{low:.1}, {high:.1}]"))
}

/// A ratio a little above 1, in percent.
fn by(ratio: Ratio) -> String {
    format!("{:.0} % {}", 100.0 * (ratio.middle - 1.0), percent(ratio))
}

/// An interval of a ratio, in percent above 1.
fn percent(ratio: Ratio) -> String {
    format!("[{:+.0}, {:+.0}]", 100.0 * (ratio.low - 1.0), 100.0 * (ratio.high - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{statistics::Estimate, verdict::Line};

    fn verdict(leader: &str, other: &str, middle: f64, low: f64, high: f64) -> Verdict {
        Verdict {
            leader: leader.into(),
            other: other.into(),
            ratio: Ratio { middle, low, high, level: 0.99 },
            pairs: 5,
            told_apart: low > 1.0,
            equal_within: Some(high - 1.0).filter(|bound| *bound <= 0.05),
            comparisons: 1,
        }
    }

    #[test]
    fn a_verdict_is_a_sentence() {
        let by_a_twelfth = Ratio { middle: 1.08, low: 1.05, high: 1.11, level: 0.99 };
        let verdict = Verdict {
            leader: "a".into(),
            other: "b".into(),
            ratio: by_a_twelfth,
            pairs: 5,
            told_apart: true,
            equal_within: None,
            comparisons: 1,
        };
        assert_eq!(of_pair(Scenario::Echo, &verdict), "a is 8 % [+5, +11] faster than b");
        let more = "b takes 8 % [+5, +11] more CPU a connection than a";
        assert_eq!(of_pair(Scenario::Churn, &verdict), more);
        let ratio = Ratio { middle: 12.0, low: 11.0, high: 13.04, level: 0.99 };
        let times = "b takes 12.0 times [11.0, 13.0] the memory a connection of a";
        assert_eq!(of_pair(Scenario::Idle, &Verdict { ratio, ..verdict.clone() }), times);
        let more = "b takes 8 % [+5, +11] more CPU a datagram than a";
        assert_eq!(of_pair(Scenario::Udp, &verdict), more);
        let unsure = |low, high| {
            let ratio = Ratio { middle: 1.01, low, high, level: 0.99 };
            let equal_within = Some(high - 1.0).filter(|bound| *bound <= 0.05);
            of_pair(Scenario::Echo, &Verdict { told_apart: false, equal_within, ratio, ..verdict.clone() })
        };
        assert_eq!(unsure(0.91, 1.12), "a and b: not told apart [-9, +12]");
        assert_eq!(unsure(0.98, 1.041), "a and b: equal within 5 %");
        assert_eq!(unsure(0.997, 1.002), "a and b: equal within 1 %");
    }

    #[test]
    fn a_point_is_one_sentence_of_who_is_worse_who_is_equal_and_who_needs_more_time() {
        let of = |scenario, verdicts: &[Verdict]| {
            let figure = Some(Estimate { median: 1.0, low: 1.0, high: 1.0 });
            let lines = vec![Line { contender: "a".into(), figure, ..Line::default() }];
            let (verdicts, block_takes, resolve) = (verdicts.to_vec(), Duration::from_secs(4), 0.05);
            of_point(&Group { scenario, lines, block_takes, resolve, verdicts, ..Group::default() })
        };
        let worse = [verdict("a", "b", 1.5, 1.2, 1.9), verdict("a", "c", 4.0, 3.0, 5.0)];
        let equal = [verdict("a", "d", 1.01, 0.99, 1.031), verdict("a", "e", 1.0, 0.98, 1.02)];
        let unsure = verdict("a", "f", 1.1, 0.9, 1.34);
        let all = [&worse[..], &equal, std::slice::from_ref(&unsure)].concat();
        assert_eq!(
            of(Scenario::Echo, &all).as_deref(),
            Some(
                "a is 50 % [+20, +90] faster than b and 4.0 times [3.0, 5.0] as fast as c; \
                 d and e are equal to it within 4 %; f [-10, +34] is not told apart from it: about 70 s more would do"
            )
        );
        assert_eq!(
            of(Scenario::Churn, &worse).as_deref(),
            Some("b takes 50 % [+20, +90] more CPU a connection than a and c 4.0 times [3.0, 5.0] as much")
        );
        assert_eq!(of(Scenario::Echo, &equal[..1]).as_deref(), Some("d is equal to a within 4 %"));
        assert_eq!(of(Scenario::Echo, &[]), None);
        let few = Verdict { pairs: 2, ..unsure };
        assert_eq!(
            of(Scenario::Echo, &[few]).as_deref(),
            Some("of the 3 blocks that a verdict needs there are 2")
        );
    }
}
