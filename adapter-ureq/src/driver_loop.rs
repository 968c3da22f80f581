//! The driver: one loop that performs the effects of every task of the core.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::{iter, mem, thread, time::Duration};

use http::{Response, StatusCode};
use keybound_core::driver::{
    Event as CoreEvent, LeaseRequest, PreparedCall, Refresh, RequestContext, Shared, Step, Task,
    Until,
};
use keybound_core::jose::Signature;
use keybound_core::{Cause, Error, Sent, SignRequest};

use crate::clock::{Clock, Entropy, now};
use crate::storage::{Lease, Storage, StorageError};
use crate::transport::{State, Transport, was_sent};
use crate::{event::Event, session::Inner};

/// The result of sending the application's request: the response, or its status alone if the agent
/// has turned it into an error, without its headers.
pub(crate) type Attempt = Result<Result<Response<ureq::Body>, StatusCode>, ureq::Error>;

/// The output of a task, and the last response to the application's request.
type Ended<T> = (<T as Task>::Output, Option<Response<ureq::Body>>);

impl Transport {
    /// Runs a task of a session, or of none, to its end.
    pub(crate) fn run<T: Task>(
        &self,
        task: T,
        session: Option<&Arc<Inner>>,
    ) -> Result<T::Output, Error> {
        Ok(self.run_with(task, session, &mut no_request)?.0)
    }

    /// Runs a task to its end. `send` sends the application's request.
    pub(crate) fn run_with<T: Task>(
        &self,
        task: T,
        session: Option<&Arc<Inner>>,
        send: &mut dyn FnMut(&mut PreparedCall) -> Attempt,
    ) -> Result<Ended<T>, Error> {
        let mut run = Run::new(self, session);
        let step = run.step(|shared, context| shared.start(task, context))?;
        run.drive(step, send)
    }

    /// Starts the refreshes that a step has found due, reports its events, and wakes the tasks that
    /// wait for what it has changed.
    pub(crate) fn after_step(
        &self,
        mut state: MutexGuard<'_, State>,
        session: Option<&Arc<Inner>>,
    ) {
        let generation = state.shared.generation();
        let has_changed = mem::replace(&mut state.notified, generation) != generation;
        let must_notify = has_changed && state.waiting > 0;
        let thread = session.and_then(|session| {
            session.cache.publish(state.shared.version(session.id));
            let due = state.shared.newly_due(session.id)?;
            state.refreshes.add(session, due)
        });
        let events: Vec<_> = iter::from_fn(|| state.shared.next_event()).collect();
        drop(state);
        #[cfg(feature = "record")]
        self.write_recording();
        if let Some(thread) = thread {
            thread.start();
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
        let is_unchanged = |shared: &Shared| shared.generation() == generation;
        self.wait_while(is_unchanged, || clock.until(until.time));
    }

    /// Waits while `condition` is true, until no time is left. Returns whether it has become false.
    pub(crate) fn wait_while(
        &self,
        condition: impl Fn(&Shared) -> bool,
        left: impl Fn() -> Duration,
    ) -> bool {
        let mut state = self.lock();
        while condition(&state.shared) {
            let left = left();
            if left.is_zero() {
                return false;
            }
            state.waiting += 1;
            let guard = self.changed.wait_timeout(state, left);
            state = guard.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
        true
    }

    fn sign(
        &self,
        request: &SignRequest,
        session: Option<&Arc<Inner>>,
    ) -> Result<Signature, Cause> {
        let own = session.and_then(|session| session.signer.as_ref());
        let own = own.filter(|signer| signer.public().is_same_key(request.key()));
        let signed = own.map(|signer| signer.sign(request));
        let signed = signed.or_else(|| Some(self.signer.as_ref()?.sign(request)));
        let none = "there is none: set `SessionBuilder::dpop` or `Transport::signer`";
        let signed = signed.unwrap_or_else(|| Err(none.into()));
        signed.map_err(Cause::new)
    }

    fn emit_core(&self, event: &CoreEvent) {
        self.emit(match event {
            CoreEvent::Retrying(event) => Event::Retrying(event),
            CoreEvent::TokenRefreshed(event) => Event::TokenRefreshed(event),
            CoreEvent::RefreshFailed(event) => Event::RefreshFailed(event),
            CoreEvent::LoginLost(event) => Event::LoginLost(event),
            CoreEvent::LeaseAwaited(event) => Event::LeaseAwaited(event),
            CoreEvent::StorageUnavailable(event) => Event::StorageUnavailable(event),
            _ => return,
        });
    }
}

/// Sends the request of a task that has none.
fn no_request(_: &mut PreparedCall) -> Attempt {
    Err(ureq::Error::BadUri("there is no request to send".into()))
}

/// A task in progress. What it holds is given back if it is dropped before its end, such as by a
/// panic.
struct Run<'a> {
    transport: &'a Transport,
    session: Option<&'a Arc<Inner>>,
    clock: Clock,
    entropy: Entropy,
    task: Option<u64>,
}

impl<'a> Run<'a> {
    fn new(transport: &'a Transport, session: Option<&'a Arc<Inner>>) -> Self {
        Self {
            transport,
            session,
            clock: Clock::start(),
            entropy: Entropy::default(),
            task: None,
        }
    }

    /// Performs the effects of a task, step by step.
    fn drive<T: Task>(
        &mut self,
        mut step: Step<T>,
        send: &mut dyn FnMut(&mut PreparedCall) -> Attempt,
    ) -> Result<Ended<T>, Error> {
        let (transport, session) = (self.transport, self.session);
        let mut last_response = None;
        // Released when it is dropped, also by a panic.
        let mut lease: Option<Box<dyn Lease + '_>> = None;
        loop {
            step = match step {
                Step::Done(result) => return Ok((result?, last_response)),
                Step::Send(mut it) => match transport.exchange(&mut it.effect, session) {
                    Ok(response) => self.step(|shared, cx| it.received(&response, shared, cx)),
                    Err(error) => {
                        let (sent, cause) = no_response(error);
                        self.step(|shared, cx| it.failed(sent, cause, shared, cx))
                    }
                },
                Step::Call(mut it) => match send(&mut it.effect) {
                    Ok(Ok(response)) => {
                        let response = last_response.insert(response);
                        let (status, headers) = (response.status(), response.headers());
                        self.step(|shared, cx| it.received(status, headers, shared, cx))
                    }
                    Ok(Err(status)) => self.step(|shared, cx| it.status_only(status, shared, cx)),
                    Err(error) => {
                        let (sent, cause) = no_response(error);
                        self.step(|shared, cx| it.failed(sent, cause, shared, cx))
                    }
                },
                Step::Sign(it) => {
                    let signature = transport.sign(&it.effect, session);
                    self.step(|shared, cx| it.signed(signature, shared, cx))
                }
                Step::Wait(it) => {
                    transport.wait(it.effect, &self.clock);
                    self.step(|shared, cx| it.woken(shared, cx))
                }
                Step::Lease(it) => {
                    let LeaseRequest { name, ttl } = &it.effect;
                    let acquired = storage(session).and_then(|storage| storage.lease(name, *ttl));
                    let acquired = acquired.map_err(Cause::new).map(|acquired| {
                        lease = acquired;
                        lease.is_some()
                    });
                    self.step(|shared, cx| it.leased(acquired, shared, cx))
                }
                Step::Load(it) => {
                    let state = storage(session).and_then(|storage| storage.load(&it.effect.name));
                    let state = state.map_err(Cause::new);
                    self.step(|shared, cx| it.loaded(state, shared, cx))
                }
                Step::Save(it) => {
                    let saved = match &mut lease {
                        Some(lease) => lease.save(&it.effect.state).map_err(Cause::new),
                        None => Err(Cause::new("there is no lease")),
                    };
                    self.step(|shared, cx| it.saved(saved, shared, cx))
                }
                Step::Release(it) => {
                    lease = None;
                    self.step(|shared, cx| it.released(shared, cx))
                }
                Step::FetchToken(it) => {
                    let none = Err(Cause::new("this driver has no source of tokens"));
                    self.step(|shared, cx| it.fetched(none, shared, cx))
                }
            }?;
        }
    }

    fn context(&self, entropy: [u8; 16]) -> RequestContext {
        #[cfg(feature = "record")]
        if let Some(context) = self.transport.set_inputs() {
            return context;
        }
        RequestContext::new(self.clock.now(), entropy)
    }

    /// Takes one step of the task, and does what follows from it. The state is locked once for both.
    fn step<T: Task>(
        &mut self,
        next: impl FnOnce(&mut Shared, RequestContext) -> Step<T>,
    ) -> Result<Step<T>, Error> {
        let entropy = self.entropy.next()?;
        let mut state = self.transport.lock();
        let context = self.context(entropy);
        let step = next(&mut state.shared, context);
        self.task = step.id();
        self.transport.after_step(state, self.session);
        Ok(step)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            let mut state = self.transport.lock();
            state.shared.abandon(task, now());
            if let Some(session) = self.session {
                session.cache.publish(state.shared.version(session.id));
            }
            drop(state);
            #[cfg(feature = "record")]
            self.transport.write_recording();
            self.transport.changed.notify_all();
        }
    }
}

/// A refresh that has taken its first step. Aborted if it is dropped without [`run`](Self::run).
pub(crate) struct StartedRefresh {
    session: Arc<Inner>,
    step: Option<Step<Refresh>>,
}

/// Starts the refresh of a session that is due.
pub(crate) fn start_refresh(session: Arc<Inner>) -> Option<StartedRefresh> {
    let mut run = Run::new(&session.transport, Some(&session));
    // Without entropy, the refresh is due again after its timeout.
    let step = run.step(|shared, context| match shared.next_refresh(session.id) {
        Some(refresh) => shared.start(refresh, context),
        None => Step::Done(Ok(())),
    });
    run.task = None;
    drop(run);
    let step = Some(step.ok()?);
    Some(StartedRefresh { session, step })
}

impl StartedRefresh {
    /// Runs the refresh to its end. The callers that wait for the token get the error.
    pub(crate) fn run(mut self) {
        if let Some(step) = self.step.take() {
            let mut run = Run::new(&self.session.transport, Some(&self.session));
            run.task = step.id();
            let _ = run.drive(step, &mut no_request);
        }
    }
}

impl Drop for StartedRefresh {
    fn drop(&mut self) {
        if let Some(step) = self.step.take() {
            Run::new(&self.session.transport, Some(&self.session)).task = step.id();
        }
    }
}

fn storage(session: Option<&Arc<Inner>>) -> Result<&dyn Storage, StorageError> {
    let storage = session.and_then(|session| session.storage.as_deref());
    storage.ok_or_else(|| "the session has no storage".into())
}

/// Returns how far a request without a response came, and why.
fn no_response(error: ureq::Error) -> (Sent, Option<Cause>) {
    (was_sent(&error), Some(Cause::new(error)))
}
