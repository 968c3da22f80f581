//! What a page embeds: it asks for an authorised call, and the token has been taken care of.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use keybound_core::driver::{SessionState, Ticket, TokenAction, TokenManager};
use keybound_core::{Client, Grant, InvalidInput, RefreshPolicy, Scope, Token, TokenTypeHint};
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::spawn_local;
use web_sys::{Request, Response};

use crate::notify::Notify;
use crate::platform::Lock;
use crate::transport::Called;
use crate::{Error, Transport, key, platform};

/// How long a nonce that another page has learned may be of use.
const NONCE_LIFETIME: Duration = Duration::from_secs(300);

/// After how long a save that failed is tried again.
const SAVE_AGAIN: Duration = Duration::from_millis(200);

/// What tabs tell each other when the person has logged out.
const LOGGED_OUT: &str = "over";

/// What they tell each other after a login.
const LOGGED_IN: &str = "begun";

/// Where a session's tokens come from.
#[non_exhaustive]
pub enum TokenSource {
    /// The authorization server gives one for this grant, or for the refresh tokens that it brings. Without a grant,
    /// a [login](Session::log_in_with) has to bring one.
    Grant(Option<Grant>),
    /// The page gets one, perhaps from its own backend, with a proof that it has made: the token response's JSON.
    Callback(Box<dyn Fn() -> TokenFuture>),
}

/// What a page's own way to a token promises.
pub type TokenFuture = Pin<Box<dyn Future<Output = Result<String, JsValue>>>>;

/// A token that is simply there: got when it is first needed, renewed before it expires, shared by all tabs and workers
/// of the page's origin. Cloning a session is cheap, and the clones are one.
///
/// Whoever needs a token while another caller, tab or worker gets one waits for it, and shares it.
#[derive(Clone)]
pub struct Session(Rc<Shared>);

struct Shared {
    /// Of the key.
    name: String,
    id: String,
    transport: Transport,
    client: Client,
    source: TokenSource,
    /// Replaced as a whole when the session begins anew, or ends.
    tokens: RefCell<Rc<RefCell<TokenManager>>>,
    /// Why the last renewal failed, for those who waited for it.
    failure: RefCell<Option<Rc<Error>>>,
    settled: Notify,
    /// To and from this session in other tabs.
    channel: JsValue,
    /// The person has logged out, here or elsewhere: the key is gone.
    closed: Cell<bool>,
}

impl Session {
    /// The session of this name, for this client and the `scope` that it asks for (that of a repeatable grant, unless given):
    /// with the token that is kept in IndexedDB, or else one that comes from `source`. What is kept for another server,
    /// client, scope, resource or key isn't found.
    ///
    /// # Errors
    /// `Browser` where IndexedDB is missing.
    pub async fn open(
        name: &str,
        transport: Transport,
        client: Client,
        source: TokenSource,
        scope: Option<&Scope>,
    ) -> Result<Self, Error> {
        let repeatable = source.grant().filter(Grant::is_repeatable);
        let scope = scope.or(repeatable.as_ref().and_then(Grant::requested_scope));
        let resources = repeatable.iter().flat_map(Grant::requested_resources);
        let id = format!("{name} {}", client.session_fingerprint(scope, resources));
        let shared = Rc::new(Shared {
            name: name.to_owned(),
            channel: platform::channel(&id),
            id,
            transport,
            client,
            tokens: new_token_manager(source.grant(), None).into(),
            source,
            failure: RefCell::default(),
            settled: Notify::default(),
            closed: Cell::default(),
        });
        shared.resume().await?;
        spawn_local(listen(Rc::downgrade(&shared), shared.channel.clone()));
        Ok(Self(shared))
    }

    /// What performs its requests.
    pub fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// Tells it from other sessions of the page's origin: its name, and a fingerprint of what it is for.
    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    /// What it is a session of.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Whether there is a token that is good now, or something left to get one with, or a login that is being ended.
    pub fn is_open(&self) -> bool {
        self.0.tokens().borrow().is_open(platform::now())
    }

    /// Goes on with what other tabs, or other sessions of this page, have kept since it was opened; an open session stays
    /// as it is.
    ///
    /// # Errors
    /// `Browser` where IndexedDB is missing.
    pub async fn resume(&self) -> Result<(), Error> {
        if self.is_open() || self.0.closed.get() {
            return Ok(());
        }
        self.0.resume().await
    }

    /// A token that is good now.
    ///
    /// # Errors
    /// That of the one renewal that all who need a token have waited for.
    pub async fn token(&self) -> Result<Token, Rc<Error>> {
        let shared = &self.0;
        loop {
            let store = shared.tokens();
            let demand = store.borrow_mut().poll(platform::now());
            match demand {
                TokenAction::Use(token, None) => return Ok(token),
                TokenAction::Use(token, Some(ticket)) => {
                    let renewal = self.refresh(store, ticket);
                    spawn_local(async move {
                        // Whoever needs its result will ask for it.
                        let _ = renewal.run().await;
                    });
                    return Ok(token);
                }
                TokenAction::Refresh(ticket) => return self.refresh(store, ticket).run().await,
                TokenAction::WaitUntil(until) => {
                    shared
                        .settled
                        .wait_timeout(until.saturating_since(platform::now()))
                        .await;
                }
                TokenAction::BackOffUntil(_) => {
                    // Nobody is asked twice within a moment: the answer is still the one that has just come.
                    let failure = shared.failure.borrow().clone();
                    return Err(failure.unwrap_or_else(|| Rc::new(Error::RefreshAborted)));
                }
            }
        }
    }

    /// Sends a request with a good token, as [`Transport::send`] does. If the server refuses a token that was there before,
    /// it is renewed and the request sent again, once. The refusal of a new token is the application's; after two such in a
    /// row from one origin, its refusals cause no token request for 30 s.
    ///
    /// # Errors
    /// If there is no token, or the request gets no answer.
    pub async fn fetch(&self, request: &Request) -> Result<Response, Rc<Error>> {
        let started = self.0.tokens().borrow().generation();
        let (response, refused) = self.call(request, &self.token().await?, started).await?;
        if !refused {
            return Ok(response);
        }
        match self.token().await {
            Ok(other) => Ok(self.call(request, &other, started).await?.0),
            // Without another token, the refusal is the application's.
            Err(_) => Ok(response),
        }
    }

    /// Calls with this token, and returns whether the call is to be made again with another. `started` is the generation
    /// of before it was got.
    async fn call(
        &self,
        request: &Request,
        token: &Token,
        started: u64,
    ) -> Result<(Response, bool), Rc<Error>> {
        let Called {
            response,
            uri,
            is_refused,
        } = self.0.transport.perform(token, request).await?;
        let store = self.0.tokens();
        let mut store = store.borrow_mut();
        if is_refused {
            return Ok((
                response,
                store.refused(token, &uri, started, platform::now()),
            ));
        }
        // An error of the server's own is no word about the token.
        if response.status() < 500 {
            store.accepted(&uri);
        }
        Ok((response, false))
    }

    /// Goes on with what a login has brought, in all tabs; whatever there was before is forgotten.
    ///
    /// # Errors
    /// Why there is no token for the grant, and `InvalidInput` after a log-out.
    pub async fn log_in_with(&self, grant: Grant) -> Result<Token, Rc<Error>> {
        self.require_key().map_err(Error::from)?;
        self.0.start(Some(grant), None);
        let token = self.token().await?;
        platform::post(&self.0.channel, LOGGED_IN);
        Ok(token)
    }

    /// Ends the session, in all tabs: its tokens are revoked, where the client knows how, and forgotten, and so is
    /// the key, unless another session of this name has tokens that are bound to it.
    ///
    /// # Errors
    /// `Browser` where IndexedDB is missing, and why the tokens could not be revoked; they are forgotten all the same.
    pub async fn log_out(&self) -> Result<(), Error> {
        let shared = &self.0;
        let kept = shared.tokens().borrow().snapshot();
        shared.end();
        platform::post(&shared.channel, LOGGED_OUT);
        {
            // A renewal that is under way in another tab, which has not heard yet, comes to its end first.
            let patience = shared.tokens().borrow().refresh_timeout();
            let _lock = Lock::acquire(&shared.id, patience)
                .await
                .map_err(Error::Browser)?;
            let key = key::storage_key(&shared.name);
            platform::erase_session(&shared.storage_key(), &key)
                .await
                .map_err(Error::Browser)?;
        }
        let refresh_token = kept.as_ref().and_then(|kept| kept.token()?.refresh_token());
        let revocation = refresh_token.and_then(|token| {
            shared
                .client
                .revoke(token.clone(), Some(TokenTypeHint::RefreshToken))
                .ok()
        });
        match revocation {
            Some(operation) => shared.transport.execute(operation).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Whether its key is still there: a log-out has deleted it.
    pub(crate) fn require_key(&self) -> Result<(), InvalidInput> {
        match self.0.closed.get() {
            true => Err(InvalidInput::new(
                "session",
                "must be opened anew after a log-out, with a new key",
            )),
            false => Ok(()),
        }
    }

    fn refresh(&self, store: Rc<RefCell<TokenManager>>, ticket: Ticket) -> Refresh {
        Refresh {
            shared: Rc::clone(&self.0),
            tokens: store,
            ticket: Some(ticket),
            save_failed: false,
        }
    }
}

impl TokenSource {
    /// What the store asks with. A page's own way may be gone again and again.
    fn grant(&self) -> Option<Grant> {
        match self {
            Self::Grant(grant) => grant.clone(),
            Self::Callback(_) => Some(Grant::client_credentials()),
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grant(grant) => f.debug_tuple("Grant").field(grant).finish(),
            Self::Callback(_) => f.write_str("Page"),
        }
    }
}

impl Shared {
    fn storage_key(&self) -> String {
        format!("session {}", self.id)
    }

    /// What this page or another has kept. What is of another version or key is as good as nothing.
    async fn load_state(&self) -> Result<Option<SessionState>, Error> {
        let Some(text) = platform::load(&self.storage_key())
            .await
            .map_err(Error::Browser)?
        else {
            return Ok(None);
        };
        let since = platform::now().saturating_sub(NONCE_LIFETIME);
        let kept = SessionState::from_json(text.as_bytes(), &self.client, since).ok();
        if let Some(kept) = &kept {
            self.transport.merge_server_state(kept.server_state());
        }
        Ok(kept)
    }

    /// Goes on with what is kept, if anything is.
    async fn resume(&self) -> Result<(), Error> {
        if let Some(kept) = self.load_state().await? {
            self.start(self.source.grant(), Some(kept));
        }
        Ok(())
    }

    async fn save_state(&self, kept: &SessionState) -> Result<(), Error> {
        let json = kept
            .clone()
            .with_server_state(self.transport.server_state())
            .to_json();
        let text = std::str::from_utf8(json.expose()).unwrap_or_default();
        platform::save(&self.storage_key(), text)
            .await
            .map_err(Error::Browser)
    }

    /// Saves what a store has that isn't saved. `true` if nothing is left to be saved, as when the session has begun anew or
    /// ended.
    async fn save_rest(&self, store: &Rc<RefCell<TokenManager>>) -> bool {
        let unsaved = store.borrow().unsaved().filter(|_| self.is_current(store));
        let Some(kept) = unsaved else { return true };
        let saved = self.save_state(&kept).await.is_ok();
        if saved {
            store.borrow_mut().saved(&kept);
        }
        saved
    }

    fn end(&self) {
        self.closed.set(true);
        self.start(None, None);
    }

    fn tokens(&self) -> Rc<RefCell<TokenManager>> {
        Rc::clone(&self.tokens.borrow())
    }

    fn is_current(&self, store: &Rc<RefCell<TokenManager>>) -> bool {
        Rc::ptr_eq(&self.tokens.borrow(), store)
    }

    fn start(&self, grant: Option<Grant>, kept: Option<SessionState>) {
        *self.tokens.borrow_mut() = new_token_manager(grant, kept);
        self.settled.notify_all();
    }
}

fn new_token_manager(
    grant: Option<Grant>,
    kept: Option<SessionState>,
) -> Rc<RefCell<TokenManager>> {
    let store = TokenManager::new(RefreshPolicy::default(), grant);
    Rc::new(RefCell::new(match kept {
        Some(kept) => store.with_state(kept),
        None => store,
    }))
}

/// Saves what could not be saved, such as a new refresh token: nobody else may use the old one meanwhile.
async fn save_later(shared: Rc<Shared>, store: Rc<RefCell<TokenManager>>, lock: Lock) {
    let until = platform::now().saturating_add(store.borrow().refresh_timeout());
    while platform::now() < until {
        platform::sleep(SAVE_AGAIN).await;
        if shared.save_rest(&store).await {
            break;
        }
    }
    drop(lock);
}

/// Does what other tabs have done, as long as there is a session.
async fn listen(shared: Weak<Shared>, channel: JsValue) {
    loop {
        let news = platform::next_message(&channel).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match news.as_string().as_deref() {
            Some(LOGGED_OUT) => shared.end(),
            // What can't be read now will be read when a token is needed.
            _ if shared.closed.get() => {}
            _ => drop(shared.resume().await),
        }
    }
}

/// A renewal that is under way. However it ends, whoever waits for it is told.
struct Refresh {
    shared: Rc<Shared>,
    /// Which gave the ticket; another may have taken its place since.
    tokens: Rc<RefCell<TokenManager>>,
    ticket: Option<Ticket>,
    /// What came could not be saved.
    save_failed: bool,
}

impl Refresh {
    async fn run(mut self) -> Result<Token, Rc<Error>> {
        let shared = Rc::clone(&self.shared);
        // Given back when all is over.
        let mut lock = None;
        let renewed = self.refresh(&mut lock).await.map_err(Rc::new);
        self.end(&renewed);
        if let Some(lock) = lock
            && !shared.save_rest(&self.tokens).await
        {
            spawn_local(save_later(
                Rc::clone(&shared),
                Rc::clone(&self.tokens),
                lock,
            ));
        }
        renewed
    }

    async fn refresh(&mut self, lock: &mut Option<Lock>) -> Result<Token, Error> {
        let shared = Rc::clone(&self.shared);
        let patience = self.tokens.borrow().refresh_timeout();
        *lock = Some(
            Lock::acquire(&shared.id, patience)
                .await
                .map_err(Error::Browser)?,
        );
        if let Some(kept) = shared.load_state().await? {
            let theirs = self
                .with_ticket(|store, ticket| store.adopt(ticket, kept, platform::now(), seed()));
            if let Some(token) = theirs.flatten() {
                return Ok(token);
            }
        }
        let good = self.tokens.borrow().good(platform::now());
        if let Some(token) = good {
            return Ok(token); // It has only to be saved.
        }
        let attempt = self
            .with_ticket(TokenManager::begin_refresh)
            .flatten()
            .ok_or(Error::LoginRequired)?;
        if let Some(keep) = attempt.checkpoint {
            if let Err(error) = shared.save_state(&keep).await {
                self.with_ticket(TokenManager::withdraw);
                return Err(error);
            }
            self.tokens.borrow_mut().saved(&keep);
        }
        let token = match &shared.source {
            TokenSource::Grant(_) => {
                shared
                    .transport
                    .execute(shared.client.token(attempt.grant)?)
                    .await?
            }
            TokenSource::Callback(get) => {
                let answer = get().await.map_err(Error::Page)?;
                shared
                    .client
                    .parse_token_response(answer.as_bytes(), platform::now())?
            }
        };
        // Before anybody uses it: a new refresh token comes only once.
        if shared.is_current(&self.tokens) {
            let kept = self.tokens.borrow().kept_with(token.clone());
            self.save_failed = shared.save_state(&kept).await.is_err();
        }
        Ok(token)
    }

    fn end(&mut self, renewed: &Result<Token, Rc<Error>>) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let outcome = renewed.clone().map_err(|error| error.refresh_failure());
        *self.shared.failure.borrow_mut() = renewed.as_ref().err().cloned();
        let mut store = self.tokens.borrow_mut();
        store.complete(ticket, outcome, platform::now(), seed());
        if self.save_failed {
            store.save_failed();
        }
        drop(store);
        self.shared.settled.notify_all();
    }

    fn with_ticket<T>(
        &mut self,
        with: impl FnOnce(&mut TokenManager, &mut Ticket) -> T,
    ) -> Option<T> {
        let ticket = self.ticket.as_mut()?;
        Some(with(&mut self.tokens.borrow_mut(), ticket))
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        self.end(&Err(Rc::new(Error::RefreshAborted)));
    }
}

fn seed() -> u64 {
    u64::from_ne_bytes(platform::entropy())
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("name", &self.0.name)
            .field("client", &self.0.client)
            .finish_non_exhaustive()
    }
}
