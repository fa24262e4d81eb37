//! What the programs take when nothing happens, and how soon the first certificate comes.

use std::time::{Duration, Instant};

use super::issuing::{Callers, ask, connect};
use super::{Failure, Stage};

/// Idle memory and start-up.
pub struct Footprint {
    /// From the CA's exec until it listens.
    pub listens_after: Duration,
    /// From the CA's exec until a client has a certificate.
    pub first_certificate_after: Duration,
    /// Of the CA after that certificate, in bytes.
    pub ca_memory: u64,
    /// Of the agent with its certificate, in bytes.
    pub agent_memory: u64,
}

/// Starts a CA on an empty data folder, gets a certificate, then starts an agent against it.
pub async fn measure(stage: &Stage) -> Result<Footprint, Failure> {
    let callers = Callers::new(stage)?;
    let began = Instant::now();
    let ca = stage.start_ca()?;
    let channel = connect(stage, &ca.address).await?;
    ask(channel, &callers, 0).await?;
    let first_certificate_after = began.elapsed();
    let ca_memory = ca.memory()?;
    let agent = stage.start_agent("agent", &ca.address, &[])?;
    Ok(Footprint {
        listens_after: ca.started_in,
        first_certificate_after,
        ca_memory,
        agent_memory: agent.memory()?,
    })
}
