//! Most of these tests wait for something to happen elsewhere, so more of them run side by side than there are
//! processors. Cargo hands this variable on to the test programs that it starts.

fn main() {
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        println!("cargo:rustc-env=RUST_TEST_THREADS=10");
    }
    println!("cargo:rerun-if-env-changed=RUST_TEST_THREADS");
    println!("cargo:rerun-if-changed=build.rs");
}
