//! The steps of a task: each is an effect, and the only value that takes its answer.

use std::fmt;

use http::{HeaderMap, Response, StatusCode};

use crate::jose::Signature;
use crate::jose::signing::SignRequest;
use crate::request::attempt::HAS_EVENTS;
use crate::request::effect::{
    Answer, Effect, FetchToken, LeaseRequest, LoadRequest, Next, PreparedCall, PreparedRequest,
    ReleaseRequest, SaveRequest, Until,
};
use crate::request::operation::{FromResponse, Operation};
use crate::request::servers::Turn;
#[cfg(feature = "record")]
use crate::session::recorder::Recorder;
use crate::session::shared::{SessionId, Shared};
use crate::types::error::{Error, Sent};
use crate::types::time::{RequestContext, UnixTime};
use crate::types::{cause::Cause, secret::SecretBytes};

/// A procedure that a driver runs step by step: an [`Operation`], a
/// [`Call`](crate::Call), a token, a refresh or a log-out. Tasks are plain data. Sealed: only types
/// of this crate implement it.
pub trait Task: Sized + sealed::Sealed {
    /// The result of the task.
    type Output;

    /// Takes the answer to the last effect.
    #[doc(hidden)]
    fn advance(&mut self, answer: Answer<'_>, cx: &mut TaskContext<'_>) -> Next<Self::Output>;

    /// Returns the session whose requests the task sends.
    #[doc(hidden)]
    fn session(&self) -> Option<SessionId> {
        None
    }

    /// Records the task, before its start. Returns whether a replay can start it.
    #[cfg(feature = "record")]
    #[doc(hidden)]
    fn record(&self, _recorder: &mut Recorder) -> bool {
        false
    }

    /// Returns the outline of the result.
    #[cfg(feature = "record")]
    #[doc(hidden)]
    fn outcome(&self, _output: &Self::Output) -> String {
        "the end".to_owned()
    }
}

/// The inputs of one step of a task, besides the answer.
#[expect(missing_debug_implementations, reason = "it has the shared state")]
#[expect(unnameable_types, reason = "`Task` is sealed")]
pub struct TaskContext<'a> {
    /// The id of the task.
    pub(crate) id: u64,
    pub(crate) shared: &'a mut Shared,
    pub(crate) request: &'a RequestContext,
}

impl TaskContext<'_> {
    pub(crate) fn now(&self) -> UnixTime {
        self.request.now
    }

    /// Returns the inputs of a step of the task's request.
    pub(crate) fn turn(&mut self) -> Turn<'_> {
        Turn {
            id: self.id,
            servers: &mut self.shared.servers,
            context: self.request,
        }
    }
}

pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "it seals `Task`")]
    pub trait Sealed {}
}

/// What a task needs next, or its result. Each effect owns its data, so a driver may be blocking or
/// `async`.
#[must_use = "a task does nothing until its effects are performed"]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum Step<T: Task> {
    /// Send this request to an authorization server, and answer with the whole response.
    Send(Awaiting<Box<PreparedRequest>, T>),
    /// Send the application's request with these headers, and answer with the head of the response.
    Call(Awaiting<PreparedCall, T>),
    /// Sign this.
    Sign(Awaiting<SignRequest, T>),
    /// Wait.
    Wait(Awaiting<Until, T>),
    /// Ask the storage for the lease of a session.
    Lease(Awaiting<LeaseRequest, T>),
    /// Load the stored state of a session.
    Load(Awaiting<LoadRequest, T>),
    /// Save the state of a session under the lease.
    Save(Awaiting<SaveRequest, T>),
    /// End the lease.
    Release(Awaiting<ReleaseRequest, T>),
    /// Get a token response from the application.
    FetchToken(Awaiting<FetchToken, T>),
    /// The task has ended.
    Done(Result<T::Output, Error>),
}

/// An effect, and the task that waits for its answer. A driver that drops it without an answer calls
/// [`Shared::abandon`] with its [`id`](Self::id). A driver that must own a request takes it out of
/// the effect by [`mem::take`](std::mem::take).
#[must_use = "the task waits for the answer"]
#[derive(Clone, PartialEq, Eq)]
pub struct Awaiting<E, T> {
    /// What to perform.
    pub effect: E,
    id: u64,
    task: T,
}

/// A task and its result, for a driver whose loop is to be compiled once for all types of tasks. An
/// `async` loop is large.
#[derive(Debug)]
pub struct Running<T: Task> {
    task: T,
    output: Option<T::Output>,
}

/// A [`Running`] task whose type is erased. It has no result of its own.
pub struct Erased<'a>(&'a mut dyn AnyTask);

trait AnyTask {
    fn advance(&mut self, answer: Answer<'_>, cx: &mut TaskContext<'_>) -> Next<()>;
    fn session(&self) -> Option<SessionId>;
    #[cfg(feature = "record")]
    fn record(&self, recorder: &mut Recorder) -> bool;
    #[cfg(feature = "record")]
    fn outcome(&self) -> String;
}

impl<T: Task> Running<T> {
    /// Prepares a task, which a driver then runs as [`erase`](Self::erase) returns it.
    pub fn new(task: T) -> Self {
        Self { task, output: None }
    }

    /// Returns the task to run.
    pub fn erase(&mut self) -> Erased<'_> {
        Erased(self)
    }

    /// Returns the result, if the task has succeeded.
    pub fn into_output(self) -> Option<T::Output> {
        self.output
    }
}

impl<T: Task> AnyTask for Running<T> {
    fn advance(&mut self, answer: Answer<'_>, cx: &mut TaskContext<'_>) -> Next<()> {
        let Self { task, output } = self;
        let next = task.advance(answer, cx);
        next.then(|result| Next::Done(result.map(|result| *output = Some(result))))
    }

    fn session(&self) -> Option<SessionId> {
        self.task.session()
    }

    #[cfg(feature = "record")]
    fn record(&self, recorder: &mut Recorder) -> bool {
        self.task.record(recorder)
    }

    #[cfg(feature = "record")]
    fn outcome(&self) -> String {
        let output = self.output.as_ref();
        output.map_or(String::new(), |output| self.task.outcome(output))
    }
}

impl sealed::Sealed for Erased<'_> {}

impl Task for Erased<'_> {
    type Output = ();

    fn advance(&mut self, answer: Answer<'_>, cx: &mut TaskContext<'_>) -> Next<()> {
        self.0.advance(answer, cx)
    }

    fn session(&self) -> Option<SessionId> {
        self.0.session()
    }

    #[cfg(feature = "record")]
    fn record(&self, recorder: &mut Recorder) -> bool {
        self.0.record(recorder)
    }

    #[cfg(feature = "record")]
    fn outcome(&self, (): &()) -> String {
        self.0.outcome()
    }
}

impl fmt::Debug for Erased<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Erased").finish_non_exhaustive()
    }
}

impl Shared {
    /// Starts a task.
    pub fn start<T: Task>(&mut self, task: T, context: RequestContext) -> Step<T> {
        let id = self.next_id();
        #[cfg(feature = "record")]
        self.record_start(id, &task);
        self.advance(id, task, Answer::Go, &context)
    }

    fn advance<T: Task>(
        &mut self,
        id: u64,
        mut task: T,
        answer: Answer<'_>,
        context: &RequestContext,
    ) -> Step<T> {
        #[cfg(feature = "record")]
        self.record_answer(id, &answer, context);
        let mut cx = TaskContext {
            id,
            shared: self,
            request: context,
        };
        let next = task.advance(answer, &mut cx);
        if HAS_EVENTS && !self.servers.retries.is_empty() {
            self.report_retries(task.session());
        }
        #[cfg(feature = "record")]
        self.record_next(id, &task, &next);
        let effect = match next {
            Next::Effect(effect) => effect,
            Next::Done(result) => return Step::Done(result),
        };
        match effect {
            Effect::Send(effect) => Step::Send(Awaiting { effect, id, task }),
            Effect::Call(effect) => Step::Call(Awaiting { effect, id, task }),
            Effect::Sign(effect) => Step::Sign(Awaiting { effect, id, task }),
            Effect::Wait(effect) => Step::Wait(Awaiting { effect, id, task }),
            Effect::Lease(effect) => Step::Lease(Awaiting { effect, id, task }),
            Effect::Load(effect) => Step::Load(Awaiting { effect, id, task }),
            Effect::Save(effect) => Step::Save(Awaiting { effect, id, task }),
            Effect::Release(effect) => Step::Release(Awaiting { effect, id, task }),
            Effect::Fetch(effect) => Step::FetchToken(Awaiting { effect, id, task }),
        }
    }
}

impl<T: Task> Step<T> {
    /// Returns the id of the task, which [`Shared::abandon`] takes; `None` after its end.
    pub fn id(&self) -> Option<u64> {
        match self {
            Self::Send(Awaiting { id, .. })
            | Self::Call(Awaiting { id, .. })
            | Self::Sign(Awaiting { id, .. })
            | Self::Wait(Awaiting { id, .. })
            | Self::Lease(Awaiting { id, .. })
            | Self::Load(Awaiting { id, .. })
            | Self::Save(Awaiting { id, .. })
            | Self::Release(Awaiting { id, .. })
            | Self::FetchToken(Awaiting { id, .. }) => Some(*id),
            Self::Done(_) => None,
        }
    }
}

impl<E, T: Task> Awaiting<E, T> {
    /// Returns the id of the task.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn answer(self, answer: Answer<'_>, shared: &mut Shared, context: RequestContext) -> Step<T> {
        shared.advance(self.id, self.task, answer, &context)
    }
}

impl<T: Task> Awaiting<Box<PreparedRequest>, T> {
    /// Continues with the response: any status, all headers, and at most
    /// [`MAX_RESPONSE`](crate::driver::MAX_RESPONSE) + 1 bytes of the body.
    pub fn received<B: AsRef<[u8]>>(
        self,
        response: &Response<B>,
        shared: &mut Shared,
        context: RequestContext,
    ) -> Step<T> {
        let answer = Answer::Response {
            status: response.status(),
            headers: response.headers(),
            body: response.body().as_ref(),
        };
        self.answer(answer, shared, context)
    }

    /// Continues without a response. [`Sent::No`] requires certainty that no byte reached the
    /// server.
    pub fn failed(
        self,
        sent: Sent,
        cause: Option<Cause>,
        shared: &mut Shared,
        context: RequestContext,
    ) -> Step<T> {
        self.answer(Answer::NoResponse(sent, cause), shared, context)
    }
}

impl<T: Task> Awaiting<PreparedCall, T> {
    /// Continues with the head of the response. The body stays with the driver: it is the
    /// application's if the task ends.
    pub fn received(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        shared: &mut Shared,
        context: RequestContext,
    ) -> Step<T> {
        self.answer(Answer::Head { status, headers }, shared, context)
    }

    /// Continues with the status of a response whose headers the driver can't read. The request is
    /// sent again to read them only if it is idempotent (RFC 9110 §9.2.2).
    pub fn status_only(
        self,
        status: StatusCode,
        shared: &mut Shared,
        context: RequestContext,
    ) -> Step<T> {
        self.answer(Answer::StatusOnly(status), shared, context)
    }

    /// Continues without a response. [`Sent::No`] requires certainty that no byte reached the
    /// server.
    pub fn failed(
        self,
        sent: Sent,
        cause: Option<Cause>,
        shared: &mut Shared,
        context: RequestContext,
    ) -> Step<T> {
        self.answer(Answer::NoResponse(sent, cause), shared, context)
    }
}

impl<T: Task> Awaiting<SignRequest, T> {
    /// Continues with the signature, or with the error of the signer.
    pub fn signed(
        self,
        signature: Result<Signature, Cause>,
        shared: &mut Shared,
        context: RequestContext,
    ) -> Step<T> {
        let Self { effect, id, task } = self;
        let jws = match signature {
            Ok(signature) => effect.complete(&signature),
            Err(cause) => Err(Error::Signer(cause)),
        };
        shared.advance(id, task, Answer::Signed(jws), &context)
    }
}

impl<T: Task> Awaiting<Until, T> {
    /// Continues after the wait.
    pub fn woken(self, shared: &mut Shared, context: RequestContext) -> Step<T> {
        self.answer(Answer::Go, shared, context)
    }
}

impl<T: Task> Awaiting<LeaseRequest, T> {
    /// Continues with whether the lease was acquired. Another holder may have it.
    pub fn leased(
        self,
        acquired: Result<bool, Cause>,
        shared: &mut Shared,
        context: RequestContext,
    ) -> Step<T> {
        self.answer(Answer::Leased(acquired), shared, context)
    }
}

impl<T: Task> Awaiting<LoadRequest, T> {
    /// Continues with the stored state, if there is one.
    pub fn loaded(
        self,
        state: Result<Option<SecretBytes>, Cause>,
        shared: &mut Shared,
        context: RequestContext,
    ) -> Step<T> {
        self.answer(Answer::Loaded(state), shared, context)
    }
}

impl<T: Task> Awaiting<SaveRequest, T> {
    /// Continues with whether the state was saved: `false` if the lease has expired and a later one
    /// has already saved its state.
    pub fn saved(
        self,
        saved: Result<bool, Cause>,
        shared: &mut Shared,
        context: RequestContext,
    ) -> Step<T> {
        self.answer(Answer::Saved(saved), shared, context)
    }
}

impl<T: Task> Awaiting<ReleaseRequest, T> {
    /// Continues after the end of the lease.
    pub fn released(self, shared: &mut Shared, context: RequestContext) -> Step<T> {
        self.answer(Answer::Released, shared, context)
    }
}

impl<T: Task> Awaiting<FetchToken, T> {
    /// Continues with the token response, as JSON, or with the error of the application.
    pub fn fetched(
        self,
        response: Result<SecretBytes, Cause>,
        shared: &mut Shared,
        context: RequestContext,
    ) -> Step<T> {
        self.answer(Answer::Fetched(response), shared, context)
    }
}

impl<E, T> fmt::Debug for Awaiting<E, T>
where
    E: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaiting")
            .field("effect", &self.effect)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<T: FromResponse> sealed::Sealed for Operation<T> {}

impl<T: FromResponse> Task for Operation<T> {
    type Output = T;

    fn advance(&mut self, answer: Answer<'_>, cx: &mut TaskContext<'_>) -> Next<T> {
        Self::advance(self, answer, &mut cx.turn())
    }
}
