//! What of a slice's figure is the contender's, and what is the moment's.
//!
//! At a point all contenders are up, and each round gives every one of them a slice. The logarithm of a slice's figure is then
//! taken to be the contender's, plus the round's, plus a deviation. A machine that jumps makes some deviations large; they are
//! drawn in. What a process was dealt at its start shows in all slices of a session: so a session says one thing of two
//! contenders, however many rounds it has, and how far sessions differ says how sure that is.

use super::statistics::median;

/// The logarithms of the merits of a session: a row a round, in it a place a contender; nothing where a slice does not count.
pub type Rounds = Vec<Vec<Option<f64>>>;

/// The deviations beyond so many times the usual one (its standard deviation, if they were normal) are drawn in to there.
const USUAL: f64 = 2.0;

/// From the median of absolute deviations to a standard deviation, of what is distributed normally.
const OF_NORMAL: f64 = 1.4826;

/// How often rounds and contenders are fitted in turn; a few times do.
const POLISHED: usize = 8;

/// Draws in the deviations that the machine made large: beyond twice a contender's usual one, or all contenders', whichever is
/// larger. The others grow by the share that was drawn in, so that the mean of all is Huber's estimate in one step from
/// the median, and the sessions' means differ as it would (Huber, Robust Statistics, 1981).
pub fn calmed(sessions: &[Rounds]) -> Vec<Rounds> {
    let rounds: Vec<&Vec<Option<f64>>> = sessions.iter().flatten().collect();
    let (of_contender, of_round) = polished(&rounds);
    let deviation = |round: usize, contender: usize| {
        rounds[round][contender].map(|log| log - of_contender[contender] - of_round[round])
    };
    let usual = |contenders: &[usize]| {
        let all = contenders.iter().flat_map(|&it| (0..rounds.len()).map(move |round| (round, it)));
        let sizes: Vec<f64> = all.filter_map(|(round, it)| Some(deviation(round, it)?.abs())).collect();
        median(&sizes).unwrap_or_default() * OF_NORMAL
    };
    let everybody: Vec<usize> = (0..of_contender.len()).collect();
    let of_all = usual(&everybody);
    let bounds: Vec<f64> = everybody.iter().map(|&it| USUAL * usual(&[it]).max(of_all)).collect();
    let growth = |it: usize| {
        let all: Vec<f64> = (0..rounds.len()).filter_map(|round| deviation(round, it)).collect();
        let inside = all.iter().filter(|deviation| deviation.abs() <= bounds[it]).count();
        all.len() as f64 / inside.max(1) as f64
    };
    let growths: Vec<f64> = everybody.iter().map(|&it| growth(it)).collect();
    let mut before = 0;
    let calm = |session: &Rounds| {
        let first = before;
        before += session.len();
        (first..before)
            .map(|round| {
                let whose = |it: usize| of_contender[it] + of_round[round];
                everybody
                    .iter()
                    .map(|&it| {
                        Some(whose(it) + growths[it] * deviation(round, it)?.clamp(-bounds[it], bounds[it]))
                    })
                    .collect()
            })
            .collect()
    };
    sessions.iter().map(calm).collect()
}

/// Each contender's and each round's part, by medians in turn (Tukey's median polish, 1977).
fn polished(rounds: &[&Vec<Option<f64>>]) -> (Vec<f64>, Vec<f64>) {
    let contenders = rounds.first().map_or(0, |round| round.len());
    let (mut of_contender, mut of_round) = (vec![0.0; contenders], vec![0.0; rounds.len()]);
    for _ in 0..POLISHED {
        for (round, part) in rounds.iter().zip(&mut of_round) {
            let rests: Vec<f64> =
                round.iter().zip(&of_contender).filter_map(|(log, whose)| Some((*log)? - whose)).collect();
            *part = median(&rests).unwrap_or_default();
        }
        for (contender, part) in of_contender.iter_mut().enumerate() {
            let rests: Vec<f64> = rounds
                .iter()
                .zip(&of_round)
                .filter_map(|(round, whose)| Some(round[contender]? - whose))
                .collect();
            *part = median(&rests).unwrap_or_default();
        }
    }
    (of_contender, of_round)
}

/// By how much one contender's logarithm exceeds the other's, for each session in which both have a slice of one round: the mean
/// over those rounds.
pub fn differences(sessions: &[Rounds], one: usize, other: usize) -> Vec<f64> {
    let of_session = |rounds: &Rounds| {
        let both: Vec<f64> = rounds.iter().filter_map(|round| Some(round[one]? - round[other]?)).collect();
        (!both.is_empty()).then(|| both.iter().sum::<f64>() / both.len() as f64)
    };
    sessions.iter().filter_map(of_session).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(logs: &[[f64; 3]]) -> Rounds {
        logs.iter().map(|round| round.iter().map(|&log| Some(log)).collect()).collect()
    }

    #[test]
    fn what_a_round_did_to_all_is_in_no_difference() {
        let sessions =
            [rounds(&[[1.0, 1.5, 2.0], [0.7, 1.2, 1.7]]), rounds(&[[2.0, 2.5, 3.0], [9.0, 9.5, 10.0]])];
        let calm = calmed(&sessions);
        for (one, other, by) in [(1, 0, 0.5), (2, 0, 1.0), (1, 2, -0.5)] {
            assert!(differences(&calm, one, other).iter().all(|it| (it - by).abs() < 1e-9));
        }
    }

    #[test]
    fn a_jump_of_the_machine_is_drawn_in_and_what_is_usual_stays() {
        let noise = [0.01, -0.02, 0.015, -0.01, 0.02, -0.015, 0.0, 0.005];
        let mut logs: Vec<[f64; 3]> =
            (0..8).map(|n| [noise[n], 0.1 + noise[(n + 3) % 8], 0.2 + noise[(n + 5) % 8]]).collect();
        let calm = |logs: &[[f64; 3]]| calmed(&[rounds(logs)]).remove(0);
        let before = calm(&logs);
        logs[3][1] += 1.0;
        let after = calm(&logs);
        assert!(before[0][0].is_some_and(|log| (log - logs[0][0]).abs() < 1e-9));
        assert!(after[3][1].is_some_and(|log| log < 0.3), "{:?}", after[3]);
    }

    #[test]
    fn a_slice_that_does_not_count_is_no_round_of_a_pair() {
        let mut session = rounds(&[[1.0, 2.0, 3.0], [1.0, 4.0, 3.0]]);
        session[1][1] = None;
        assert_eq!(differences(&[session.clone()], 1, 0), [1.0]);
        session[0][1] = None;
        assert!(differences(&[session], 1, 0).is_empty());
    }
}
