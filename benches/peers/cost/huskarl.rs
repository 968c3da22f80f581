//! Obtains a bound token for client credentials, and makes a call with it.

use std::env::var;

use http::{Method, Uri};
use huskarl::authorizer::HttpAuthorizer;
use huskarl::cache::{GrantTokenSource, InMemoryRefreshTokenStore, InMemoryTokenCache};
use huskarl::core::EndpointUrl;
use huskarl::core::client_auth::ClientSecret;
use huskarl::core::dpop::DPoP;
use huskarl::core::secrets::EnvVarSecret;
use huskarl::grant::client_credentials::{ClientCredentialsGrant, ClientCredentialsGrantParameters};
use huskarl_crypto_native::asymmetric::signer::{GenerateAlgorithm, PrivateKey};
use huskarl_reqwest::ReqwestClient;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let requests = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let key = PrivateKey::generate(GenerateAlgorithm::Es256, None)?;
    let grant = ClientCredentialsGrant::builder()
        .client_id(var("CLIENT_ID")?)
        .client_auth(ClientSecret::new(EnvVarSecret::string("CLIENT_SECRET")?))
        .http_client(ReqwestClient::from(requests.clone()))
        .token_endpoint(var("TOKEN_URL")?.parse::<EndpointUrl>()?)
        .dpop(DPoP::builder().signer(key).build())
        .build();
    let source = GrantTokenSource::builder()
        .grant(grant)
        .grant_parameters(ClientCredentialsGrantParameters::builder().build())
        .refresh_store(InMemoryRefreshTokenStore::default())
        .build();
    let authorizer =
        HttpAuthorizer::builder().cache(InMemoryTokenCache::builder().source(source).build()).build();
    let url: Uri = var("RESOURCE_URL")?.parse()?;
    let headers = authorizer.get_headers(&Method::GET, &url).await?;
    let response = requests.get(url.to_string()).headers(headers).send().await?;
    authorizer.process_response(&url, response.headers());
    println!("{}", response.text().await?);
    Ok(())
}
