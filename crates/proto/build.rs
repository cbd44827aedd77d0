//! Compiles the `.proto` files with a compiler written in Rust, so that nobody needs `protoc`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet};

const ROOTS: [&str; 11] = [
    "dapr/proto/runtime/v1/dapr.proto",
    "dapr/proto/runtime/v1/appcallback.proto",
    "dapr/proto/internals/v1/service_invocation.proto",
    "google/rpc/status.proto",
    "google/rpc/error_details.proto",
    "grpc/reflection/v1/reflection.proto",
    "grpc/reflection/v1alpha/reflection.proto",
    "grpc/health/v1/health.proto",
    "outrigger/v1/health.proto",
    "outrigger/v1/lifecycle.proto",
    "opentelemetry/proto/trace.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(ROOTS, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.rs"), listing(&files, &out)?)?;

    prost_build::Config::new()
        // Bodies are shared with the buffer that they came in, not copied; that includes google.protobuf.Any.
        .bytes(["."])
        .btree_map(["."])
        .compile_well_known_types()
        .include_file("all.rs")
        .compile_fds(files)?;
    Ok(())
}

/// What reflection serves: files as they are, where each name is defined, what each file needs, the services.
fn listing(files: &FileDescriptorSet, out: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let mut listed = String::from("pub static FILES: &[File] = &[\n");
    let mut names = BTreeMap::new();
    let mut services = String::from("pub static SERVICES: &[(&str, &[&str])] = &[\n");
    for (i, file) in files.file.iter().enumerate() {
        let path = out.join(format!("descriptor_{i}.bin"));
        std::fs::write(&path, file.encode_to_vec())?;
        let (name, needs) = (file.name(), &file.dependency);
        writeln!(
            listed,
            "    File {{ name: {name:?}, bytes: include_bytes!({path:?}), needs: &{needs:?} }},"
        )?;
        for message in &file.message_type {
            name_message(&mut names, file.package(), message, i);
        }
        for service in &file.service {
            let full = format!("{}.{}", file.package(), service.name());
            let methods: Vec<&str> = service.method.iter().map(|method| method.name()).collect();
            for method in &methods {
                names.insert(format!("{full}.{method}"), i);
            }
            writeln!(services, "    ({full:?}, &{methods:?}),")?;
            names.insert(full, i);
        }
        for kind in &file.enum_type {
            names.insert(format!("{}.{}", file.package(), kind.name()), i);
        }
    }
    listed.push_str("];\n");
    services.push_str("];\n");
    let mut places = String::from("/// Sorted.\npub static NAMES: &[(&str, usize)] = &[\n");
    for (name, file) in names {
        writeln!(places, "    ({name:?}, {file}),")?;
    }
    places.push_str("];\n");
    Ok(listed + &services + &places)
}

fn name_message(
    names: &mut BTreeMap<String, usize>,
    scope: &str,
    message: &DescriptorProto,
    file: usize,
) {
    let full = format!("{scope}.{}", message.name());
    for inner in &message.nested_type {
        name_message(names, &full, inner, file);
    }
    for kind in &message.enum_type {
        names.insert(format!("{full}.{}", kind.name()), file);
    }
    names.insert(full, file);
}
