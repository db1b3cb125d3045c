//! The raw rows, as they are handed on.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use crate::compare::cell::Cell;

/// A row a cell, below the names of the columns.
///
/// # Errors
/// Where a row cannot be written, which memory always takes.
pub fn of(cells: &[Cell]) -> Result<Vec<u8>, String> {
    let mut rows = csv::Writer::from_writer(Vec::new());
    let written = cells.iter().try_for_each(|cell| rows.serialize(cell));
    written.map_err(|error| error.to_string())?;
    rows.into_inner().map_err(|error| error.to_string())
}

/// The same in few bytes (gzip, RFC 1952), without the histograms, which would be most of it.
///
/// # Errors
/// As above.
pub fn compressed(cells: &[Cell]) -> Result<Vec<u8>, String> {
    let without = |cell: &Cell| Cell { latency: String::new(), ..cell.clone() };
    let cells: Vec<Cell> = cells.iter().map(without).collect();
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(&of(&cells)?).and_then(|()| packer.finish()).map_err(|error| error.to_string())
}
