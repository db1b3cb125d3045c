//! The exercises: with holes they fail, the solutions have all points.

use std::process::Command;

use serde_json::Value;

use crate::{
    stage::{ROOT, echo_client, lesson},
    suite::{Promise, promises},
};

pub const PROMISES: &[Promise] =
    promises![an_exercise_with_its_holes_fails_its_check, the_solution_of_an_exercise_has_all_points,];

const EXERCISES: [(&str, &str); 4] =
    [("fork", "tcp"), ("pool", "tcp"), ("event_loop", "tcp"), ("groups", "udp")];

/// The points of a program by the rubric of an exercise: had, and to be had.
fn graded(exercise: &str, transport: &str, program: &str) -> (Option<i32>, f64, f64, Value) {
    let rubric = format!("{ROOT}/examples/exercises/{exercise}.toml");
    let mut check = Command::new(echo_client());
    check.args([
        "check",
        &format!("{transport}://127.0.0.1:{{port}}"),
        "--rubric",
        &rubric,
        "--format",
        "json",
    ]);
    check.arg("--").arg(lesson(program)).arg("127.0.0.1:{port}");
    let output = check.output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), told["score"].as_f64().unwrap(), told["max_score"].as_f64().unwrap(), told)
}

fn an_exercise_with_its_holes_fails_its_check() {
    for (exercise, transport) in EXERCISES {
        let (status, score, of, told) = graded(exercise, transport, &format!("exercise_{exercise}"));
        assert_eq!(status, Some(1), "{exercise}: {told:#}");
        assert!(score < of, "{exercise}: {told:#}");
    }
}

fn the_solution_of_an_exercise_has_all_points() {
    for (exercise, transport) in EXERCISES {
        let (status, score, of, told) = graded(exercise, transport, &format!("solution_{exercise}"));
        assert_eq!((status, score), (Some(0), of), "{exercise}: {told:#}");
    }
}
