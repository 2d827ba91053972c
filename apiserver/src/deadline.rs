//! The end of a request's time, after which it writes nothing.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::ApiError;

/// Time beyond its own for which the answer of a request is awaited while it is writing.
const WRITE_WAIT: Duration = Duration::from_secs(30);

/// The time of one request, which its writes ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadline(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_over: bool,
    writes: usize,
}

/// A write that has begun in time.
#[derive(Debug)]
pub(crate) struct Writing(Deadline);

/// Ends the time of a request on drop, when its client is answered or gone.
#[derive(Debug)]
pub(crate) struct EndsOnDrop(Deadline);

impl Deadline {
    /// Begins a write; refuses it when the time is over.
    pub(crate) fn write(&self) -> Result<Writing, ApiError> {
        let mut state = self.lock();
        if state.is_over {
            return Err(ApiError::timed_out());
        }
        state.writes += 1;
        Ok(Writing(self.clone()))
    }

    /// Refuses to go on when the time is over.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        if self.lock().is_over { Err(ApiError::timed_out()) } else { Ok(()) }
    }

    /// Ends the time when the returned guard is dropped.
    pub(crate) fn ends_on_drop(&self) -> EndsOnDrop {
        EndsOnDrop(self.clone())
    }

    /// Waits for `work` as long as `time`, and then for a write that has begun, to return its
    /// outcome. Nothing is written after 504 was answered, unless that says so.
    pub(crate) async fn limit<T>(
        &self,
        time: Duration,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        self.limit_write(time, WRITE_WAIT, work).await
    }

    async fn limit_write<T>(
        &self,
        time: Duration,
        write_wait: Duration,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let mut work = pin!(work);
        if let Ok(result) = tokio::time::timeout(time, work.as_mut()).await {
            return result;
        }
        if !self.end() {
            return Err(ApiError::timed_out());
        }
        let waited = tokio::time::timeout(write_wait, work).await;
        waited.unwrap_or_else(|_| Err(ApiError::timed_out_while_writing()))
    }

    /// Ends the time; returns whether a write is under way.
    fn end(&self) -> bool {
        let mut state = self.lock();
        state.is_over = true;
        state.writes > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.lock().writes -= 1;
    }
}

impl Drop for EndsOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SOON: Duration = Duration::from_millis(30);

    #[tokio::test]
    async fn nothing_is_written_after_the_end() {
        let deadline = Deadline::default();
        let late = deadline.clone();
        let slow = async {
            tokio::time::sleep(2 * SOON).await;
            Ok(())
        };
        let answer = deadline.limit(SOON, slow).await.unwrap_err();
        assert_eq!(answer.code(), http::StatusCode::GATEWAY_TIMEOUT);
        assert!(late.write().is_err() && late.check().is_err());
    }

    #[tokio::test]
    async fn outcome_of_a_write_under_way_is_told() {
        let deadline = Deadline::default();
        let writes = async {
            let writing = deadline.write()?;
            tokio::time::sleep(3 * SOON).await;
            drop(writing);
            assert!(deadline.write().is_err(), "a second one is too late");
            Ok(7)
        };
        assert_eq!(deadline.limit(SOON, writes).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn endless_write_has_an_unknown_outcome() {
        let deadline = Deadline::default();
        let writes = async {
            let _writing = deadline.write()?;
            std::future::pending::<Result<(), ApiError>>().await
        };
        let answer = deadline.limit_write(SOON, SOON, writes).await.unwrap_err();
        assert!(answer.status()["message"].as_str().unwrap().ends_with("unknown"));
    }

    #[test]
    fn client_that_leaves_ends_the_time() {
        let deadline = Deadline::default();
        drop(deadline.ends_on_drop());
        assert!(deadline.write().is_err());
    }
}
