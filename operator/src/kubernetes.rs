//! The client for the Kubernetes API: one HTTP/2 connection for all calls and watches, as other clients of Kubernetes have it.
//! kube's own makes an HTTP/1 connection for each call that is under way: dozens, and 70 KiB for each. I/O.

use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{ConfigExt, retry::RetryPolicy},
};
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use snafu::{ResultExt, Snafu};
use tower::{BoxError, ServiceBuilder, retry::RetryLayer};

/// For how long nothing may come before the API server is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(3);

/// How long it may take to answer that. Together they leave time to renew the Lease by another connection.
const PATIENCE: Duration = Duration::from_secs(7);

/// Why there is no client.
#[derive(Debug, Snafu)]
pub enum Error {
    /// It is not known where the API server is.
    #[snafu(display("found no Kubernetes API"))]
    Infer {
        /// Why not.
        source: kube::config::InferConfigError,
    },
    /// What is known cannot be used.
    #[snafu(display("cannot use the configuration of the Kubernetes API"))]
    Configuration {
        /// Why not.
        #[snafu(source(from(kube::Error, Box::new)))]
        source: Box<kube::Error>,
    },
    /// The name in the API server's certificate is none.
    #[snafu(display("tls-server-name {name:?} is no name of a server"))]
    ServerName {
        /// As it is configured.
        name: String,
        /// Why not.
        source: InvalidDnsNameError,
    },
}

/// A client for the API server of the cluster that this runs in, or else of the kubeconfig's current context.
///
/// # Errors
/// Fails where there is neither, or it cannot be used. Whether there is an API server, the first call says.
pub async fn client() -> Result<Client, Error> {
    let config = Config::infer().await.context(InferSnafu)?;
    if config.proxy_url.is_some() {
        // Which it does not know either, and says so.
        return Client::try_from(config).context(ConfigurationSnafu);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let tls = config.rustls_client_config().context(ConfigurationSnafu)?;
    let mut connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let server = ServerName::try_from(name.clone()).context(ServerNameSnafu { name })?;
        connector = connector.with_server_name_resolver(FixedServerNameResolver::new(server));
    }
    let mut connector = TimeoutConnector::new(connector.enable_all_versions().wrap_connector(tcp));
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_write_timeout(config.write_timeout);
    let http = legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(SILENCE)
        .http2_keep_alive_timeout(PATIENCE)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer().context(ConfigurationSnafu)?)
        .layer(config.extra_headers_layer().context(ConfigurationSnafu)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}
