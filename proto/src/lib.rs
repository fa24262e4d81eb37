//! Wire formats, package by package as in `protos/`; generated, but for [`codec`].
#![allow(clippy::all, clippy::pedantic, rustdoc::all)]

pub mod codec;

/// Istio's certificate call.
pub mod istio {
    pub mod v1 {
        pub mod auth {
            tonic::include_proto!("istio.v1.auth");
        }
    }
}

/// Signet's own protocols.
pub mod signet {
    pub mod trust {
        pub mod v1 {
            tonic::include_proto!("signet.trust.v1");
        }
    }
    pub mod log {
        pub mod v1 {
            tonic::include_proto!("signet.log.v1");
        }
    }
}

/// The part of Envoy's API that secret discovery needs.
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
        pub mod secret {
            pub mod v3 {
                tonic::include_proto!("envoy.service.secret.v3");
            }
        }
    }
    pub mod extensions {
        pub mod transport_sockets {
            pub mod tls {
                pub mod v3 {
                    tonic::include_proto!("envoy.extensions.transport_sockets.tls.v3");
                }
            }
        }
    }
}

/// Shared by the above.
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}
