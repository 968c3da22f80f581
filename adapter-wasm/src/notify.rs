use std::task::{Poll, Waker};
use std::{cell::RefCell, future::poll_fn, pin::pin, time::Duration};

use crate::platform;

/// A condition variable for the tasks of one thread.
#[derive(Default)]
pub(crate) struct Notify(RefCell<Vec<Waker>>);

impl Notify {
    pub(crate) fn notify_all(&self) {
        self.0.take().into_iter().for_each(Waker::wake);
    }

    /// Waits while `condition` is true, which is evaluated now and after each `notify_all`, and at
    /// most for `timeout`.
    pub(crate) async fn wait_timeout_while(&self, timeout: Duration, condition: impl Fn() -> bool) {
        let end = poll_fn(|context| {
            if !condition() {
                return Poll::Ready(());
            }
            self.0.borrow_mut().push(context.waker().clone());
            Poll::Pending
        });
        within(timeout, end).await;
    }
}

/// Returns the result of `future`, or `None` after `timeout`.
pub(crate) async fn within<T>(timeout: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut timer = pin!(platform::sleep(timeout));
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => timer.as_mut().poll(context).map(|()| None),
    })
    .await
}
