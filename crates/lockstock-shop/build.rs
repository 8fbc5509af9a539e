//! Migrations are embedded at compile time, so a new one requires a new build.
fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
