//! Turns the `.proto` files into Rust, without a protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "istio/v1/auth/citadel.proto",
        "signet/trust/v1/trust.proto",
        "signet/log/v1/record.proto",
        "envoy/service/secret/v3/sds.proto",
        "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    ];
    println!("cargo:rerun-if-changed=protos");
    let descriptors = protox::compile(files, ["protos"])?;
    tonic_prost_build::configure().codec_path("crate::codec::SmallMessages").compile_fds(descriptors)?;
    Ok(())
}
