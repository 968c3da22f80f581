//! What a schedule starts from: its processes, servers, logins and callers.

use http::Uri;
use keybound_core::jose::{Algorithm, PublicJwk};
use keybound_core::{Client, ClientAuth, Endpoint};

use crate::choices::Choices;
use crate::servers::Rotation;

/// How a session gets its first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The storage has an expired token already.
    Stored,
    /// The application has a refresh token.
    Grant,
    /// The application has a token with a refresh token.
    Given,
    /// Client credentials.
    Repeatable,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The client of each process.
    pub(crate) processes: Vec<usize>,
    /// The second client has the id of the first one, at another server.
    pub(crate) two_servers: bool,
    pub(crate) origin: Origin,
    pub(crate) has_storage: bool,
    pub(crate) is_bound: bool,
    /// Whether the client authenticates by a signed assertion.
    pub(crate) has_assertion: bool,
    /// Whether the application itself gets the tokens of a repeatable grant.
    pub(crate) fetches_tokens: bool,
    /// How far the clocks of the servers are ahead, in milliseconds, if they check the time of proofs.
    pub(crate) server_clock: Option<i64>,
    /// Whether the resource server knows Ed25519 by that name alone.
    pub(crate) names_ed25519: bool,
    /// Whether the authorization server and the resource server require nonces.
    pub(crate) nonces: (bool, bool),
    /// Of 1024 responses, those with a new nonce.
    pub(crate) nonce_rotation: u64,
    pub(crate) same_origin: bool,
    pub(crate) rotation: Rotation,
    /// When the application starts something: the process, the time and the action.
    pub(crate) actions: Vec<(usize, u64, Action)>,
    /// When the authorization server is down.
    pub(crate) outage: Option<(u64, u64)>,
    /// Whether its requests are lost then, instead of refused.
    pub(crate) is_lossy: bool,
    /// The kinds of faults of a process.
    pub(crate) process_faults: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Call,
    Post,
    Token,
    LogOut,
    /// A call that finds out whether the login has survived.
    Probe,
}

pub(crate) const KILL: u8 = 1;
pub(crate) const KILL_WITHOUT_GRANT: u8 = 2;
pub(crate) const ABANDON: u8 = 3;
pub(crate) const ABANDON_WITH_LEASE: u8 = 4;
pub(crate) const STALL: u8 = 5;
pub(crate) const CLOCK_FORWARD: u8 = 6;
pub(crate) const CLOCK_BACK: u8 = 7;

/// The clients of all worlds, made once.
#[derive(Debug)]
pub(crate) struct Clients {
    /// By server, id, whether there is an assertion, and whether there is a key.
    clients: Vec<Client>,
    /// The resource's URL, by client and whether it is at the authorization server's origin.
    resources: Vec<Uri>,
}

impl Clients {
    pub(crate) fn new() -> Self {
        let mut clients = Vec::new();
        let mut resources = Vec::new();
        let key = PublicJwk::from_raw(Algorithm::EdDsa, &[9; 32]).unwrap();
        for (server, id) in [(0, 0), (0, 1), (1, 0)] {
            let endpoint = Endpoint::https(&format!("https://as{server}.example/token")).unwrap();
            let id = format!("c{id}");
            let assertion = ClientAuth::private_key_jwt(&id, key.clone()).unwrap();
            for auth in [ClientAuth::none(&id).unwrap(), assertion] {
                let client = Client::new(endpoint.clone(), auth);
                clients.push(client.clone());
                clients.push(client.dpop(key.clone()));
            }
            for host in ["rs", "as"] {
                let uri = format!("https://{host}{server}.example/api");
                resources.push(uri.parse().unwrap());
            }
        }
        Self { clients, resources }
    }

    pub(crate) fn client(&self, plan: &Plan, client: usize) -> &Client {
        let kind = 2 * usize::from(plan.has_assertion) + usize::from(plan.is_bound);
        &self.clients[4 * plan.place(client) + kind]
    }

    pub(crate) fn resource(&self, plan: &Plan, client: usize) -> &Uri {
        &self.resources[2 * plan.place(client) + usize::from(plan.same_origin)]
    }
}

impl Plan {
    fn place(&self, client: usize) -> usize {
        match client {
            0 => 0,
            _ => 1 + usize::from(self.two_servers),
        }
    }

    /// The server of a client.
    pub(crate) fn server(&self, client: usize) -> usize {
        usize::from(client > 0 && self.two_servers)
    }

    /// The client with this id at this server.
    pub(crate) fn client_at(&self, server: usize, id: usize) -> usize {
        match self.two_servers {
            true => server,
            false => id,
        }
    }

    pub(crate) fn clients(&self) -> usize {
        self.processes.iter().max().unwrap() + 1
    }

    pub(crate) fn is_single_use(&self) -> bool {
        self.origin != Origin::Repeatable
    }

    /// A world for a random schedule.
    pub(crate) fn random(choices: &mut Choices) -> Self {
        let count = [1, 1, 2, 2, 2, 2, 3, 4][index(choices, 8)];
        let two_clients = count > 1 && choices.chance(128);
        let processes = (0..count).map(|at| if two_clients { at % 2 } else { 0 });
        let processes: Vec<usize> = processes.collect();
        let origin = [
            Origin::Stored,
            Origin::Stored,
            Origin::Stored,
            Origin::Grant,
            Origin::Given,
            Origin::Repeatable,
        ][index(choices, 6)];
        let has_storage = count > 1 || choices.chance(900);
        let rotation = Rotation {
            rotates: choices.chance(900),
            grace: [0, 0, 100, 2000][index(choices, 4)],
            detects_reuse: choices.chance(700),
        };
        let is_bound = choices.chance(300);
        let has_outage = choices.chance(60);
        let mut actions = Vec::new();
        for process in 0..count {
            let calls = match has_outage {
                true => 16,
                false => 1 + choices.below(3),
            };
            for call in 0..calls {
                let time = match has_outage {
                    true => call * 220,
                    false => [0, 100, 2500, 4500][index(choices, 4)] + choices.below(120),
                };
                let action = [Action::Call, Action::Call, Action::Post, Action::Token];
                actions.push((process, time, action[index(choices, 4)]));
            }
        }
        if choices.chance(200) {
            let process = index(choices, u64::try_from(count).unwrap());
            actions.push((process, choices.below(3000), Action::LogOut));
        }
        let rate = [20, 40, 80, 150][index(choices, 4)];
        let is_long = choices.chance(64);
        let most = 1 + choices.below(if is_long { 14 } else { 5 });
        choices.allow_faults(rate, u32::try_from(most).unwrap());
        let server_clock = [-20_000, 20_000][usize::from(choices.varies(512))];
        Self {
            processes,
            two_servers: choices.chance(512),
            origin: match has_storage {
                false if origin == Origin::Stored => Origin::Given,
                _ => origin,
            },
            has_storage,
            is_bound,
            has_assertion: choices.varies(100),
            fetches_tokens: origin == Origin::Repeatable && choices.varies(256),
            server_clock: (is_bound && choices.varies(200)).then_some(server_clock),
            names_ed25519: is_bound && choices.varies(100),
            nonces: (choices.chance(512), choices.chance(700)),
            nonce_rotation: [0, 200, 1024][index(choices, 3)],
            same_origin: choices.chance(512),
            rotation,
            actions,
            outage: has_outage.then_some((0, 3300)),
            is_lossy: choices.chance(300),
            process_faults: if choices.chance(300) {
                CLOCK_BACK
            } else {
                STALL
            },
        }
    }

    /// A small world for all schedules: the login is stored, its token has expired.
    pub(crate) fn small(processes: usize, rotation: Rotation, origin: Origin) -> Self {
        let actions = (0..processes).map(|process| (process, 0, Action::Call));
        Self {
            processes: vec![0; processes],
            two_servers: false,
            origin,
            has_storage: true,
            is_bound: false,
            has_assertion: false,
            fetches_tokens: false,
            server_clock: None,
            names_ed25519: false,
            nonces: (false, false),
            nonce_rotation: 0,
            same_origin: false,
            rotation,
            actions: actions.collect(),
            outage: None,
            is_lossy: false,
            process_faults: CLOCK_BACK,
        }
    }
}

fn index(choices: &mut Choices, end: u64) -> usize {
    usize::try_from(choices.below(end)).unwrap()
}
