//! How many bytes messages have: all as many, or each by chance. Which length a message has is a function of seed,
//! connection and number, so that it need not be kept to know what is to come back.

use std::{fmt, fs, ops::RangeInclusive, path::Path, str::FromStr, sync::Arc};

use rand::{
    SeedableRng,
    distr::{Uniform, weighted::WeightedIndex},
    rngs::Xoshiro256PlusPlus,
};
use rand_distr::{Distribution, Exp, LogNormal};

/// The longest message.
pub const MOST: usize = 1 << 30;

/// The lengths of a run's messages.
#[derive(Clone, Debug)]
pub struct Sizes {
    shape: Shape,
    /// What is drawn beyond these is cut off.
    bounds: RangeInclusive<usize>,
    seed: u64,
    /// As it was written.
    text: Arc<str>,
}

#[derive(Clone, Debug)]
enum Shape {
    Fixed(usize),
    Between(Uniform<usize>),
    Exponential(Exp<f64>),
    LogNormal(LogNormal<f64>),
    Counted(Arc<(Vec<usize>, WeightedIndex<f64>)>),
}

impl Sizes {
    /// All of so many bytes.
    pub fn fixed(size: usize) -> Self {
        Self { shape: Shape::Fixed(size), bounds: size..=size, seed: 0, text: size.to_string().into() }
    }

    /// The length that all have, where they have one.
    pub fn all(&self) -> Option<usize> {
        match self.shape {
            Shape::Fixed(size) => Some(size),
            _ => None,
        }
    }

    /// The shortest that there may be.
    pub fn shortest(&self) -> usize {
        *self.bounds.start()
    }

    /// The longest that there may be.
    pub fn longest(&self) -> usize {
        *self.bounds.end()
    }

    /// The same, drawn from `seed`; chance goes no further than `bounds`.
    pub fn drawn(self, seed: u64, bounds: RangeInclusive<usize>) -> Self {
        let is_bounded = matches!(self.shape, Shape::Exponential(_) | Shape::LogNormal(_));
        Self { seed, bounds: if is_bounded { bounds } else { self.bounds }, ..self }
    }

    /// How many bytes `connection`'s message number `message` has.
    pub fn of(&self, connection: usize, message: u64) -> usize {
        if let Shape::Fixed(size) = self.shape {
            return size;
        }
        let whose = (connection as u64).rotate_left(40) ^ message;
        let chance = &mut Xoshiro256PlusPlus::seed_from_u64(self.seed.rotate_left(20) ^ whose);
        let drawn = match &self.shape {
            Shape::Fixed(size) => *size,
            Shape::Between(sizes) => sizes.sample(chance),
            Shape::Exponential(sizes) => sizes.sample(chance).round() as usize,
            Shape::LogNormal(sizes) => sizes.sample(chance).round() as usize,
            Shape::Counted(counted) => counted.0[counted.1.sample(chance)],
        };
        drawn.clamp(self.shortest(), self.longest())
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write it like 64, 10..1500, exp:200, lognormal:200,1.5 or sizes.csv";
        let number = |text: &str| match arguments::bytes(text) {
            Ok(size) if size <= MOST => Ok(size),
            _ => Err(format!("{text:?} is no number of bytes up to {MOST}; {FORM}")),
        };
        let (shape, bounds) = if let Some(mean) = text.strip_prefix("exp:") {
            let mean = number(mean)?;
            let sizes = Exp::new(1.0 / mean as f64).ok().filter(|_| mean > 0);
            (Shape::Exponential(sizes.ok_or_else(|| format!("a mean of nothing; {FORM}"))?), 1..=MOST)
        } else if let Some(both) = text.strip_prefix("lognormal:") {
            let (mean, sigma) = both.split_once(',').ok_or_else(|| format!("no sigma; {FORM}"))?;
            let mean = number(mean)? as f64;
            let sigma: f64 = sigma.parse().map_err(|_| format!("{sigma:?} is no sigma; {FORM}"))?;
            // So that `mean` is the mean of the lengths, not of their logarithms.
            let sizes = LogNormal::new(mean.ln() - sigma * sigma / 2.0, sigma).ok();
            let sizes = sizes.filter(|_| mean > 0.0 && (0.0..=10.0).contains(&sigma));
            let why = || format!("the mean is at least 1 byte, sigma from 0 to 10; {FORM}");
            (Shape::LogNormal(sizes.ok_or_else(why)?), 1..=MOST)
        } else if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (number(from)?, number(to)?);
            let sizes = Uniform::new_inclusive(from, to).map_err(|_| format!("from more to less; {FORM}"))?;
            (Shape::Between(sizes), from..=to)
        } else if Path::new(text).extension().is_some_and(|extension| extension == "csv") {
            counted(Path::new(text)).map_err(|error| format!("{text}: {error}"))?
        } else {
            let size = number(text)?;
            (Shape::Fixed(size), size..=size)
        };
        Ok(Self { shape, bounds, seed: 0, text: text.into() })
    }
}

/// Lines of a length and how often it occurs, which may be left out; a first line that is no number is a header.
fn counted(path: &Path) -> Result<(Shape, RangeInclusive<usize>), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let rows = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let (mut sizes, mut weights) = (Vec::new(), Vec::new());
    for (line, row) in (1..).zip(rows.into_records()) {
        let row = row.map_err(|error| error.to_string())?;
        let field = |n| row.get(n).unwrap_or_default();
        let size = field(0).parse().ok().filter(|&size: &usize| size <= MOST);
        let weight = if row.len() > 1 { field(1).parse().ok() } else { Some(1.0) };
        match size.zip(weight) {
            Some((size, weight)) => {
                sizes.push(size);
                weights.push(weight);
            }
            None if line == 1 => {}
            None => return Err(format!("line {line} is not a length and how often it occurs")),
        }
    }
    let weights = WeightedIndex::new(&weights).map_err(|error| error.to_string())?;
    let bounds = sizes.iter().min().copied().unwrap_or(0)..=sizes.iter().max().copied().unwrap_or(0);
    Ok((Shape::Counted(Arc::new((sizes, weights))), bounds))
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A number, where all have one length; else as it was written.
impl serde::Serialize for Sizes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.all() {
            Some(size) => serializer.serialize_u64(size as u64),
            None => serializer.serialize_str(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lengths(text: &str, seed: u64) -> Vec<usize> {
        let sizes: Sizes = text.parse().unwrap();
        let sizes = sizes.drawn(seed, 1..=MOST);
        (0..100)
            .flat_map(|connection| (0..1000).map(move |n| (connection, n)))
            .map(|(c, n)| sizes.of(c, n))
            .collect()
    }

    fn mean(lengths: &[usize]) -> f64 {
        lengths.iter().sum::<usize>() as f64 / lengths.len() as f64
    }

    #[test]
    fn lengths_have_the_mean_that_was_asked_for() {
        for (text, expected, tolerance) in [
            ("64", 64.0, 0.0),
            ("100..300", 200.0, 1.0),
            ("exp:200", 200.0, 3.0),
            ("lognormal:200,1", 200.0, 4.0),
        ] {
            let mean = mean(&lengths(text, 1));
            assert!((mean - expected).abs() <= tolerance, "{text}: {mean}");
        }
    }

    #[test]
    fn a_length_is_the_same_whenever_it_is_asked_for_and_another_seeds_is_another() {
        assert_eq!(lengths("exp:200", 1), lengths("exp:200", 1));
        assert_ne!(lengths("exp:200", 1), lengths("exp:200", 2));
    }

    #[test]
    fn all_lengths_between_two_occur_and_no_others() {
        let lengths = lengths("3..7", 1);
        assert!((3..=7).all(|length| lengths.contains(&length)));
        assert!(lengths.iter().all(|length| (3..=7).contains(length)));
    }

    #[test]
    fn chance_is_cut_off_at_the_bounds() {
        let sizes = "exp:1000".parse::<Sizes>().unwrap().drawn(1, 24..=1400);
        let lengths: Vec<usize> = (0..1000).map(|n| sizes.of(0, n)).collect();
        assert_eq!((lengths.iter().min(), lengths.iter().max()), (Some(&24), Some(&1400)));
    }

    #[test]
    fn a_file_says_how_often_a_length_occurs() {
        let mut file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
        write!(file, "size,count\n10, 3\n1000, 1\n").unwrap();
        let lengths = lengths(file.path().to_str().unwrap(), 1);
        let tens = lengths.iter().filter(|&&length| length == 10).count() as f64 / lengths.len() as f64;
        assert!((tens - 0.75).abs() < 0.01, "{tens}");
        assert!(lengths.iter().all(|length| [10, 1000].contains(length)));
    }

    #[test]
    fn what_is_no_length_is_refused_in_one_line_with_the_form_to_use() {
        for text in ["", "many", "exp:", "exp:0", "lognormal:5", "lognormal:5,-1", "9..3", "..", "-1", "2GiB"]
        {
            let said = text.parse::<Sizes>().unwrap_err();
            assert!(said.contains("10..1500") && said.lines().count() == 1, "{text}: {said}");
        }
        assert!("/no/such/file.csv".parse::<Sizes>().is_err());
        let mut file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
        write!(file, "10,1\nten,1\n").unwrap();
        let said = file.path().to_str().unwrap().parse::<Sizes>().unwrap_err();
        assert!(said.contains("line 2"), "{said}");
    }
}
