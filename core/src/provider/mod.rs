//! Providers, as data: where they are, what they want to be sent, what they can't do without.
//!
//! Most need no type of their own; what is odd about them is a setting that any client can have, or is read by every
//! client as it is. These are held by `core/tests/it/providers.rs`:
//!
//! | provider | what to set | what is odd, and taken care of |
//! |---|---|---|
//! | Auth0 | `audience` by [`AuthorizationBuilder::param`](crate::AuthorizationBuilder::param); the issuer's closing slash | nothing more |
//! | Azure AD v1 | `resource` by [`Grant::param`](crate::Grant::param) | `expires_in` is a text |
//! | Bluesky (atproto) | the client id is a URL; [`push`](crate::AuthorizationBuilder::push), [`private_key_jwt`](crate::ClientAuth::private_key_jwt), [`iss_in_redirects`](crate::Client::iss_in_redirects) | another nonce with every answer, pushed requests included |
//! | GitHub | nothing | errors in a 200, while a device is polled as well; scopes between commas; tokens that don't say when they expire |
//! | Marqeta | [`Client::relay`](crate::Client::relay); `user_token` and `audience` by `param`; `private_key_jwt` with a `kid` | the browser's proof goes through, once |
//! | Okta | `private_key_jwt` by another key than the proof's | asks every first request for a nonce |
//! | Zoom | `Grant::extension("account_credentials")` with `account_id` | nothing more |

pub mod moov;
pub mod treasury_prime;
