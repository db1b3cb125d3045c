//! How the server is linked: for a process whose copies are cheap.
//!
//! `fork` pays for each connection with a copy of the process, and what a copy costs is how many mappings it
//! has, how many pages were written to, and how many pages the child touches anew. A program at fixed addresses
//! writes to no page in order to relocate itself, and one that is linked statically has a third of the mappings:
//! together they take a quarter off what a connection costs (docs/models.md).

use std::{env, fs, io, path::Path, process::Command};

/// The libraries that rustc asks for in their shared form, and the archives that stand for them.
const ARCHIVES: [(&str, &str); 3] =
    [("libgcc_s.so", "libgcc_eh.a"), ("libm.so", "libm.a"), ("libc.so", "libc.a")];

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
    if env::var("TARGET") == env::var("HOST")
        && env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu")
    {
        link_statically(Path::new(&env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?))?;
    }
    Ok(())
}

/// What `-C target-feature=+crt-static` does, which a package cannot ask for: with it no procedural macro builds.
/// In `scripts`, which the linker searches first, each library is a linker script that names its archive. Where
/// an archive is missing (some distributions have them in a package of their own) the program is linked as usual.
fn link_statically(scripts: &Path) -> io::Result<()> {
    for (library, archive) in ARCHIVES {
        let found = Command::new("cc").arg(format!("-print-file-name={archive}")).output()?;
        let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        if !Path::new(&path).is_absolute() {
            return Ok(());
        }
        fs::write(scripts.join(library), format!("INPUT({path})\n"))?;
    }
    println!("cargo:rustc-link-arg-bins=-static");
    println!("cargo:rustc-link-arg-bins=-L{}", scripts.display());
    Ok(())
}
