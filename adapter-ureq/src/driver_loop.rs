//! The driver: one loop that performs the effects of every task of the core.

use std::sync::{Arc, PoisonError};
use std::{iter, mem, thread};

use http::{Response, StatusCode};
use keybound_core::driver::{
    Event as CoreEvent, LeaseRequest, LoadRequest, PreparedCall, Refresh, Step, Task, Until,
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
        let step = self.lock().shared.start(task, clock.context()?);
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
            session,
            task: None,
        };
        loop {
            abandon.task = step.id();
            self.after_step(session, clock);
            step = match step {
                Step::Done(result) => return result,
                Step::Send(mut it) => match self.exchange(&mut it.effect) {
                    Ok(response) => {
                        it.received(&response, &mut self.lock().shared, clock.context()?)
                    }
                    Err(error) => {
                        let (sent, cause) = no_response(error);
                        it.failed(sent, cause, &mut self.lock().shared, clock.context()?)
                    }
                },
                Step::Call(mut it) => match run.call(&mut it.effect) {
                    Attempt::Response(response) => {
                        let response = run.response.insert(response);
                        let (status, headers) = (response.status(), response.headers());
                        it.received(status, headers, &mut self.lock().shared, clock.context()?)
                    }
                    Attempt::StatusOnly(status) => {
                        it.status_only(status, &mut self.lock().shared, clock.context()?)
                    }
                    Attempt::Failed(error) => {
                        let (sent, cause) = no_response(error);
                        it.failed(sent, cause, &mut self.lock().shared, clock.context()?)
                    }
                },
                Step::Sign(it) => {
                    let signature = self.sign(&it.effect, session);
                    it.signed(signature, &mut self.lock().shared, clock.context()?)
                }
                Step::Wait(it) => {
                    self.wait(it.effect, clock);
                    it.woken(&mut self.lock().shared, clock.context()?)
                }
                Step::Lease(it) => {
                    let LeaseRequest { name, ttl } = &it.effect;
                    let acquired = storage(session)
                        .and_then(|storage| storage.lease(name, *ttl).map_err(Cause::new));
                    let acquired = acquired.map(|acquired| {
                        lease = acquired;
                        lease.is_some()
                    });
                    it.leased(acquired, &mut self.lock().shared, clock.context()?)
                }
                Step::Load(it) => {
                    let LoadRequest { name } = &it.effect;
                    let state =
                        storage(session).and_then(|storage| storage.load(name).map_err(Cause::new));
                    it.loaded(state, &mut self.lock().shared, clock.context()?)
                }
                Step::Save(it) => {
                    let saved = match &mut lease {
                        Some(lease) => lease.save(&it.effect.state).map_err(Cause::new),
                        None => Err(Cause::new("there is no lease")),
                    };
                    it.saved(saved, &mut self.lock().shared, clock.context()?)
                }
                Step::Release(it) => {
                    lease = None;
                    it.released(&mut self.lock().shared, clock.context()?)
                }
                Step::FetchToken(it) => {
                    let none = Err(Cause::new("this driver has no source of tokens"));
                    it.fetched(none, &mut self.lock().shared, clock.context()?)
                }
            };
        }
    }

    /// Starts the refreshes that a step has found due, reports its events, and wakes the tasks that
    /// wait for what it has changed.
    pub(crate) fn after_step(&self, session: Option<&Arc<Inner>>, clock: &Clock) {
        let mut state = self.lock();
        let generation = state.shared.generation();
        let has_changed = mem::replace(&mut state.notified, generation) != generation;
        let must_notify = has_changed && state.waiting > 0;
        let mut due = Vec::new();
        if let Some(session) = session {
            session.cache.publish(state.shared.version(session.id));
            while let Some(refresh) = state.shared.next_refresh(session.id) {
                due.push(refresh);
            }
        }
        let events: Vec<_> = iter::from_fn(|| state.shared.next_event()).collect();
        drop(state);
        if let Some(session) = session {
            due.into_iter()
                .for_each(|refresh| Background::spawn(session, refresh, *clock));
        }
        events.iter().for_each(|event| self.emit_core(event));
        // `notify_all` is a system call, even if no thread waits.
        if must_notify {
            self.changed.notify_all();
        }
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
    session: Option<&'a Arc<Inner>>,
    task: Option<u64>,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            let mut state = self.transport.lock();
            state.shared.abandon(task, now());
            if let Some(session) = self.session {
                session.cache.publish(state.shared.version(session.id));
            }
            drop(state);
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
        // Without entropy, the refresh is due again after its timeout.
        let context = clock.context().ok();
        let start = |context| session.transport.lock().shared.start(refresh, context);
        let background = Self {
            step: context.map(start),
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
            session: Some(&self.session),
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
