use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::mem;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use wasm_bindgen_futures::spawn_local;

use crate::platform;

/// Wakes whoever waits for something to change: what a condition variable is among threads.
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

    /// Waits until it is rung; after `at_most`, that is done from here.
    pub(crate) async fn wait_timeout(&self, at_most: Duration) {
        let bell = self.clone();
        spawn_local(async move {
            platform::sleep(at_most).await;
            bell.notify_all();
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
