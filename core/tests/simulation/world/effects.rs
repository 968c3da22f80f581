//! The effects of tasks: how they are performed, and what must hold for each of them.

use super::*;

/// The server, the access token and the proof of a call.
type SentCall = (usize, (usize, usize), Proof);

/// How far the time of a proof may be from that of a server that checks it, in milliseconds.
const MAX_AGE: i64 = 5_000;

impl World<'_> {
    /// Performs what a task needs after a step, unless its process is killed first.
    pub(super) fn after(&mut self, process: usize, mut running: Running) -> Result<(), Violation> {
        let need = running.step.need();
        running.turn += 1;
        (running.before, running.need) = (running.need, need.kind());
        running.unless_generation = None;
        let (number, turn) = (running.number, running.turn);
        if let Need::Done(ended) = need {
            self.end(process, &running, ended)?;
            return self.settle(process);
        }
        self.processes[process].tasks.push(running);
        if self.interrupt(process, Some(number))? {
            return Ok(());
        }
        let at = self.find(process, number).unwrap();
        self.perform(process, at, need, turn)?;
        self.settle(process)
    }

    fn find(&self, process: usize, number: u64) -> Option<usize> {
        let tasks = &self.processes[process].tasks;
        tasks.iter().position(|task| task.number == number)
    }

    /// Does what a driver does after each step: starts refreshes, wakes tasks, takes events.
    pub(super) fn settle(&mut self, process: usize) -> Result<(), Violation> {
        let this = &mut self.processes[process];
        while let Some(event) = this.shared.next_event() {
            if let SessionEvent::TokenRefreshed(event) = &event {
                let token = &event.token;
                let (_, access) = parse_name(token.access_token().expose(), 'a').unwrap();
                this.known = token.expires_at().map(|expires| Known {
                    access,
                    expires,
                    is_rejected: false,
                });
            }
            if let Some(story) = &mut self.story {
                let text = match &event {
                    SessionEvent::TokenRefreshed(event) => {
                        format!("has the token {}", event.token.access_token().expose())
                    }
                    SessionEvent::RefreshFailed(event) => event.to_string(),
                    SessionEvent::Retrying(event) => event.to_string(),
                    other => format!("{other:?}"),
                };
                let (steps, now) = (self.steps, self.now);
                story.push(format!("{steps:>4} {now:>7} ms  process {process}: {text}"));
            }
        }
        let generation = this.shared.generation();
        let mut woken = Vec::new();
        for task in &mut this.tasks {
            if task
                .unless_generation
                .is_some_and(|seen| seen != generation)
            {
                task.unless_generation = None;
                woken.push((task.number, task.turn));
            }
        }
        for (number, turn) in woken {
            self.push(0, process, What::Answer(number, turn, Reply::Woken));
        }
        loop {
            let this = &mut self.processes[process];
            let Some(refresh) = this.shared.next_refresh(this.session) else {
                return Ok(());
            };
            self.start(process, refresh, AnyStep::Refresh, false)?;
        }
    }

    /// Kills the process, ends one of its tasks, stalls it or sets its clock. Returns whether the
    /// task is gone.
    pub(super) fn interrupt(
        &mut self,
        process: usize,
        task: Option<u64>,
    ) -> Result<bool, Violation> {
        let fault = self.choices.fault(self.plan.process_faults);
        match fault {
            KILL | KILL_WITHOUT_GRANT => {
                say!(self, "FAULT: process {process} is killed");
                self.interruptions += 1;
                self.killed = true;
                self.boot(process, fault == KILL)?;
                let delay = 200 + self.choices.below(1500);
                self.push(delay, process, What::Start(Action::Call));
                Ok(true)
            }
            ABANDON | ABANDON_WITH_LEASE => {
                let at = task.and_then(|task| self.find(process, task));
                let Some(at) = at else { return Ok(false) };
                let now = self.local(process);
                let this = &mut self.processes[process];
                let running = this.tasks.swap_remove(at);
                this.shared.abandon(running.step.id().unwrap(), now);
                self.interruptions += 1;
                let (number, kind) = (running.number, running.step.kind());
                say!(
                    self,
                    "FAULT: process {process}: {kind:?} {number} is abandoned"
                );
                // A driver's guard ends the lease, unless it can't reach the storage.
                if let (ABANDON, Some(fence)) = (fault, running.fence) {
                    let name = self.name(process);
                    self.storage.entry(&name).release(fence);
                }
                self.settle(process)?;
                Ok(true)
            }
            STALL => {
                let stall = 1200 + self.choices.below(2500);
                say!(self, "FAULT: process {process} stops for {stall} ms");
                self.processes[process].stalled_until = self.now + stall;
                Ok(false)
            }
            CLOCK_FORWARD | CLOCK_BACK => {
                let times = [3_600_000, 700, 5_000, 90_000_000];
                let jump = times[usize::try_from(self.choices.below(4)).unwrap()];
                let jump = if fault == CLOCK_BACK { -jump } else { jump };
                say!(
                    self,
                    "FAULT: the clock of process {process} jumps by {jump} ms"
                );
                let this = &mut self.processes[process];
                this.offset += jump;
                this.clock_jumped_at = Some(self.now);
                for task in &mut this.tasks {
                    task.clock_jumped = true;
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn name(&self, process: usize) -> String {
        self.names[self.processes[process].client].clone()
    }

    fn latency(&mut self) -> u64 {
        match !self.is_calm && self.choices.chance(40) {
            true => 5 + self.choices.below(900),
            false => 5 + self.choices.below(30),
        }
    }

    fn perform(
        &mut self,
        process: usize,
        at: usize,
        need: Need,
        turn: u32,
    ) -> Result<(), Violation> {
        let number = self.processes[process].tasks[at].number;
        let (to, from) = (self.latency(), self.latency());
        let kind = self.processes[process].tasks[at].step.kind();
        let answer = |reply| What::Answer(number, turn, reply);
        let arrive = |request, from| What::Arrive(request, from, number, turn);
        let is_caller = matches!(kind, TaskKind::Call | TaskKind::Token);
        if is_caller && !matches!(need, Need::Call(..) | Need::Sign | Need::Wait(_)) {
            return self.fail("good token", &format!("a caller has to wait for {need:?}"));
        }
        match need {
            Need::Send(host, proof, body, timeout) => {
                let (server, request) = self.check_send(process, at, &host, proof, &body)?;
                let timeout = u64::try_from(timeout.as_millis()).unwrap();
                let refresh_token = request.refresh_token;
                self.processes[process].tasks[at].sent = Some(refresh_token.unwrap_or_default());
                let is_down = self
                    .plan
                    .outage
                    .is_some_and(|(start, end)| !self.is_calm && (start..end).contains(&self.now));
                let (fault, from) = match self.choices.fault(6) {
                    0 if to >= timeout => (2, from),
                    0 if to + from >= timeout => (3, timeout - to),
                    other => (other, from),
                };
                if is_down {
                    let is_refused = self.choices.chance(512);
                    say!(
                        self,
                        "process {process}: Refresh {number} finds the server down"
                    );
                    let reply = match is_refused {
                        _ if self.plan.is_lossy => Reply::NoResponse,
                        true => Reply::NotSent,
                        false => refusal("temporarily_unavailable", 502, None),
                    };
                    self.push(to, process, answer(reply));
                    return Ok(());
                }
                say!(
                    self,
                    "process {process}: Refresh {number} sends refresh token {refresh_token:?} to server {server}, timeout {timeout} ms{}",
                    [
                        "",
                        ", FAULT: not sent",
                        ", FAULT: lost on its way",
                        ", FAULT: the answer is lost",
                        ", FAULT: a gateway refuses",
                        ", FAULT: a gateway replaces the answer",
                        ", FAULT: the server ends the login"
                    ][usize::from(fault)]
                );
                match fault {
                    1 => self.push(to, process, answer(Reply::NotSent)),
                    2 => self.push(timeout, process, answer(Reply::NoResponse)),
                    4 => {
                        let reply = refusal("temporarily_unavailable", 503, None);
                        self.push(to, process, answer(reply));
                    }
                    _ => {
                        let lost = match fault {
                            3 => Lost::Yes,
                            5 => Lost::Replaced,
                            6 => Lost::Refused,
                            _ => Lost::No,
                        };
                        let request = Request::Token(server, request, lost);
                        self.push(to, process, arrive(request, from));
                    }
                }
            }
            Need::Call(headers, timeout) => {
                let (server, token, proof) = self.check_call(process, at, &headers)?;
                let timeout = u64::try_from(timeout.as_millis()).unwrap();
                let fault = self.choices.fault(6);
                say!(
                    self,
                    "process {process}: Call {number} sends token {token:?} with {proof:?}, fault {fault}"
                );
                match fault {
                    1 => self.push(to, process, answer(Reply::NotSent)),
                    2 => self.push(timeout.min(700), process, answer(Reply::NoResponse)),
                    _ => {
                        let lost = match fault {
                            3 => Lost::Yes,
                            4 => Lost::Replaced,
                            5 => Lost::Refused,
                            6 => Lost::Head,
                            _ => Lost::No,
                        };
                        let request = Request::Call(server, token, proof, lost);
                        self.push(to, process, arrive(request, from));
                    }
                }
            }
            Need::Sign => {
                let fault = self.choices.fault(1);
                self.push(to.min(20), process, answer(Reply::Signed(fault == 0)));
            }
            Need::Wait(until) => {
                self.check_wait(process, at, until.unless_generation.is_some())?;
                let wait = until
                    .time
                    .saturating_since(self.processes[process].tasks[at].stepped);
                let wait = u64::try_from(wait.as_millis()).unwrap();
                self.processes[process].tasks[at].unless_generation = until.unless_generation;
                self.push(wait, process, answer(Reply::Woken));
            }
            Need::Lease(name, ttl) => {
                let ttl = u64::try_from(ttl.as_millis()).unwrap();
                match self.choices.fault(2) {
                    1 => self.push(to, process, answer(Reply::Leased(Err(())))),
                    fault => {
                        let request = Request::Lease(name, ttl, fault == 2);
                        self.push(to, process, arrive(request, from));
                    }
                }
            }
            Need::Load(name) => {
                let fails = self.choices.fault(1) == 1;
                self.push(to, process, arrive(Request::Load(name, fails), from));
            }
            Need::Save(name, state) => {
                let stored = Stored::read(&state);
                let client = self.processes[process].client;
                let task = &mut self.processes[process].tasks[at];
                let Some(fence) = task.fence else {
                    return self.fail("lease", "a state is saved without a lease");
                };
                task.saved = stored.refresh_token.map(|(_, number)| number);
                task.ends_login = stored.ends_login;
                task.save_failed = true;
                if stored
                    .refresh_token
                    .is_some_and(|(owner, _)| owner != client)
                {
                    return self.fail("other client", "the token of another client is saved");
                }
                self.saving.extend(stored.access_token);
                say!(
                    self,
                    "process {process}: {kind:?} {number} saves {stored:?}"
                );
                let fault = self.choices.fault(2);
                self.interruptions += u32::from(fault > 0);
                match fault {
                    1 => self.push(to, process, answer(Reply::Saved(Err(())))),
                    fault => {
                        let request = Request::Save(name, fence, state, fault == 2);
                        self.push(to, process, arrive(request, from));
                    }
                }
            }
            Need::Release(name) => {
                let task = &mut self.processes[process].tasks[at];
                let Some(fence) = task.fence.take() else {
                    return self.fail("lease", "a lease is released that nobody has");
                };
                match self.choices.fault(1) {
                    1 => self.push(to, process, answer(Reply::Released)),
                    _ => {
                        let request = Request::Release(name, fence);
                        self.push(to, process, arrive(request, from));
                    }
                }
            }
            Need::Fetch => {
                let fault = self.choices.fault(1);
                let (client, now) = (self.processes[process].client, self.now);
                let json = self.logins[client].issue(client, None, self.plan.is_bound, now);
                let fetched = if fault == 0 { Ok(json) } else { Err(()) };
                self.push(to, process, answer(Reply::Fetched(fetched)));
            }
            Need::Done(_) => panic!("no such effect"),
        }
        Ok(())
    }

    /// Checks a token request when it is sent.
    fn check_send(
        &mut self,
        process: usize,
        at: usize,
        host: &str,
        proof: Option<HeaderValue>,
        body: &[u8],
    ) -> Result<(usize, TokenRequest), Violation> {
        let client = self.processes[process].client;
        let server = match host {
            "as0.example" => 0,
            "as1.example" => 1,
            other => return self.fail("other server", &format!("a token request to {other}")),
        };
        let (id, refresh_token) = match read_body(body) {
            Ok(read) => read,
            Err(text) => return self.fail("other client", &text),
        };
        if self.plan.client_at(server, id) != client || self.plan.server(client) != server {
            return self.fail("other client", "a token request for another client");
        }
        if let Some((owner, number)) = refresh_token.filter(|(owner, _)| *owner != client) {
            let text = format!("client {client} sends refresh token {number} of client {owner}");
            return self.fail("other client", &text);
        }
        let refresh_token = refresh_token.map(|(_, number)| number);
        let now = self.now;
        let name = self.name(process);
        let tasks = &self.processes[process].tasks;
        let task = &tasks[at];
        // Only one refresh at a time, of those that do not take longer than the refresh timeout.
        let others = tasks.iter().filter(|other| {
            other.number != task.number
                && other.sent.is_some()
                && other.step.kind() == TaskKind::Refresh
                && now + MAX_LAG < other.started + REFRESH_TIMEOUT
        });
        let clock_jumped = task.clock_jumped;
        let second = others.map(|other| other.clock_jumped).any(|jumped| !jumped);
        let jumped_at = self.processes[process].clock_jumped_at;
        let is_set = jumped_at.is_some_and(|at| now < at + 2 * REFRESH_TIMEOUT);
        if second && !clock_jumped && !is_set && now < task.started + REFRESH_TIMEOUT {
            return self.fail("single flight", "a second refresh sends while one is out");
        }
        if self.processes[process].is_logged_out {
            return self.fail("log-out", "a refresh token is sent after the log-out");
        }
        let mut was_superseded = false;
        if let Some(number) = refresh_token {
            let tokens = &self.logins[client].refresh_tokens;
            let unanswered = tokens[number].unanswered;
            if self.plan.has_storage {
                let (fence, saved, failed) = {
                    let task = &self.processes[process].tasks[at];
                    (task.fence, task.saved, task.save_failed)
                };
                let is_held =
                    fence.is_some_and(|fence| self.storage.entry(&name).is_held(fence, now));
                let is_excused = clock_jumped && fence.is_some();
                if !is_held && !is_excused {
                    return self.fail("lease", "a refresh token is sent without the lease");
                }
                let is_first = saved.is_none() && self.plan.origin == Origin::Grant;
                if failed || !(saved == Some(number) || is_first || number == 0) {
                    return self.fail("save before use", "a refresh token is sent without a save");
                }
                let tokens = &self.logins[client].refresh_tokens;
                let loaded = self.processes[process].tasks[at].loaded;
                let saved = tokens.iter().rposition(|token| token.was_saved);
                was_superseded = loaded.or(saved).is_some_and(|newest| newest > number);
            }
            // Each process counts the sends of a grant of its own, and nobody those of a process
            // that was killed without a storage.
            let is_own = number == 0 && self.plan.origin == Origin::Grant;
            let is_own = is_own || (self.killed && !self.plan.has_storage);
            if unanswered >= MAX_SENDS && !is_own {
                return self.fail("sends", "a refresh token is sent an eleventh time");
            }
            let token = &mut self.logins[client].refresh_tokens[number];
            token.unanswered += 1;
            token.sends += 1;
        }
        let proof = self.check_proof(proof.as_ref(), 0, server)?;
        let request = TokenRequest {
            client,
            refresh_token,
            proof,
            was_superseded,
            clock_jumped,
        };
        Ok((server, request))
    }

    /// Checks that a proof has no nonce but one of this role of this server.
    fn check_proof(
        &mut self,
        proof: Option<&HeaderValue>,
        role: usize,
        server: usize,
    ) -> Result<Proof, Violation> {
        let Some(proof) = proof else {
            return Ok(Proof {
                nonce: None,
                is_dated: true,
                is_named: true,
            });
        };
        let mut parts = proof.to_str().unwrap().split('.');
        let mut decoded = || URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap();
        let (header, payload) = (decoded(), decoded());
        let header = std::str::from_utf8(&header).unwrap();
        let text = std::str::from_utf8(&payload).unwrap();
        let iat = text.split_once("\"iat\":").map(|(_, rest)| rest).unwrap();
        let iat = iat.split(|c: char| !c.is_ascii_digit()).next().unwrap();
        let iat: i64 = iat.parse().unwrap();
        let theirs = self.plan.server_clock.map(|ahead| self.server_time(ahead));
        let is_dated = theirs.is_none_or(|theirs| (iat * 1000 - theirs).abs() <= MAX_AGE);
        let is_named = !self.plan.names_ed25519 || header.contains("\"alg\":\"Ed25519\"");
        let nonce = text.split_once("\"nonce\":\"").map(|(_, rest)| rest);
        let nonce = nonce.and_then(|rest| rest.split('"').next());
        let nonce = nonce.map(ToOwned::to_owned);
        let is_own = |nonce: &String| nonce.starts_with(&self.nonces[role][server].prefix);
        match nonce.as_ref().is_none_or(is_own) {
            true => Ok(Proof {
                nonce,
                is_dated,
                is_named,
            }),
            false => self.fail("nonce", &format!("{nonce:?} in a proof of role {role}")),
        }
    }

    /// The time of a server whose clock is this far ahead, in milliseconds since 1970.
    fn server_time(&self, ahead: i64) -> i64 {
        i64::try_from(EPOCH + self.now).unwrap() + ahead
    }

    /// The `Date` header of a server that checks the time of proofs.
    fn date(&self) -> Option<String> {
        let seconds = self.server_time(self.plan.server_clock?) / 1000;
        let (minutes, second) = (seconds / 60, seconds % 60);
        let (hours, minute) = (minutes / 60, minutes % 60);
        // The time at the start of each schedule is on 14 November 2023.
        let (day, hour) = (hours / 24 - 19_675 + 14, hours % 24);
        Some(format!(
            "Tue, {day:02} Nov 2023 {hour:02}:{minute:02}:{second:02} GMT"
        ))
    }

    fn check_call(
        &mut self,
        process: usize,
        at: usize,
        headers: &HeaderMap,
    ) -> Result<SentCall, Violation> {
        let authorization = headers
            .get(header::AUTHORIZATION)
            .unwrap()
            .to_str()
            .unwrap();
        let (_, name) = authorization.split_once(' ').unwrap();
        let token = parse_name(name, 'a').unwrap();
        let client = self.processes[process].client;
        let server = self.plan.server(client);
        if token.0 != client {
            return self.fail("other client", "a call with the token of another client");
        }
        let task = &mut self.processes[process].tasks[at];
        task.requests += 1;
        task.used = Some(token.1);
        let (requests, is_first) = (task.requests, task.requests == 1);
        if requests > MAX_REQUESTS {
            return self.fail("budget", "a call sends too many requests");
        }
        if is_first && self.processes[process].is_logged_out {
            return self.fail("log-out", "a call with a token after the log-out");
        }
        let must_be_saved = self.plan.has_storage && self.plan.is_single_use();
        if must_be_saved && token.1 > 0 && !self.saving.contains(&token) {
            return self.fail("save before use", "a token is used before it is saved");
        }
        let proof = self.check_proof(headers.get("dpop"), 1, server)?;
        Ok((server, token, proof))
    }

    /// Checks that a caller does not wait without need.
    fn check_wait(
        &mut self,
        process: usize,
        at: usize,
        is_for_change: bool,
    ) -> Result<(), Violation> {
        let this = &self.processes[process];
        let task = &this.tasks[at];
        let now = task.stepped;
        let kind = task.step.kind();
        let is_good = this
            .known
            .as_ref()
            .is_some_and(|known| !known.is_rejected && now < known.expires);
        if !is_for_change || !is_good || !matches!(kind, TaskKind::Call | TaskKind::Token) {
            return Ok(());
        }
        let has_permit = |other: &Running| {
            other.number != task.number
                && other.step.kind() == TaskKind::Call
                && matches!(other.need, NeedKind::Sign | NeedKind::Call)
        };
        let is_queued = kind == TaskKind::Call && self.plan.is_bound;
        match is_queued && this.tasks.iter().any(has_permit) {
            true => Ok(()),
            false => self.fail(
                "good token",
                "a caller with a good token waits, and nobody has a permit",
            ),
        }
    }

    /// Notes what an answer tells the model, before the task gets it.
    pub(super) fn learn(
        &mut self,
        process: usize,
        running: &mut Running,
        reply: &Reply,
    ) -> Result<(), Violation> {
        let this = &mut self.processes[process];
        let client = this.client;
        match reply {
            Reply::Leased(Ok(Some(fence))) => running.fence = Some(*fence),
            Reply::Saved(saved) => running.save_failed = *saved != Ok(true),
            Reply::Loaded(Ok(Some(state))) => {
                let stored = Stored::read(state);
                let newest = stored.access_token.map(|(_, number)| number);
                if this
                    .known
                    .as_ref()
                    .is_some_and(|known| newest > Some(known.access))
                {
                    // A later token counts, even if it has expired by the clock of this process.
                    this.known = None;
                }
                if stored.is_tombstone && self.plan.is_single_use() {
                    this.known = None;
                    // A grant of its own may be a later login than one without tokens.
                    this.is_logged_out |= stored.ends_login || !this.had_grant;
                }
            }
            Reply::Head { status: 401, .. } | Reply::StatusOnly(401) => {
                if let Some(known) = &mut this.known {
                    known.is_rejected |= Some(known.access) == running.used;
                }
            }
            Reply::Response { .. } | Reply::NotSent => {
                if let (Some(number), NeedKind::Send) = (running.sent, running.need) {
                    let token = &mut self.logins[client].refresh_tokens[number];
                    // A server that doesn't rotate has sent the same refresh token again.
                    let is_new = matches!(reply, Reply::Response { status: 200, body, .. } if body.starts_with('{'));
                    token.unanswered = match is_new {
                        true => 0,
                        false => token.unanswered.saturating_sub(1),
                    };
                }
            }
            _ => {}
        }
        if let Reply::Head { status, .. } | Reply::StatusOnly(status) = reply {
            running.status = *status;
        }
        if running.need == NeedKind::Send {
            running.sent = None;
        }
        Ok(())
    }

    fn end(&mut self, process: usize, running: &Running, ended: Ended) -> Result<(), Violation> {
        let client = self.processes[process].client;
        let (number, kind) = (running.number, running.step.kind());
        say!(self, "process {process}: {kind:?} {number} ends: {ended:?}");
        match ended {
            // A process without the login can't name its tokens: a grant may be a later login.
            Ended::LogOut(Ok(())) if running.ends_login && self.plan.is_single_use() => {
                // By a clock that is set back, its lease may seem to last after another one has begun.
                if running.clock_jumped {
                    return Ok(());
                }
                self.log_outs[client].1 = true;
                let name = self.name(process);
                let stored = self.storage.entry(&name).stored();
                if stored.is_none_or(|stored| !stored.is_tombstone) {
                    return self.fail("log-out", "a log-out ends, and the login is still stored");
                }
            }
            Ended::Call(result) if running.is_probe => {
                let is_alive = result.is_ok() && running.status == 200;
                self.alive[process] = is_alive;
                // A clock may be so wrong that the first call finds an expired token.
                if !is_alive && self.probes[process] < PROBES {
                    self.push(2000, process, What::Start(Action::Probe));
                }
            }
            Ended::Token(Ok(token)) => {
                let owner = parse_name(token.access_token().expose(), 'a').unwrap().0;
                if owner != client {
                    return self.fail("other client", "the token of another client");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets a request arrive, and sends its answer after some time.
    pub(super) fn arrive(
        &mut self,
        process: usize,
        request: Request,
        after: u64,
        task: u64,
        turn: u32,
    ) -> Result<(), Violation> {
        let now = self.now;
        let mut after = after;
        let reply = match request {
            Request::Token(server, request, lost) => {
                let reply = self.issue(server, &request, lost)?;
                match lost {
                    Lost::Yes => Reply::NoResponse,
                    Lost::Replaced => self.replaced(),
                    _ => reply,
                }
            }
            Request::Call(server, token, proof, lost) => {
                let reply = self.serve(server, token, &proof, lost);
                match (lost, reply) {
                    (Lost::Yes, _) => Reply::NoResponse,
                    (Lost::Replaced, _) => {
                        let retry_after = self.choices.chance(512).then_some("1");
                        let (status, challenge) = match retry_after {
                            // Neither is about the token.
                            _ if self.choices.varies(256) => (401, "Basic realm=\"gateway\""),
                            _ if self.choices.varies(256) => {
                                (403, "Bearer error=\"insufficient_scope\"")
                            }
                            Some(_) => (429, ""),
                            None => (503, ""),
                        };
                        Reply::Head {
                            status,
                            nonce: None,
                            date: None,
                            challenge,
                            retry_after: retry_after.filter(|_| status == 429),
                        }
                    }
                    (Lost::Head, Reply::Head { status, .. }) => Reply::StatusOnly(status),
                    (_, reply) => reply,
                }
            }
            Request::Lease(name, ttl, fails) => {
                let fence = self.storage.entry(&name).lease(now, ttl);
                say!(
                    self,
                    "the storage leases to process {process}, task {task}: {fence:?}"
                );
                Reply::Leased(if fails { Err(()) } else { Ok(fence) })
            }
            Request::Load(name, fails) => {
                let state = self.storage.entry(&name).state.clone();
                let client = self.processes[process].client;
                let mut tokens = self.logins[client].refresh_tokens.iter();
                let newest = tokens.rposition(|token| token.was_saved);
                // The tombstone of a process without the login hides all tokens.
                let stored = self.storage.entry(&name).stored();
                let newest = newest.filter(|_| stored.is_none_or(|stored| !stored.is_tombstone));
                if let Some(at) = self.find(process, task) {
                    self.processes[process].tasks[at].loaded = newest.or(Some(0));
                }
                // Where the process has another login, it would take the place of the stored one.
                let is_given = matches!(self.plan.origin, Origin::Grant | Origin::Given);
                match fails {
                    true if !is_given && self.choices.varies(256) => Reply::Unreadable,
                    true => Reply::Loaded(Err(())),
                    false => Reply::Loaded(Ok(state)),
                }
            }
            Request::Save(name, fence, state, fails) => {
                let stored = Stored::read(&state);
                let is_saved = self.storage.entry(&name).save(fence, state);
                say!(
                    self,
                    "the storage saves {stored:?} under fence {fence}: {is_saved}"
                );
                if is_saved {
                    // A late save may be overwritten by the holder of a later lease.
                    let is_last = self.storage.entry(&name).is_last(fence);
                    if let Some((client, number)) = stored.refresh_token.filter(|_| is_last) {
                        self.logins[client].refresh_tokens[number].was_saved = true;
                    }
                    let client = self.processes[process].client;
                    if stored.is_tombstone {
                        let tokens = &mut self.logins[client].refresh_tokens;
                        tokens.iter_mut().for_each(|token| token.was_saved = false);
                    }
                    let is_over = self.log_outs[client].1 && !stored.is_tombstone;
                    if is_over && self.plan.is_single_use() {
                        return self.fail("log-out", "a save undoes the log-out");
                    }
                }
                Reply::Saved(if fails { Err(()) } else { Ok(is_saved) })
            }
            Request::Release(name, fence) => {
                self.storage.entry(&name).release(fence);
                Reply::Released
            }
        };
        if matches!(reply, Reply::NoResponse) {
            after = after.max(100);
        }
        self.push(after, process, What::Answer(task, turn, reply));
        Ok(())
    }

    /// The answer of an authorization server.
    fn issue(
        &mut self,
        server: usize,
        request: &TokenRequest,
        lost: Lost,
    ) -> Result<Reply, Violation> {
        let now = self.now;
        let nonces = &mut self.nonces[0][server];
        if !nonces.accepts(request.proof.nonce.as_deref()) {
            let code = match self.choices.varies(64) {
                true => "invalid_dpop_proof",
                false => "use_dpop_nonce",
            };
            return Ok(refusal(code, 400, Some(nonces.current())));
        }
        if !request.proof.is_dated {
            return Ok(Reply::Response {
                status: 400,
                body: r#"{"error":"invalid_dpop_proof"}"#.to_owned(),
                nonce: None,
                date: self.date(),
            });
        }
        if !self.is_calm && self.choices.chance(self.plan.nonce_rotation) {
            nonces.number += 1;
        }
        let nonces = &self.nonces[0][server];
        let nonce = nonces.required.then(|| nonces.current());
        let client = request.client;
        let login = &mut self.logins[client];
        let next = match request.refresh_token {
            None => None,
            Some(number) => {
                if lost == Lost::Refused {
                    login.revoked.get_or_insert(Revoked::ByServer);
                }
                match login.refresh(request, number, now) {
                    Ok(Some(next)) => Some(next),
                    Ok(None) => {
                        say!(self, "the server refuses refresh token {number}");
                        return Ok(refusal("invalid_grant", 400, nonce));
                    }
                    Err(text) => return self.fail("reuse", &text),
                }
            }
        };
        let body = login.issue(client, next, self.plan.is_bound, now);
        say!(self, "the server answers {body}");
        Ok(Reply::Response {
            status: 200,
            body,
            nonce,
            date: None,
        })
    }

    /// The answer of a gateway in place of an authorization server's.
    fn replaced(&mut self) -> Reply {
        let (status, body) = match () {
            () if self.choices.varies(128) => (200, "<html>".to_owned()),
            () if self.choices.varies(128) => (200, "\u{1f} compressed".to_owned()),
            () if self.choices.varies(128) => (302, String::new()),
            () if self.choices.varies(16) => (200, " ".repeat(MAX_RESPONSE + 1)),
            () if self.choices.varies(16) => (502, " ".repeat(MAX_RESPONSE + 1)),
            () => return refusal("server_error", 502, None),
        };
        Reply::Response {
            status,
            body,
            nonce: None,
            date: None,
        }
    }

    /// The answer of a resource server.
    fn serve(&mut self, server: usize, token: (usize, usize), proof: &Proof, lost: Lost) -> Reply {
        let nonces = &mut self.nonces[1][server];
        let accepts = nonces.accepts(proof.nonce.as_deref());
        if accepts && !self.is_calm && self.choices.chance(self.plan.nonce_rotation) {
            nonces.number += 1;
        }
        let current = nonces.required.then(|| nonces.current());
        if lost == Lost::Refused && !self.refused.contains(&token) {
            self.refused.push(token);
        }
        let expires = self.logins[token.0].access_tokens[token.1];
        let is_good = self.now < expires && !self.refused.contains(&token);
        let (status, challenge) = match (accepts, is_good) {
            (false, _) if self.choices.varies(64) => (401, "DPoP error=\"invalid_dpop_proof\""),
            (false, _) => (401, "DPoP error=\"use_dpop_nonce\""),
            (true, _) if !proof.is_named => {
                (401, "DPoP error=\"invalid_dpop_proof\", algs=\"Ed25519\"")
            }
            (true, _) if !proof.is_dated => (401, "DPoP error=\"invalid_dpop_proof\""),
            (true, false) if self.choices.varies(128) => (401, ""),
            (true, false) if self.plan.is_bound => (401, "DPoP error=\"invalid_token\""),
            (true, false) => (401, "Bearer error=\"invalid_token\""),
            (true, true) => (200, ""),
        };
        Reply::Head {
            status,
            nonce: current,
            date: self.date().filter(|_| !proof.is_dated),
            challenge,
            retry_after: None,
        }
    }
}
