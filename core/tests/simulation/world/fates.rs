//! The end of a schedule: whether each login has survived, and if not, why.

use super::*;

impl World<'_> {
    /// Finds out, without faults, whether each process and a new one still have their logins.
    pub(super) fn find_fates(&mut self) -> Result<Vec<Fate>, Violation> {
        self.is_calm = true;
        self.choices.calm();
        self.now += LONG_AFTER;
        let processes = self.processes.len();
        self.alive = vec![false; processes + self.plan.clients()];
        self.probes = vec![0; processes + self.plan.clients()];
        say!(self, "LATER, without faults:");
        for process in 0..processes {
            self.push(0, process, What::Start(Action::Probe));
        }
        self.play()?;
        self.now += LONG_AFTER;
        if self.plan.has_storage {
            for client in 0..self.plan.clients() {
                self.boot(processes + client, false)?;
                self.push(0, processes + client, What::Start(Action::Probe));
            }
            self.play()?;
        }
        (0..self.plan.clients())
            .map(|client| self.find_fate(client, processes))
            .collect()
    }

    fn find_fate(&mut self, client: usize, processes: usize) -> Result<Fate, Violation> {
        let has_log_out = self.log_outs[client].0;
        let of_client = |process: &usize| self.processes[*process].client == client;
        let live: Vec<bool> = (0..processes)
            .filter(of_client)
            .map(|process| self.alive[process])
            .collect();
        let is_alive = match self.plan.has_storage {
            true => self.alive[processes + client],
            false => live.contains(&true),
        };
        if self.plan.origin == Origin::Repeatable {
            return match has_log_out || live.iter().all(|alive| *alive) {
                true if has_log_out => Ok(Fate::LoggedOut),
                true => Ok(Fate::Alive),
                false => self.fail("login", "a repeatable grant gets no token"),
            };
        }
        if is_alive {
            if self.log_outs[client].1 && self.plan.has_storage {
                return self.fail("log-out", "a new process still has the login");
            }
            // A log-out that failed ended the session in its own process only.
            if has_log_out || live.iter().all(|alive| *alive) {
                return Ok(Fate::Alive);
            }
            let text = format!("of the processes, these still have the login: {live:?}");
            return self.fail("login", &text);
        }
        if has_log_out {
            return Ok(Fate::LoggedOut);
        }
        self.find_cause(client, processes)
    }

    fn find_cause(&mut self, client: usize, processes: usize) -> Result<Fate, Violation> {
        let login = &self.logins[client];
        match login.revoked {
            Some(Revoked::ByServer) => return Ok(Fate::EndedByServer),
            Some(Revoked::ReuseAfterClockJump) => return Ok(Fate::ClockJump),
            // The use of the consumed token has been checked when it arrived.
            Some(Revoked::Reuse) => return Ok(Fate::LostAnswer),
            None => {}
        }
        let newest = login.newest();
        let token = &login.refresh_tokens[newest];
        let (was_saved, unanswered, sends) = (token.was_saved, token.unanswered, token.sends);
        if !self.plan.has_storage {
            if unanswered + self.interruptions >= MAX_SENDS {
                return Ok(Fate::Bound);
            }
            return match self.killed || newest > 0 {
                true => Ok(Fate::NoStorage),
                false => self.fail("login", "a login is lost without a cause"),
            };
        }
        if newest > 0 && !was_saved {
            return Ok(Fate::LostAnswer);
        }
        let name = self.name(processes + client);
        let stored = self.storage.entry(&name).stored();
        let has_token = stored.is_some_and(|stored| stored.has_token);
        if self.killed && !has_token && !was_saved {
            return Ok(Fate::NeverStored);
        }
        let is_newest = stored.is_some_and(|stored| stored.refresh_token == Some((client, newest)));
        let is_used_up = stored.is_some_and(|stored| stored.attempts_left == 0);
        // A refresh that replaces a slow one of its own process may count the same send once more.
        if is_newest && is_used_up && unanswered + self.interruptions + 2 >= MAX_SENDS {
            return Ok(Fate::Bound);
        }
        let text = format!(
            "client {client} has lost its login: the server has refresh token {newest} (sent {sends} times), the storage {stored:?}"
        );
        self.fail("login", &text)
    }
}
