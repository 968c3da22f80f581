//! What a page embeds: it asks for an authorised call, and the token has been taken care of.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use keybound_core::{Client, Demand, Grant, RefreshPolicy, Store, Ticket, Token};
use wasm_bindgen_futures::spawn_local;
use web_sys::{Request, Response};

use crate::bell::Bell;
use crate::{Error, Transport, platform};

/// A token that is simply there: got when it is first needed, renewed before it expires. Cloning a session is
/// cheap, and the clones are one.
#[derive(Clone)]
pub struct Session(Rc<Shared>);

struct Shared {
    transport: Transport,
    client: Client,
    grant: Grant,
    store: RefCell<Store>,
    /// Why the last renewal failed, for those who waited for it.
    failure: RefCell<Option<Rc<Error>>>,
    settled: Bell,
}

impl Session {
    /// A session that has no token yet.
    pub fn new(transport: Transport, client: Client, grant: Grant) -> Self {
        let store = Store::new(RefreshPolicy::default(), None);
        Self(Rc::new(Shared {
            transport,
            client,
            grant,
            store: store.into(),
            failure: RefCell::default(),
            settled: Bell::default(),
        }))
    }

    /// What performs its requests.
    pub fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// A token that is good now.
    ///
    /// # Errors
    /// That of the one renewal that all who need a token have waited for.
    pub async fn token(&self) -> Result<Token, Rc<Error>> {
        let shared = &self.0;
        loop {
            let demand = shared.store.borrow_mut().demand(platform::now());
            match demand {
                Demand::Use(token, None) => return Ok(token),
                Demand::Use(token, Some(ticket)) => {
                    let renewal = self.renewal(ticket);
                    spawn_local(async move {
                        // Whoever needs its result will ask for it.
                        let _ = renewal.run().await;
                    });
                    return Ok(token);
                }
                Demand::Renew(ticket) => return self.renewal(ticket).run().await,
                Demand::Wait(until) => {
                    shared.settled.rung_within(until.saturating_since(platform::now())).await;
                }
                Demand::Pause(_) => {
                    // Nobody is asked twice within a moment: the answer is still the one that has just come.
                    let failure = shared.failure.borrow().clone();
                    return Err(failure.unwrap_or_else(|| Rc::new(Error::RenewalEnded)));
                }
            }
        }
    }

    /// Sends a request with a good token, as [`Transport::call`] does. If the server refuses the token all the
    /// same, it is renewed and the request sent again, once.
    ///
    /// # Errors
    /// If there is no token, or the request gets no answer.
    pub async fn fetch(&self, request: &Request) -> Result<Response, Rc<Error>> {
        let transport = &self.0.transport;
        let token = self.token().await?;
        let (response, rejected) = transport.call_and_judge(&token, request).await?;
        if !rejected {
            return Ok(response);
        }
        self.0.store.borrow_mut().reject(&token);
        match self.token().await {
            Ok(other) => Ok(transport.call(&other, request).await?),
            // Without another token, the refusal is the application's.
            Err(_) => Ok(response),
        }
    }

    fn renewal(&self, ticket: Ticket) -> Renewal {
        Renewal { shared: Rc::clone(&self.0), ticket: Some(ticket) }
    }
}

/// A renewal that is under way. However it ends, whoever waits for it is told.
struct Renewal {
    shared: Rc<Shared>,
    ticket: Option<Ticket>,
}

impl Renewal {
    async fn run(mut self) -> Result<Token, Rc<Error>> {
        let Shared { transport, client, grant, .. } = &*self.shared;
        let renewed = match client.token(grant.clone()) {
            Ok(exchange) => transport.run(exchange).await,
            Err(misuse) => Err(misuse.into()),
        };
        let result = renewed.map_err(Rc::new);
        self.end(result.clone().ok(), result.clone().err());
        result
    }

    fn end(&mut self, token: Option<Token>, failure: Option<Rc<Error>>) {
        if let Some(ticket) = self.ticket.take() {
            let seed = u64::from_ne_bytes(platform::entropy());
            *self.shared.failure.borrow_mut() = failure;
            self.shared.store.borrow_mut().settle(ticket, token, platform::now(), seed);
            self.shared.settled.ring();
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.end(None, None);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("client", &self.0.client).finish_non_exhaustive()
    }
}
