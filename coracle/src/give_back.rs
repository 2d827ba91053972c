//! Gives memory back to the machine after very many objects were created or removed: the heap keeps it
//! otherwise.

use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiServer;
use tokio::time::sleep;

/// Until controllers and caches have followed.
const FOLLOWED_AFTER: Duration = Duration::from_secs(10);
/// Until every watch that follows has got further.
const WATCHED_AFTER: Duration = Duration::from_secs(15);
/// Until the threads that had work have ended, and given back what they kept for their next calls.
const THREADS_ENDED_AFTER: Duration = Duration::from_secs(15);
/// Creations and removals that may go on meanwhile without another round.
const FEW: u64 = 50;

/// Gives free memory back some time after many changes, which take more for a moment than they are
/// worth, until there are no more of them.
pub async fn run(server: Arc<ApiServer>) {
    loop {
        server.many_changed().await;
        loop {
            sleep(FOLLOWED_AFTER).await;
            trim().await;
            server.take_churn();
            let revision = server.store().revision();
            sleep(WATCHED_AFTER).await;
            // What has gone lies in memory between what the history of watches still holds.
            server.store().forget_history_until(revision);
            // So does what the journal holds. An error is that of the next writer.
            let _ = server.store().settle().await;
            trim().await;
            if server.take_churn() <= FEW {
                break;
            }
        }
        sleep(THREADS_ENDED_AFTER).await;
        trim().await;
    }
}

async fn trim() {
    // A panic is impossible, and a runtime that ends needs no memory.
    let _ = tokio::task::spawn_blocking(runtime::give_memory_back).await;
}
