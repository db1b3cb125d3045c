use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
    thread,
};

use nix::{
    sys::stat::Mode,
    unistd::{Gid, Uid, chown, mkfifo},
};

use super::*;

fn text(text: &str) -> impl Content {
    move |file: &mut dyn Write| file.write_all(text.as_bytes())
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_file_is_replaced_whole_and_nothing_else_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("groups.json");
    fs::write(&path, "what was there").unwrap();
    can_be_written(&path).unwrap();
    assert_eq!((read(&path).as_str(), files(folder.path())), ("what was there", 1));
    replace(&path, text("new")).unwrap();
    assert_eq!((read(&path).as_str(), files(folder.path())), ("new", 1));
}

#[test]
fn what_a_killed_writer_left_is_removed_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("groups.json");
    let killed = || std::mem::forget(Place::of_file(&path).unwrap().draft().unwrap());
    // The kernel closes the file of one that is killed, and with it goes the lock.
    let left = || fs::write(folder.path().join(".groups.json.new"), "half of").unwrap();
    left();
    can_be_written(&path).unwrap();
    assert_eq!(files(folder.path()), 0);
    left();
    replace(&path, text("new")).unwrap();
    assert_eq!((read(&path).as_str(), files(folder.path())), ("new", 1));
    killed();
    assert_eq!(files(folder.path()), 2, "what is locked is being written");
}

#[test]
fn what_somebody_writes_now_is_nobody_elses_to_remove() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("groups.json");
    let writer = Draft::new(&path).unwrap();
    can_be_written(&path).unwrap();
    let sentence = replace(&path, text("new")).unwrap_err().to_string();
    assert!(sentence.contains("another program writes it now; choose"), "{sentence}");
    writer.persist().unwrap();
    replace(&path, text("new")).unwrap();
    assert_eq!(files(folder.path()), 1);
}

#[test]
fn what_cannot_be_written_is_a_sentence_and_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere/groups.json");
    let sentence = replace(&nowhere, text("new")).unwrap_err().to_string();
    assert!(sentence.starts_with(&format!("{}: its folder does not", nowhere.display())), "{sentence}");
    assert!(sentence.contains("; choose"), "{sentence}");
    assert!(replace(folder.path(), text("")).unwrap_err().to_string().contains("what is there is no file"));
    assert_eq!(files(folder.path()), 0);
    let path = folder.path().join("kept");
    fs::write(&path, "what was there").unwrap();
    let fails = |file: &mut dyn Write| {
        file.write_all(&[b'x'; 100_000])?;
        Err(io::Error::from(ErrorKind::StorageFull))
    };
    replace(&path, fails).unwrap_err();
    assert_eq!((read(&path).as_str(), files(folder.path())), ("what was there", 1));
}

#[test]
fn a_new_file_is_like_any_that_this_process_makes_and_an_old_one_keeps_owner_and_permissions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    replace(&path, text("new")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let other = folder.path().join("other");
    OpenOptions::new().write(true).create_new(true).mode(0o666).open(&other).unwrap();
    assert_eq!(mode(&path), mode(&other));

    for wanted in [0o600, 0o640, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).unwrap();
        if Uid::effective().is_root() {
            chown(&path, Some(Uid::from_raw(1000)), Some(Gid::from_raw(1001))).unwrap();
        }
        let before = fs::metadata(&path).unwrap();
        replace(&path, text("again")).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_ne!(before.ino(), after.ino(), "it was replaced");
        assert_eq!((mode(&path), before.uid(), before.gid()), (wanted, after.uid(), after.gid()));
    }
}

#[test]
fn a_link_stays_and_the_file_that_it_leads_to_is_replaced_or_made() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("inner")).unwrap();
    symlink("inner/real", at("link")).unwrap();
    symlink(at("link"), at("inner/link")).unwrap();
    for content in ["made", "replaced"] {
        replace(&at("inner/link"), text(content)).unwrap();
        assert_eq!(read(&at("inner/real")), content);
    }
    assert!(["link", "inner/link"].iter().all(|link| at(link).is_symlink()));
    assert_eq!((files(folder.path()), files(&at("inner"))), (2, 2));
    symlink("loop", at("loop")).unwrap();
    replace(&at("loop"), text("")).unwrap_err();
}

#[test]
fn a_device_and_a_pipe_are_written_into_and_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, null) = (folder.path().join("pipe"), folder.path().join("null"));
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    symlink("/dev/null", &null).unwrap();
    for path in [&pipe, &null, Path::new("/dev/stdout")] {
        let sentence = replace(path, text("")).unwrap_err().to_string();
        assert!(sentence.contains("what is there is no file"), "{sentence}");
    }
    let said = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut said = String::new();
            File::open(&pipe).unwrap().read_to_string(&mut said).unwrap();
            said
        });
        let output = Output::open(&pipe).unwrap();
        output.write(text("all of it")).unwrap();
        drop(output);
        reader.join().unwrap()
    });
    assert_eq!(said, "all of it");
    Output::open(&null).unwrap().write(text("nobody reads this")).unwrap();
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo() && null.is_symlink());
    assert_eq!(files(folder.path()), 2);
}

#[test]
fn a_descriptor_is_written_into_whatever_it_leads_to() {
    let mut file = tempfile::tempfile().unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    file.write_all(b"what was there, which is longer").unwrap();
    Output::open(Path::new(&path)).unwrap().write(text("new")).unwrap();
    assert_eq!(read(Path::new(&path)), "new");
    assert!(replace(Path::new(&path), text("")).is_err());
}

#[test]
fn two_paths_of_one_file_are_one_however_they_are_spelled() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("inner")).unwrap();
    symlink(folder.path(), at("inner/link")).unwrap();
    symlink("same", at("alias")).unwrap();
    for there in [false, true] {
        for other in ["./same", "inner/../same", "inner/link/same", "alias"] {
            assert!(are_one(&at("same"), &at(other)), "{other}, {there}");
        }
        assert!(!are_one(&at("same"), &at("other")) && !are_one(&at("same"), &at("inner/same")));
        fs::write(at("same"), "").unwrap();
    }
    fs::hard_link(at("same"), at("second name")).unwrap();
    assert!(are_one(&at("same"), &at("second name")));
    assert!(!are_one(Path::new("/dev/null"), Path::new("/dev/null")), "which holds nothing");
}

/// As in a container that is lent a file: it is a mount point, and its folder cannot be written to.
#[test]
fn what_nothing_can_take_the_place_of_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lent");
    fs::write(&path, "what was there, which is longer").unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    overwrite(&file, &text("new")).unwrap();
    assert_eq!(read(&path), "new");
    overwrite(&file, &text("longer than that")).unwrap();
    assert_eq!(read(&path), "longer than that");
    for kind in [ErrorKind::PermissionDenied, ErrorKind::ResourceBusy, ErrorKind::ReadOnlyFilesystem] {
        assert!(place::is_of_the_place(&kind.into()));
    }
}
