//! Provider support: endpoints, required parameters and known deviations, as data.
//!
//! Most providers need no type of their own. Their peculiarities are settings of any client, or every
//! client handles them. `core/tests/it/providers.rs` tests these:
//!
//! | provider | settings | peculiarities that are handled |
//! |---|---|---|
//! | Auth0 | `audience` by [`AuthorizationBuilder::param`](crate::AuthorizationBuilder::param); the issuer's trailing slash | none |
//! | Azure AD v1 | `resource` by [`Grant::param`](crate::Grant::param) | `expires_in` is a string |
//! | Bluesky (atproto) | the client id is a URL; [`push`](crate::AuthorizationBuilder::push), [`private_key_jwt`](crate::ClientAuth::private_key_jwt), [`require_iss`](crate::Client::require_iss) | a new nonce with every response, including those to pushed authorization requests |
//! | GitHub | none | errors with status 200, also while polling for a device code; comma-separated scopes; tokens without `expires_in` |
//! | Marqeta | [`Client::relay`](crate::Client::relay); `user_token` and `audience` by `param`; `private_key_jwt` with a `kid` | the browser's proof is forwarded, once |
//! | Okta | `private_key_jwt` with another key than the proof's | responds to every first request with a nonce challenge |
//! | Zoom | `Grant::extension("account_credentials")` with `account_id` | none |
//!
//! No setting handles the following; the last test in that file covers them. "Own request" means that
//! the application sends the request itself and passes the response to
//! [`Client::parse_token_response`](crate::Client::parse_token_response), which validates it as any other:
//!
//! | peculiarity | provider | workaround |
//! |---|---|---|
//! | the token request is a GET | [Safaricom's Daraja](https://developer.safaricom.co.ke/apis/Authorization) | not supported (RFC 6749 §3.2 requires POST, and caches store responses to GET): own request |
//! | credentials in the query | | not supported: URLs are logged. Parameters that are not secret, such as `grant_type`, may be in the [`Endpoint`](crate::Endpoint)'s query |
//! | a form-encoded response instead of JSON | GitHub, unless the request accepts JSON, which every request here does | not supported: own request, with the members converted to JSON |
//! | the token in a wrapper object, or under non-standard names | Oracle's lending services, `{"AuthResponse": {"Token": …}}` | own request; pass the inner object, with its members named as in RFC 6749 §5.1 |
//! | `client_key` instead of `client_id` | [TikTok](https://pilcrowonpaper.com/blog/dear-oauth-providers) | [`Client::param`](crate::Client::param), and [`AuthorizationBuilder::param`](crate::AuthorizationBuilder::param) for the authorization URL; `client_id` is sent as well |
//! | proofs signed with ES512 or ES256K | clients of [Jack Henry](https://jackhenry.dev/authentication-framework/concepts/advanced-topics/dpop/) may send them | refused ([`ProofError::Alg`](crate::dpop::ProofError::Alg)): ring can't verify them. Jack Henry accepts ES256 as well |
//! | `htm` in lower case | [an old sample of Solid's](https://github.com/solid/authentication-panel/issues/85) | refused, since methods are case-sensitive; an additional [`ProofVerifier::method`](crate::dpop::ProofVerifier::method) call with `"get"` accepts it. Proofs created here use the request's method |

pub mod moov;
pub mod treasury_prime;
