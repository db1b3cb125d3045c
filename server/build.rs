//! How the server is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // At fixed addresses: a program that is relocated at its start writes to all pages that hold pointers, and
    // what a process has written to is what fork(2) copies, for each connection of `fork`.
    println!("cargo:rustc-link-arg-bins=-no-pie");
}
