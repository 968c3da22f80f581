//! One schedule: the processes, their tasks and what these ask for, in virtual time. It ends with
//! a violation, or with the fate of each login.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, Method, header};
use keybound_core::driver::{
    Event as SessionEvent, MAX_RESPONSE, RequestContext, SessionConfig, SessionId, SessionState,
    Shared, Task,
};
use keybound_core::{Grant, RefreshPolicy, Secret, Token, UnixTime};

use crate::choices::{Choices, MAX_LAG};
use crate::plan::{
    ABANDON, ABANDON_WITH_LEASE, Action, CLOCK_BACK, CLOCK_FORWARD, Clients, KILL,
    KILL_WITHOUT_GRANT, Origin, Plan, STALL,
};
use crate::servers::{Login, Nonces, Proof, Revoked, TokenRequest, read_body, refusal};
use crate::storage::{Storage, Stored, parse_name};
use crate::tasks::{AnyStep, Ended, Need, NeedKind, Reply, Running, TaskKind};

macro_rules! say {
    ($world:expr, $($text:tt)*) => {
        if $world.story.is_some() {
            let text = format!($($text)*);
            $world.tell(&text);
        }
    };
}

mod effects;
mod fates;
#[cfg(feature = "record")]
mod recordings;

/// The time at the start of each schedule.
const EPOCH: u64 = 1_700_000_000_000;
/// The refresh timeout of the sessions, and so the time of a lease, in milliseconds.
const REFRESH_TIMEOUT: u64 = 1000;
/// The maximum number of requests of one call: four attempts with two corrections of the nonce
/// each, with two tokens.
const MAX_REQUESTS: u32 = 24;
const MAX_SENDS: u32 = 10;
/// The maximum number of calls that find out whether a login has survived.
const PROBES: u32 = 3;
/// By when all tasks must have ended.
const QUIET_AFTER: u64 = 100_000;
/// After this time, each token, lease and backoff has ended.
const LONG_AFTER: u64 = 400_000;

/// A broken invariant.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) text: String,
    pub(crate) step: u32,
    pub(crate) time: u64,
}

/// What became of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Alive,
    LoggedOut,
    /// The server consumed the refresh token, and its answer or the save did not survive.
    LostAnswer,
    /// The refresh token was sent ten times without an answer.
    Bound,
    /// The server ended the login.
    EndedByServer,
    /// The clock of a process jumped while it had the lease.
    ClockJump,
    /// The process was killed, and there is no storage.
    NoStorage,
    /// The process was killed before it stored the login, and restarted without it.
    NeverStored,
}

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) fates: Vec<Fate>,
    pub(crate) faults: u32,
    pub(crate) steps: u32,
}

/// What all schedules together have reached.
#[derive(Debug)]
pub(crate) struct Coverage {
    /// Hashes of the states of exhaustive schedules.
    pub(crate) states: Option<BTreeSet<u64>>,
    /// Which answers have come to which effects of which tasks, after which effects.
    pub(crate) pairs: Vec<bool>,
}

impl Coverage {
    pub(crate) fn new(counts_states: bool) -> Self {
        Self {
            states: counts_states.then(BTreeSet::new),
            pairs: vec![false; 4 * 16 * 16 * 32],
        }
    }
}

impl Coverage {
    pub(crate) fn merge(&mut self, other: &Self) {
        for (pair, reached) in self.pairs.iter_mut().zip(&other.pairs) {
            *pair |= reached;
        }
    }
}

#[derive(Debug)]
struct Event {
    at: u64,
    order: u64,
    process: usize,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A request arrives at a server or the storage. The last parts name the task.
    Arrive(Request, u64, u64, u32),
    /// An answer comes to a task: its number and its turn.
    Answer(u64, u32, Reply),
    Start(Action),
}

#[derive(Debug)]
enum Request {
    /// The server, the request, and whether the answer is lost.
    Token(usize, TokenRequest, Lost),
    /// The server, the access token and the proof of a call.
    Call(usize, (usize, usize), Proof, Lost),
    Lease(String, u64, bool),
    Load(String, bool),
    Save(String, u64, Vec<u8>, bool),
    Release(String, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    No,
    Yes,
    /// A gateway replaces the answer.
    Replaced,
    /// The server refuses a good token, and ends the login.
    Refused,
    /// Only the status is readable.
    Head,
}

#[derive(Debug)]
struct Process {
    client: usize,
    shared: Shared,
    session: SessionId,
    /// The difference between its clock and the world's, in milliseconds.
    offset: i64,
    clock_jumped_at: Option<u64>,
    stalled_until: u64,
    tasks: Vec<Running>,
    known: Option<Known>,
    /// Whether it has seen a log-out in the storage, or has logged out itself.
    is_logged_out: bool,
    had_grant: bool,
}

/// A token that a process has.
#[derive(Debug)]
struct Known {
    access: usize,
    expires: UnixTime,
    is_rejected: bool,
}

#[derive(Debug)]
pub(crate) struct World<'a> {
    plan: Plan,
    clients: &'a Clients,
    pub(crate) choices: Choices,
    coverage: &'a mut Coverage,
    now: u64,
    orders: u64,
    steps: u32,
    numbers: u64,
    last_process: usize,
    events: Vec<Event>,
    processes: Vec<Process>,
    storage: Storage,
    logins: Vec<Login>,
    /// Of the authorization servers, then of the resource servers.
    nonces: [Vec<Nonces>; 2],
    /// Access tokens that the resource server refuses.
    refused: Vec<(usize, usize)>,
    /// Access tokens whose save has begun.
    saving: Vec<(usize, usize)>,
    /// The logins for which a log-out has begun, and has completed.
    log_outs: Vec<(bool, bool)>,
    /// Faults that may cost a send without a request.
    interruptions: u32,
    killed: bool,
    is_calm: bool,
    /// The names of the sessions in the storage, by client.
    names: Vec<String>,
    alive: Vec<bool>,
    probes: Vec<u32>,
    story: Option<Vec<String>>,
    /// The recordings of the processes that have ended, if they are recorded.
    #[cfg(feature = "record")]
    recordings: recordings::Recordings,
}

impl<'a> World<'a> {
    pub(crate) fn new(
        plan: Plan,
        clients: &'a Clients,
        choices: Choices,
        coverage: &'a mut Coverage,
        tells: bool,
    ) -> Self {
        let count = plan.clients();
        let nonces = |role: &str, required| {
            let of = |server| Nonces {
                prefix: format!("{role}{server}-"),
                number: 0,
                required,
            };
            vec![of(0), of(1)]
        };
        let (of_as, of_rs) = match plan.is_bound {
            true => plan.nonces,
            false => (false, false),
        };
        Self {
            clients,
            choices,
            coverage,
            now: 0,
            orders: 0,
            steps: 0,
            numbers: 0,
            last_process: 0,
            events: Vec::with_capacity(32),
            processes: Vec::with_capacity(plan.processes.len()),
            storage: Storage::default(),
            logins: (0..count).map(|_| Login::new(plan.rotation)).collect(),
            nonces: [nonces("as", of_as), nonces("rs", of_rs)],
            refused: Vec::new(),
            saving: Vec::new(),
            log_outs: vec![(false, false); count],
            interruptions: 0,
            killed: false,
            is_calm: false,
            names: Vec::new(),
            alive: Vec::new(),
            probes: Vec::new(),
            story: tells.then(Vec::new),
            #[cfg(feature = "record")]
            recordings: None,
            plan,
        }
    }

    /// Returns what has happened, step by step.
    pub(crate) fn story(&self) -> String {
        self.story.as_deref().unwrap_or_default().join("\n")
    }

    fn tell(&mut self, text: &str) {
        let line = format!("{:>4} {:>7} ms  {text}", self.steps, self.now);
        self.story
            .iter_mut()
            .for_each(|story| story.push(line.clone()));
    }

    /// Runs the schedule to its end.
    pub(crate) fn run(&mut self) -> Result<Outcome, Violation> {
        let plan = format!("{:?}", self.plan.origin);
        say!(
            self,
            "a world of {} processes, {plan}, storage {}, bound {}, {:?}, two servers {}",
            self.plan.processes.len(),
            self.plan.has_storage,
            self.plan.is_bound,
            self.plan.rotation,
            self.plan.two_servers
        );
        self.set_up();
        for process in 0..self.plan.processes.len() {
            self.boot(process, true)?;
        }
        for (process, time, action) in std::mem::take(&mut self.plan.actions) {
            self.push(time, process, What::Start(action));
        }
        self.play()?;
        let fates = self.find_fates()?;
        Ok(Outcome {
            fates,
            faults: self.choices.faults,
            steps: self.steps,
        })
    }

    /// Stores the logins that begin in the storage.
    fn set_up(&mut self) {
        for client in 0..self.plan.clients() {
            let name = self.config(client, false).storage_name();
            self.names.push(name.unwrap_or_default());
            if self.plan.origin != Origin::Repeatable {
                let login = &mut self.logins[client];
                login.access_tokens.push(0);
            }
            if self.plan.origin == Origin::Stored {
                let token = self.token(client, UnixTime::from_millis(EPOCH - 10_000));
                let state = SessionState::new(token).to_json().expose().to_vec();
                self.storage.entry(&self.names[client]).state = Some(state);
                self.logins[client].refresh_tokens[0].was_saved = true;
            }
        }
    }

    /// The first token of a login: its response, parsed by a client that is nobody's.
    fn token(&self, client: usize, received: UnixTime) -> Token {
        let kind = if self.plan.is_bound { "DPoP" } else { "Bearer" };
        let body = format!(
            r#"{{"access_token":"a{client}.0","token_type":"{kind}","expires_in":3,"refresh_token":"r{client}.0"}}"#
        );
        let client = self.clients.client(&self.plan, client);
        let operation = client.token(Grant::client_credentials()).unwrap();
        let mut shared = Shared::new();
        let context = || RequestContext::new(received, [0; 16]);
        let mut step = shared.start(operation, context());
        loop {
            step = match step {
                keybound_core::driver::Step::Sign(awaiting) => {
                    let signature = keybound_core::jose::Signature::from_jose(
                        keybound_core::jose::Algorithm::EdDsa,
                        &[7; 64],
                    );
                    awaiting.signed(Ok(signature.unwrap()), &mut shared, context())
                }
                keybound_core::driver::Step::Send(awaiting) => {
                    let response = http::Response::new(body.clone());
                    awaiting.received(&response, &mut shared, context())
                }
                keybound_core::driver::Step::Done(token) => return token.unwrap(),
                other => panic!("{other:?}"),
            };
        }
    }

    fn config(&self, client: usize, with_grant: bool) -> SessionConfig {
        let policy = RefreshPolicy::default()
            .refresh_before_expiry(Duration::from_millis(600))
            .refresh_timeout(Duration::from_millis(REFRESH_TIMEOUT))
            .retry_interval(Duration::from_millis(100));
        let mut config = SessionConfig::new(self.clients.client(&self.plan, client).clone())
            .policy(policy)
            .timeout(Duration::from_millis(800));
        if self.plan.has_storage {
            config = config.stored_as("login");
        }
        if self.plan.fetches_tokens {
            config = config.fetch_tokens();
        }
        match self.plan.origin {
            Origin::Grant if with_grant => {
                let secret = Secret::new(format!("r{client}.0"));
                config.grant(Grant::refresh_token(secret).unwrap())
            }
            Origin::Given if with_grant => {
                config.token(self.token(client, UnixTime::from_millis(EPOCH)))
            }
            Origin::Repeatable => config.grant(Grant::client_credentials()),
            _ => config,
        }
    }

    // Events.

    fn push(&mut self, delay: u64, process: usize, what: What) {
        self.orders += 1;
        self.events.push(Event {
            at: self.now + delay,
            order: self.orders,
            process,
            what,
        });
    }

    /// Runs until nothing is left to happen.
    fn play(&mut self) -> Result<(), Violation> {
        let limit = self.now + QUIET_AFTER;
        while let Some(event) = self.next_event() {
            if self.is_stale(&event) {
                continue;
            }
            self.steps += 1;
            self.now = event.at;
            if self.now > limit || self.steps > 20_000 {
                return self.fail("quiescence", "the world does not come to rest");
            }
            self.last_process = event.process;
            self.happen(event)?;
            self.count_state();
        }
        for process in 0..self.processes.len() {
            if let Some(task) = self.processes[process].tasks.first() {
                let text = format!("process {process} still has a task: {:?}", task.need);
                return self.fail("quiescence", &text);
            }
        }
        Ok(())
    }

    fn next_event(&mut self) -> Option<Event> {
        let at = self.events.iter().map(|event| event.at).min()?;
        let mut due: Vec<usize> = Vec::with_capacity(4);
        for (index, event) in self.events.iter().enumerate() {
            if event.at == at {
                due.push(index);
            }
        }
        due.sort_by_key(|index| {
            let event = &self.events[*index];
            (event.process != self.last_process, event.order)
        });
        let first = match due.len() {
            1 => 0,
            count => self.choices.order(count),
        };
        Some(self.events.remove(due[first]))
    }

    /// Whether the task has ended, or has got another answer.
    fn is_stale(&self, event: &Event) -> bool {
        let What::Answer(number, turn, _) = &event.what else {
            return false;
        };
        let mut tasks = self.processes[event.process].tasks.iter();
        !tasks.any(|task| task.number == *number && task.turn == *turn)
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        let process = event.process;
        let is_stalled = self.processes[process].stalled_until > event.at;
        match event.what {
            What::Arrive(request, after, task, turn) => {
                self.arrive(process, request, after, task, turn)?;
                self.interrupt(process, Some(task)).map(|_| ())
            }
            _ if is_stalled => {
                let delay = self.processes[process].stalled_until - event.at;
                self.push(delay, process, event.what);
                Ok(())
            }
            What::Start(action) => self.act(process, action),
            What::Answer(number, turn, reply) => self.answer(process, number, turn, reply),
        }
    }

    fn fail<T>(&mut self, rule: &'static str, text: &str) -> Result<T, Violation> {
        say!(self, "VIOLATION of {rule}: {text}");
        Err(Violation {
            rule,
            text: text.to_owned(),
            step: self.steps,
            time: self.now,
        })
    }

    // Processes.

    fn boot(&mut self, process: usize, with_grant: bool) -> Result<(), Violation> {
        let client = self.plan.processes.get(process).copied();
        let client = client.unwrap_or(process.saturating_sub(self.plan.processes.len()));
        let config = self.config(client, with_grant);
        #[cfg(not(feature = "record"))]
        let mut shared = Shared::new();
        #[cfg(feature = "record")]
        let mut shared = recordings::shared(&self.recordings);
        let offset = match self.choices.chance(200) {
            true => i64::try_from(self.choices.below(4000)).unwrap() - 2000,
            false => 0,
        };
        let old = self.processes.get(process);
        let offset = old.map_or(offset, |old| old.offset);
        let now = UnixTime::from_millis(EPOCH + self.now);
        let session = shared.open(config, now);
        let known = match self.plan.origin {
            Origin::Given if with_grant => Some(Known {
                access: 0,
                expires: UnixTime::from_millis(EPOCH + 3000),
                is_rejected: false,
            }),
            _ => None,
        };
        let new = Process {
            client,
            shared,
            session,
            offset,
            clock_jumped_at: None,
            stalled_until: 0,
            tasks: Vec::with_capacity(4),
            known,
            is_logged_out: false,
            had_grant: with_grant,
        };
        match self.processes.get_mut(process) {
            Some(old) => {
                #[cfg(feature = "record")]
                recordings::keep(&mut self.recordings, &mut old.shared);
                *old = new;
            }
            None => self.processes.push(new),
        }
        say!(
            self,
            "process {process} starts, with its grant or token: {with_grant}"
        );
        self.settle(process)
    }

    fn local(&self, process: usize) -> UnixTime {
        let now = i64::try_from(EPOCH + self.now).unwrap() + self.processes[process].offset;
        UnixTime::from_millis(u64::try_from(now).unwrap())
    }

    fn context(&mut self, process: usize) -> RequestContext {
        let lag = Duration::from_millis(self.choices.lag());
        let now = self.local(process).saturating_sub(lag);
        RequestContext::new(now, self.choices.entropy())
    }

    fn act(&mut self, process: usize, action: Action) -> Result<(), Violation> {
        let session = self.processes[process].session;
        let client = self.processes[process].client;
        say!(self, "process {process}: the application starts {action:?}");
        let uri = self.clients.resource(&self.plan, client);
        match action {
            Action::Call | Action::Probe => {
                let call = session.call(&Method::GET, uri).unwrap();
                if action == Action::Probe {
                    self.probes[process] += 1;
                }
                self.start(process, call, AnyStep::Call, action == Action::Probe)
            }
            Action::Post => {
                let mut call = session.call(&Method::POST, uri).unwrap();
                if self.choices.varies(256) {
                    call = call.single_use_body();
                }
                self.start(process, call, AnyStep::Call, false)
            }
            Action::Token => {
                let token = session.token(Duration::from_secs(30));
                self.start(process, token, AnyStep::Token, false)
            }
            Action::LogOut => {
                self.log_outs[client].0 = true;
                self.processes[process].is_logged_out = true;
                self.processes[process].known = None;
                self.start(process, session.log_out(), AnyStep::LogOut, false)
            }
        }
    }

    fn start<T: Task>(
        &mut self,
        process: usize,
        task: T,
        kind: impl Fn(keybound_core::driver::Step<T>) -> AnyStep,
        is_probe: bool,
    ) -> Result<(), Violation> {
        let (context, stepped) = (self.context(process), self.local(process));
        let step = kind(self.processes[process].shared.start(task, context));
        self.numbers += 1;
        let running = Running {
            number: self.numbers,
            turn: 0,
            step,
            need: NeedKind::Nothing,
            before: NeedKind::Nothing,
            unless_generation: None,
            started: self.now,
            stepped,
            fence: None,
            loaded: None,
            save_failed: false,
            saved: None,
            ends_login: false,
            requests: 0,
            clock_jumped: false,
            used: None,
            status: 0,
            is_probe,
            sent: None,
        };
        self.after(process, running)
    }

    /// Gives an answer to a task.
    fn answer(
        &mut self,
        process: usize,
        number: u64,
        turn: u32,
        reply: Reply,
    ) -> Result<(), Violation> {
        let tasks = &mut self.processes[process].tasks;
        let at = tasks.iter().position(|task| task.number == number);
        let Some(at) = at.filter(|at| tasks[*at].turn == turn) else {
            return Ok(());
        };
        let mut running = tasks.swap_remove(at);
        let pair =
            (running.step.kind().index() * 16 + running.before.index()) * 16 + running.need.index();
        self.coverage.pairs[pair * 32 + reply.index()] = true;
        if self.story.is_some() {
            let shown = match &reply {
                Reply::Loaded(Ok(Some(state))) => format!("Loaded({:?})", Stored::read(state)),
                other => format!("{other:?}"),
            };
            let kind = running.step.kind();
            self.tell(&format!(
                "process {process}: {kind:?} {number} gets {shown}"
            ));
        }
        self.learn(process, &mut running, &reply)?;
        let context = self.context(process);
        running.stepped = self.local(process);
        running.step = running
            .step
            .answer(reply, &mut self.processes[process].shared, context);
        self.after(process, running)
    }

    /// Counts this state of the world, if it is counted.
    fn count_state(&mut self) {
        if self.coverage.states.is_none() {
            return;
        }
        let mut hasher = std::hash::DefaultHasher::new();
        let mut events: Vec<_> = self
            .events
            .iter()
            .map(|event| event.at - self.now)
            .collect();
        events.sort_unstable();
        events.hash(&mut hasher);
        for process in 0..self.processes.len() {
            let now = self.local(process);
            let this = &self.processes[process];
            let (shared, session) = (&this.shared, this.session);
            let token = shared.view(session, now);
            let token = token.map(|(_, token, _)| token.access_token().expose().to_owned());
            (shared.is_open(session, now), shared.is_refreshing(session)).hash(&mut hasher);
            (
                shared.is_unsaved(session),
                shared.is_unsafe_to_exit(session),
            )
                .hash(&mut hasher);
            (token, this.offset, this.had_grant, this.is_logged_out).hash(&mut hasher);
            for task in &this.tasks {
                let (kind, need) = (task.step.kind().index(), task.need.index());
                (kind, need, task.before.index(), task.fence, task.saved).hash(&mut hasher);
            }
        }
        for login in &self.logins {
            (login.revoked.is_some(), login.access_tokens.len()).hash(&mut hasher);
            for token in &login.refresh_tokens {
                (
                    token.consumed_at.is_some(),
                    token.unanswered,
                    token.was_saved,
                )
                    .hash(&mut hasher);
            }
        }
        self.storage.hash_states(&mut hasher);
        let state = hasher.finish();
        self.coverage.states.iter_mut().for_each(|states| {
            states.insert(state);
        });
    }
}
