//! Compiles the `.proto` files with a compiler written in Rust, so that nobody needs `protoc`.

use std::path::PathBuf;

use prost::Message as _;

const ROOTS: [&str; 9] = [
    "dapr/proto/runtime/v1/dapr.proto",
    "dapr/proto/runtime/v1/appcallback.proto",
    "dapr/proto/internals/v1/service_invocation.proto",
    "google/rpc/status.proto",
    "google/rpc/error_details.proto",
    "grpc/reflection/v1/reflection.proto",
    "grpc/reflection/v1alpha/reflection.proto",
    "grpc/health/v1/health.proto",
    "opentelemetry/proto/trace.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(ROOTS, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Served by reflection, file by file.
    let mut descriptors = Vec::new();
    for file in &files.file {
        let mut bytes = Vec::new();

        file.encode(&mut bytes)?;
        descriptors.push((file.name().to_owned(), bytes));
    }
    let mut listing = String::from("pub static FILES: &[(&str, &[u8])] = &[\n");
    for (i, (name, bytes)) in descriptors.iter().enumerate() {
        let path = out.join(format!("descriptor_{i}.bin"));
        std::fs::write(&path, bytes)?;
        listing.push_str(&format!("    ({name:?}, include_bytes!({:?})),\n", path));
    }
    listing.push_str("];\n");
    std::fs::write(out.join("descriptors.rs"), listing)?;

    prost_build::Config::new()
        // Bodies are shared with the buffer that they came in, not copied; that includes google.protobuf.Any.
        .bytes(["."])
        .btree_map(["."])
        .compile_well_known_types()
        .include_file("all.rs")
        .compile_fds(files)?;
    Ok(())
}
