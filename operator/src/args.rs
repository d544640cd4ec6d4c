//! The operator's command line. Every option with a value can be given as an environment variable too.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use crds::names::FIELD_MANAGER;
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;

/// Makes true what IoTPipelines say, and keeps it true.
#[derive(Clone, Debug, Parser)]
#[command(name = "iotpipeline-operator", version)]
pub struct Args {
    /// The name of this Kubernetes cluster: the first part of every pipeline's identity, so it must never change.
    #[arg(long, env = "IOTPIPELINE_CLUSTER_NAME", value_parser = parse_cluster_name)]
    pub cluster_name: String,

    /// The namespaces whose IoTPipelines are looked after, separated by commas.
    #[arg(
        long,
        env = "IOTPIPELINE_WATCH_NAMESPACES",
        value_delimiter = ',',
        required_unless_present = "watch_any_namespace",
        conflicts_with = "watch_any_namespace"
    )]
    pub watch_namespaces: Vec<String>,

    /// Look after the IoTPipelines of all namespaces.
    #[arg(long)]
    pub watch_any_namespace: bool,

    /// The image that workers run.
    #[arg(long, env = "IOTPIPELINE_WORKER_IMAGE")]
    pub worker_image: String,

    /// When nodes pull the image of workers; Kubernetes decides where this is not given.
    #[arg(
        long,
        env = "IOTPIPELINE_WORKER_IMAGE_PULL_POLICY",
        value_parser = ["Always", "IfNotPresent", "Never"]
    )]
    pub worker_image_pull_policy: Option<String>,

    /// Who may reach the workers' HTTP endpoints, the operator among them: a JSON list of NetworkPolicyPeers. Without
    /// it workers get no NetworkPolicies.
    #[arg(long, env = "IOTPIPELINE_WORKER_INGRESS_FROM", value_parser = parse_peers)]
    pub worker_ingress_from: Option<Peers>,

    /// Where /livez, /readyz and /metrics are answered.
    #[arg(long, env = "IOTPIPELINE_HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_address: SocketAddr,

    /// Act only while holding a Lease, so that of several operators one acts.
    #[arg(long, env = "IOTPIPELINE_LEADER_ELECTION", requires_all = ["pod_name", "pod_namespace"])]
    pub leader_election: bool,

    /// The name of the Lease, in the operator's own namespace.
    #[arg(long, env = "IOTPIPELINE_LEASE_NAME", default_value = FIELD_MANAGER)]
    pub lease_name: String,

    /// The name of the operator's pod, under which it holds the Lease.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,

    /// The namespace of the operator's pod.
    #[arg(long, env = "POD_NAMESPACE")]
    pub pod_namespace: Option<String>,

    /// How many pipelines of one watched scope are reconciled at once.
    #[arg(long, env = "IOTPIPELINE_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,

    /// How many pipelines' workers are replaced at once where another version of the operator wants other pods.
    #[arg(long, env = "IOTPIPELINE_MAX_CONCURRENT_ROLLOUTS", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_concurrent_rollouts: u16,

    /// How often Kafka and the database are compared with the spec (`60s`, `5m`), give or take a fifth.
    #[arg(long, env = "IOTPIPELINE_RESYNC", default_value = "60s", value_parser = parse_duration)]
    pub resync: Duration,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = crds::units::DurationText(text.to_owned()).parse();
    duration.ok_or_else(|| "not a duration; write a whole number and a unit, such as 60s or 5m".to_owned())
}

/// The peers of a NetworkPolicy. A type of its own, because clap takes a `Vec` for an option given several times.
#[derive(Clone, Debug, PartialEq)]
pub struct Peers(pub Vec<NetworkPolicyPeer>);

fn parse_peers(text: &str) -> Result<Peers, String> {
    let peers = serde_json::from_str(text).map(Peers);
    peers.map_err(|error| format!("not a JSON list of NetworkPolicyPeers: {error}"))
}

/// The longest name of a cluster, as the chart has it.
const MAX_CLUSTER_NAME: usize = 20;

/// The cluster's name is part of MQTT client ids, so it is held to what fits everywhere.
fn parse_cluster_name(text: &str) -> Result<String, String> {
    let legal = (1..=MAX_CLUSTER_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    legal.then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "not a cluster name; use 1 to {MAX_CLUSTER_NAME} of a-z 0-9 -, and neither begin nor end with -"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<Args, String> {
        let always = ["iotpipeline-operator", "--cluster-name=test", "--worker-image=worker:1"];
        Args::try_parse_from(always.iter().chain(options)).map_err(|error| error.to_string())
    }

    #[test]
    fn namespaces_are_a_list_or_all() {
        let some = parse(&["--watch-namespaces=a,b"]).unwrap();
        assert_eq!(some.watch_namespaces, ["a", "b"]);
        assert!(parse(&["--watch-any-namespace"]).unwrap().watch_namespaces.is_empty());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--watch-namespaces=a", "--watch-any-namespace"]).is_err());
    }

    #[test]
    fn defaults_and_units() {
        let args = parse(&["--watch-any-namespace"]).unwrap();
        assert_eq!((args.concurrency, args.resync), (16, Duration::from_secs(60)));
        assert_eq!(args.max_concurrent_rollouts, 5);
        assert!(parse(&["--watch-any-namespace", "--resync=soon"]).unwrap_err().contains("60s or 5m"));
        assert!(parse(&["--watch-any-namespace", "--concurrency=0"]).is_err());
        assert!(parse(&["--watch-any-namespace", "--cluster-name=Plant 7"]).is_err());
    }

    #[test]
    fn a_leader_needs_a_name_of_its_own() {
        let election = ["--watch-any-namespace", "--leader-election"];
        assert!(parse(&election).unwrap_err().contains("--pod-name"));
        let named = [election.as_slice(), &["--pod-name=a", "--pod-namespace=b"]].concat();
        assert_eq!(parse(&named).unwrap().lease_name, "iotpipeline-operator");
    }

    #[test]
    fn peers_are_json() {
        let peers = |text: &str| {
            let option = format!("--worker-ingress-from={text}");
            parse(&["--watch-any-namespace", &option]).map(|args| args.worker_ingress_from)
        };
        assert_eq!(peers("[]").unwrap(), Some(Peers(Vec::new())));
        let one = peers(r#"[{"podSelector": {"matchLabels": {"app": "prometheus"}}}]"#).unwrap().unwrap();
        assert_eq!(one.0.len(), 1);
        assert!(peers("everybody").unwrap_err().contains("not a JSON list of NetworkPolicyPeers"));
    }
}
