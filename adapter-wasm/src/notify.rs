use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::mem;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use wasm_bindgen_futures::spawn_local;

use crate::platform;

/// A condition variable for the tasks of one thread: wakes all waiting tasks.
#[derive(Clone, Default)]
pub(crate) struct Notify(Rc<State>);

#[derive(Default)]
struct State {
    notified: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Notify {
    pub(crate) fn notify_all(&self) {
        self.0.notified.set(self.0.notified.get().wrapping_add(1));
        for waker in mem::take(&mut *self.0.waiting.borrow_mut()) {
            waker.wake();
        }
    }

    /// Waits for the next `notify_all`. After `timeout`, calls it, which may wake other tasks early.
    pub(crate) async fn wait_timeout(&self, timeout: Duration) {
        let notify = self.clone();
        spawn_local(async move {
            platform::sleep(timeout).await;
            notify.notify_all();
        });
        let before = self.0.notified.get();
        poll_fn(|context| {
            if self.0.notified.get() != before {
                return Poll::Ready(());
            }
            self.0.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
