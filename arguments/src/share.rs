//! Manual pages and completions, made from what can be typed, for `make install`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

/// Where man(1) and the shells look, below a folder like /usr/share.
const MANUAL: &str = "man/man1";
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions"),
    (Shell::Zsh, "zsh/site-functions"),
    (Shell::Fish, "fish/vendor_completions.d"),
];

const NAME: &str = "generate";
const FOLDER: &str = "DIR";

/// The subcommand that both programs have, and do not show.
pub fn command() -> Command {
    Command::new(NAME)
        .about("Write manual pages and completions into a folder, laid out like /usr/share")
        .hide(true)
        .arg(Arg::new(FOLDER).required(true).value_parser(value_parser!(PathBuf)))
}

/// The folder to write into, where that was asked for.
pub fn asked_for(matches: &ArgMatches) -> Option<&Path> {
    matches.subcommand_matches(NAME)?.get_one::<PathBuf>(FOLDER).map(PathBuf::as_path)
}

/// Writes a page for the program and each of its subcommands, and the completions of each shell.
pub fn generate(mut program: Command, share: &Path) -> io::Result<()> {
    let name = program.get_name().to_owned();
    let folder = |place| {
        let folder = share.join(place);
        fs::create_dir_all(&folder).map(|()| folder)
    };
    clap_mangen::generate_to(program.clone(), folder(MANUAL)?)?;
    for (shell, place) in SHELLS {
        clap_complete::generate_to(shell, &mut program, &name, folder(place)?)?;
    }
    Ok(())
}
