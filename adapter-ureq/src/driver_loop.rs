//! The driver: one loop that performs the effects of every task of the core.

use std::sync::{Arc, PoisonError};
use std::thread;

use http::{Response, StatusCode};
use keybound_core::driver::{
    Event as CoreEvent, LeaseRequest, LoadRequest, PreparedCall, Refresh, RequestContext, Shared,
    Step, Task, Until,
};
use keybound_core::jose::Signature;
use keybound_core::{Cause, Error, Sent, SignRequest};

use crate::clock::{Clock, now};
use crate::event::Event;
use crate::session::Inner;
use crate::storage::{Lease, Storage};
use crate::transport::{Transport, was_sent};

/// What a task is run with, beside the transport.
#[derive(Default)]
pub(crate) struct Run<'a> {
    /// The session whose task it is.
    pub(crate) session: Option<&'a Arc<Inner>>,
    /// Sends the application's request.
    pub(crate) send: Option<&'a mut dyn FnMut(&mut PreparedCall) -> Attempt>,
    /// The response to the application's last request.
    pub(crate) response: Option<Response<ureq::Body>>,
}

/// The result of sending the application's request.
pub(crate) enum Attempt {
    Response(Response<ureq::Body>),
    /// The agent has turned the response into an error, without its headers.
    StatusOnly(StatusCode),
    Failed(ureq::Error),
}

impl Transport {
    /// Runs a task to its end.
    pub(crate) fn run<T: Task>(&self, task: T, run: &mut Run<'_>) -> Result<T::Output, Error> {
        let clock = Clock::start();
        let session = run.session;
        let step = self.step(&clock, session, |shared, context| {
            shared.start(task, context)
        })?;
        self.drive(step, &clock, run)
    }

    /// Performs the effects of a task, step by step.
    fn drive<T: Task>(
        &self,
        mut step: Step<T>,
        clock: &Clock,
        run: &mut Run<'_>,
    ) -> Result<T::Output, Error> {
        let session = run.session;
        // Released when it is dropped, also by a panic.
        let mut lease: Option<Box<dyn Lease + '_>> = None;
        let mut abandon = Abandon {
            transport: self,
            task: None,
        };
        loop {
            abandon.task = step.id();
            step = match step {
                Step::Done(result) => return result,
                Step::Send(mut awaiting) => match self.exchange(&mut awaiting.effect) {
                    Ok(response) => self.step(clock, session, |shared, context| {
                        awaiting.received(&response, shared, context)
                    }),
                    Err(error) => self.step(clock, session, |shared, context| {
                        let (sent, cause) = no_response(error);
                        awaiting.failed(sent, cause, shared, context)
                    }),
                },
                Step::Call(mut awaiting) => match run.call(&mut awaiting.effect) {
                    Attempt::Response(response) => {
                        let response = &*run.response.insert(response);
                        let (status, headers) = (response.status(), response.headers());
                        self.step(clock, session, |shared, context| {
                            awaiting.received(status, headers, shared, context)
                        })
                    }
                    Attempt::StatusOnly(status) => self.step(clock, session, |shared, context| {
                        awaiting.status_only(status, shared, context)
                    }),
                    Attempt::Failed(error) => self.step(clock, session, |shared, context| {
                        let (sent, cause) = no_response(error);
                        awaiting.failed(sent, cause, shared, context)
                    }),
                },
                Step::Sign(awaiting) => {
                    let signature = self.sign(&awaiting.effect, session);
                    self.step(clock, session, |shared, context| {
                        awaiting.signed(signature, shared, context)
                    })
                }
                Step::Wait(awaiting) => {
                    self.wait(awaiting.effect, clock);
                    self.step(clock, session, |shared, context| {
                        awaiting.woken(shared, context)
                    })
                }
                Step::Lease(awaiting) => {
                    let LeaseRequest { name, ttl } = &awaiting.effect;
                    let acquired = storage(session)
                        .and_then(|storage| storage.lease(name, *ttl).map_err(Cause::new));
                    let acquired = acquired.map(|acquired| {
                        lease = acquired;
                        lease.is_some()
                    });
                    self.step(clock, session, |shared, context| {
                        awaiting.leased(acquired, shared, context)
                    })
                }
                Step::Load(awaiting) => {
                    let LoadRequest { name } = &awaiting.effect;
                    let state =
                        storage(session).and_then(|storage| storage.load(name).map_err(Cause::new));
                    self.step(clock, session, |shared, context| {
                        awaiting.loaded(state, shared, context)
                    })
                }
                Step::Save(awaiting) => {
                    let state = &awaiting.effect.state;
                    let saved = match &mut lease {
                        Some(lease) => lease.save(state).map_err(Cause::new),
                        None => Err(Cause::new("there is no lease")),
                    };
                    self.step(clock, session, |shared, context| {
                        awaiting.saved(saved, shared, context)
                    })
                }
                Step::Release(awaiting) => {
                    lease = None;
                    self.step(clock, session, |shared, context| {
                        awaiting.released(shared, context)
                    })
                }
                Step::FetchToken(awaiting) => self.step(clock, session, |shared, context| {
                    let none = Err(Cause::new("this driver has no source of tokens"));
                    awaiting.fetched(none, shared, context)
                }),
            }?;
        }
    }

    /// Takes one step under the lock. Then wakes the tasks that wait for what it has changed, starts
    /// the refreshes that it has found due, and reports its events.
    pub(crate) fn step<T>(
        &self,
        clock: &Clock,
        session: Option<&Arc<Inner>>,
        step: impl FnOnce(&mut Shared, RequestContext) -> T,
    ) -> Result<T, Error> {
        let context = clock.context()?;
        let mut state = self.lock();
        let before = state.shared.generation();
        let result = step(&mut state.shared, context);
        let mut due = Vec::new();
        if let Some(session) = session {
            while let Some(refresh) = state.shared.next_refresh(session.id) {
                due.push(refresh);
            }
        }
        let mut events = Vec::new();
        while let Some(event) = state.shared.next_event() {
            events.push(event);
        }
        let has_changed = state.shared.generation() != before && state.waiting > 0;
        drop(state);
        // `notify_all` is a system call, even if no thread waits.
        if has_changed {
            self.changed.notify_all();
        }
        if let Some(session) = session {
            due.into_iter()
                .for_each(|refresh| Background::spawn(session, refresh, *clock));
        }
        events.iter().for_each(|event| self.emit_core(event));
        Ok(result)
    }

    /// Waits until a time, or until the shared state changes.
    fn wait(&self, until: Until, clock: &Clock) {
        let Some(generation) = until.unless_generation else {
            return thread::sleep(clock.until(until.time));
        };
        let mut state = self.lock();
        while state.shared.generation() == generation && !clock.until(until.time).is_zero() {
            state.waiting += 1;
            let guard = self.changed.wait_timeout(state, clock.until(until.time));
            state = guard.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    fn sign(
        &self,
        request: &SignRequest,
        session: Option<&Arc<Inner>>,
    ) -> Result<Signature, Cause> {
        let own = session.and_then(|session| session.signer.as_ref());
        let own = own.filter(|signer| signer.public().is_same_key(request.key()));
        match (own, &self.signer) {
            (Some(own), _) => own.sign(request),
            (None, Some(signer)) => signer.sign(request),
            (None, None) => {
                Err("there is none: set `SessionBuilder::dpop` or `Transport::signer`".into())
            }
        }
        .map_err(Cause::new)
    }

    fn emit_core(&self, event: &CoreEvent) {
        match event {
            CoreEvent::Retrying(retrying) => self.emit(Event::Retrying(*retrying)),
            CoreEvent::TokenRefreshed(token) => self.emit(Event::TokenRefreshed(token)),
            CoreEvent::RefreshFailed(error) => self.emit(Event::RefreshFailed(error)),
            CoreEvent::StorageUnavailable(cause) => {
                self.emit(Event::StorageUnavailable(cause.as_error()));
            }
            _ => {}
        }
    }
}

impl Run<'_> {
    fn call(&mut self, call: &mut PreparedCall) -> Attempt {
        match &mut self.send {
            Some(send) => send(call),
            None => Attempt::Failed(ureq::Error::BadUri("there is no request to send".into())),
        }
    }
}

/// Gives back what a task holds that has not ended, such as after a panic.
struct Abandon<'a> {
    transport: &'a Transport,
    task: Option<u64>,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.transport.lock().shared.abandon(task, now());
            self.transport.changed.notify_all();
        }
    }
}

/// A refresh in a thread of its own, so that the timeout of a caller does not abort a request that
/// consumes a single-use token. Without a thread it ends at once, as aborted.
struct Background {
    session: Arc<Inner>,
    clock: Clock,
    step: Option<Step<Refresh>>,
}

impl Background {
    fn spawn(session: &Arc<Inner>, refresh: Refresh, clock: Clock) {
        let start = |shared: &mut Shared, context| shared.start(refresh, context);
        let background = Self {
            step: session.transport.step(&clock, Some(session), start).ok(),
            session: Arc::clone(session),
            clock,
        };
        let _ = thread::Builder::new()
            .name("keybound-refresh".into())
            .spawn(move || background.run());
    }

    fn run(mut self) {
        if let Some(step) = self.step.take() {
            let mut run = Run {
                session: Some(&self.session),
                ..Run::default()
            };
            // The callers that wait for the token get the error.
            let _ = self.session.transport.drive(step, &self.clock, &mut run);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(Abandon {
            transport: &self.session.transport,
            task: self.step.as_ref().and_then(Step::id),
        });
    }
}

fn storage(session: Option<&Arc<Inner>>) -> Result<&dyn Storage, Cause> {
    let storage = session.and_then(|session| session.storage.as_deref());
    storage.ok_or_else(|| Cause::new("the session has no storage"))
}

/// Returns how far a request without a response came, and why.
fn no_response(error: ureq::Error) -> (Sent, Option<Cause>) {
    (was_sent(&error), Some(Cause::new(error)))
}
