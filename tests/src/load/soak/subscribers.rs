//! Envoys' side of the agents: most read each secret and accept it, one opens a stream and never reads.

use tokio::task::JoinSet;

use crate::harness::sds::{Subscription, connect};
use crate::load::{Failure, Stage};

/// The name of an agent.
pub(super) fn agent(number: usize) -> String {
    format!("agent-{number}")
}

/// A subscriber that reads for each agent, and one that does not for the first. A task ends only if its stream does, or
/// if nothing new comes in time.
pub(super) async fn subscribe(stage: &Stage, agents: usize, tasks: &mut JoinSet<()>) -> Result<(), Failure> {
    for number in 0..agents {
        let channel = connect(&stage.path(&format!("{}.sock", agent(number)))).await;
        let mut reads = Subscription::open(&channel, &format!("reads-{number}"), "default").await;
        tasks.spawn(async move {
            while let Ok(push) = reads.next().await {
                reads.ack(&push);
            }
        });
        if number == 0 {
            let silent = Subscription::open(&channel, "silent", "default").await;
            tasks.spawn(async move {
                let _held = silent;
                std::future::pending::<()>().await;
            });
        }
    }
    Ok(())
}
