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
pub(crate) struct Bell(Rc<State>);

#[derive(Default)]
struct State {
    rung: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.0.rung.set(self.0.rung.get().wrapping_add(1));
        for waker in mem::take(&mut *self.0.waiting.borrow_mut()) {
            waker.wake();
        }
    }

    /// Waits until it is rung; after `at_most`, that is done from here.
    pub(crate) async fn rung_within(&self, at_most: Duration) {
        let bell = self.clone();
        spawn_local(async move {
            platform::sleep(at_most).await;
            bell.ring();
        });
        let before = self.0.rung.get();
        poll_fn(|context| {
            if self.0.rung.get() != before {
                return Poll::Ready(());
            }
            self.0.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
