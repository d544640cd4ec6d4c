//! Passwords and keys stay in their Secrets: no log, object, Event or process argument holds one.

use std::{collections::BTreeMap, fs};

use crds::IoTPipeline;
use e2e::{
    Result,
    cluster::{CREDENTIALS_NAMESPACE, OPERATOR_NAMESPACE},
    fleet::Shares,
    scenario::{Scenario, scenario},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ConfigMap, Event, Pod, Secret},
    },
};
use kube::{
    Resource, ResourceExt,
    api::{ListParams, LogParams},
};
use serde::{Serialize, de::DeserializeOwned};
use snafu::{Report, ResultExt, Whatever};

#[tokio::test]
async fn no_secret_is_anywhere_but_in_its_secret() -> Report<Whatever> {
    scenario("secrets", async |test: &Scenario| {
        test.start(&test.manifest()?).await?;
        let ledger =
            test.publish(20, 300.0, 1_000, Shares { late: 0.0, repeated: 0.0, malformed: 0.1 }).await?;
        test.drained(&ledger).await?;
        // Trouble makes programs talkative: a password that does not fit, at both stores.
        let wrong =
            BTreeMap::from([("password".to_owned(), "a-wrong-word-that-nobody-should-see".to_owned())]);
        for name in ["mqtt-user", "tsdb"] {
            test.cluster.change_secret(&test.namespace, name, &wrong).await?;
        }
        for pod in test.cluster.pods(&test.namespace, "").await? {
            test.cluster.remove_at_once(&pod).await?;
        }
        test.wait_for("has trouble with its passwords", |pipeline| {
            let conditions = pipeline.status.iter().flat_map(|status| &status.conditions);
            conditions.filter(|condition| condition.status == "False").count() >= 3
        })
        .await?;

        let mut secrets = vec![wrong["password"].clone()];
        for name in ["mqtt-user", "tsdb"] {
            let secret: Secret = test.cluster.secret(CREDENTIALS_NAMESPACE, name).await?;
            secrets.extend(e2e::cluster::value_of(&secret, "password"));
        }
        let mut found = Vec::new();
        let mut look = |place: String, text: &str| {
            if secrets.iter().any(|secret| text.contains(secret)) {
                found.push(place);
            }
        };
        for (place, text) in what_is_said(test).await? {
            look(place, &text);
        }
        for (number, arguments) in arguments_of_all_processes() {
            look(format!("arguments or environment of process {number}"), &arguments);
        }
        assert_eq!(found, [""; 0], "a secret was found in");
        Ok(())
    })
    .await
}

/// Everything but Secrets that the pipeline and the operator have written, by where it stands.
async fn what_is_said(test: &Scenario) -> Result<Vec<(String, String)>> {
    let mut said = Vec::new();
    let namespace = test.namespace.as_str();
    said.extend(objects::<IoTPipeline>(test, namespace).await?);
    said.extend(objects::<ConfigMap>(test, namespace).await?);
    said.extend(objects::<Deployment>(test, namespace).await?);
    said.extend(objects::<StatefulSet>(test, namespace).await?);
    said.extend(objects::<Pod>(test, namespace).await?);
    for place in [namespace, OPERATOR_NAMESPACE] {
        said.extend(objects::<Event>(test, place).await?);
        for pod in test.cluster.pods(place, "").await? {
            for previous in [true, false] {
                let wanted = LogParams { previous, ..LogParams::default() };
                if let Ok(log) = test.cluster.api::<Pod>(place).logs(&pod.name_any(), &wanted).await {
                    said.push((format!("log of {}", pod.name_any()), log));
                }
            }
            for page in ["status", "metrics"] {
                if let Ok(text) = test.cluster.pod_page(place, &pod.name_any(), page).await {
                    said.push((format!("/{page} of {}", pod.name_any()), text));
                }
            }
        }
    }
    assert!(said.iter().any(|(place, text)| place.starts_with("log") && !text.is_empty()), "there are logs");
    Ok(said)
}

async fn objects<K>(test: &Scenario, namespace: &str) -> Result<Vec<(String, String)>>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
    K::DynamicType: Default,
{
    let listed = test.cluster.api::<K>(namespace).list(&ListParams::default()).await;
    let listed = listed.whatever_context("failed to list objects")?;
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let text = |object: &K| serde_json::to_string(object).whatever_context("failed to write an object");
    listed.iter().map(|object| Ok((format!("{kind} {}", object.name_any()), text(object)?))).collect()
}

fn arguments_of_all_processes() -> Vec<(String, String)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().into_string().ok());
    numbers
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .map(|number| {
            let read = |file: &str| fs::read(format!("/proc/{number}/{file}")).unwrap_or_default();
            let program = String::from_utf8_lossy(&read("cmdline")).into_owned();
            // Of other programs only the arguments: this very test has the passwords of the servers in its
            // environment.
            let is_ours = program.contains("iotpipeline-");
            let environment = if is_ours { read("environ") } else { Vec::new() };
            (number, program + &String::from_utf8_lossy(&environment))
        })
        .collect()
}
