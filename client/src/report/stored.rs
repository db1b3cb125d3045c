//! A run as it lies on the disk: a folder of rows, and what travels with them.

use std::{fs, path::Path};

use serde_json::Value;

use crate::compare::{cell::Cell, scenario::Scenario};

/// A run that was stored.
pub struct Stored {
    /// Where it was found.
    pub name: String,
    /// Its rows.
    pub cells: Vec<Cell>,
    /// The machine, the settings and the command; null where nothing tells of them.
    pub environment: Value,
}

impl Stored {
    /// Reads a folder of results.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join("cells.csv");
        let rows = csv::Reader::from_path(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let cells: Result<Vec<Cell>, _> = rows.into_deserialize().collect();
        let mut cells = cells.map_err(|error| format!("{}: {error}", path.display()))?;
        // Over UDP a model is still that model: a matrix has one row of it.
        for cell in cells.iter_mut().filter(|cell| cell.scenario == Scenario::Udp) {
            cell.contender = cell.contender.replacen("@udp", "", 1);
        }
        if cells.is_empty() {
            return Err(format!("{}: no row", path.display()));
        }
        let environment = match fs::read_to_string(folder.join("environment.json")) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| format!("{}: {error}", folder.join("environment.json").display()))?,
            Err(_) => Value::Null,
        };
        Ok(Self { name: folder.display().to_string(), cells, environment })
    }
}
