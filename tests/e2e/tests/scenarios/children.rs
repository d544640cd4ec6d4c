//! What the operator makes in a pipeline's namespace: restricted, owned, and without secrets.

use crds::names::PIPELINE_LABEL;
use e2e::{
    Result,
    cluster::{OPERATOR_NAMESPACE, value_of},
    fleet::Shares,
    manifest::set,
    scenario::{Scenario, scenario},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ConfigMap, Pod, Service},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Resource, ResourceExt,
    api::{ListParams, LogParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use snafu::{Report, ResultExt, Whatever};

#[tokio::test]
async fn children_are_restricted_owned_and_without_secrets() -> Report<Whatever> {
    scenario("children", async |test: &Scenario| {
        let manifest =
            set(test.manifest()?, "/metadata/labels", json!({"argocd.argoproj.io/instance": "apps"}))?;
        let manifest =
            set(manifest, "/metadata/annotations", json!({"example.com/note": "not for children"}))?;
        let pipeline = test.start(&manifest).await?;
        let ledger =
            test.publish(10, 200.0, 500, Shares { late: 0.0, repeated: 0.0, malformed: 0.1 }).await?;
        test.drained(&ledger).await?;

        // The namespace enforces the restricted Pod Security Standard, so running pods conform to it.
        let pods = children::<Pod>(test).await?;
        for pod in &pods {
            let spec = pod.spec.as_ref();
            assert_eq!(
                spec.and_then(|spec| spec.automount_service_account_token),
                Some(false),
                "{}",
                pod.name_any()
            );
            let volumes = spec.and_then(|spec| spec.volumes.clone()).unwrap_or_default();
            assert!(volumes.iter().all(|volume| volume.projected.is_none()), "a token in {}", pod.name_any());
        }

        let owner = pipeline.uid().unwrap_or_default();
        let mut texts =
            vec![serde_json::to_string(&test.wait_for("exists", |_| true).await?).unwrap_or_default()];
        texts.extend(owned::<ConfigMap>(test, &owner).await?);
        texts.extend(owned::<Deployment>(test, &owner).await?);
        texts.extend(owned::<NetworkPolicy>(test, &owner).await?);
        texts.extend(owned::<PodDisruptionBudget>(test, &owner).await?);
        texts.extend(owned::<Service>(test, &owner).await?);
        texts.extend(owned::<StatefulSet>(test, &owner).await?);
        for pod in pods {
            texts.push(serde_json::to_string(&pod).unwrap_or_default());
            texts.push(log(test, &pod).await?);
        }
        for pod in test.cluster.pods(OPERATOR_NAMESPACE, "").await? {
            texts.push(log(test, &pod).await?);
        }
        for (name, key) in [("mqtt-user", "password"), ("tsdb", "password")] {
            let secret = test.cluster.secret(&test.namespace, name).await?;
            let password = value_of(&secret, key).unwrap_or_default();
            assert!(password.len() >= 16, "a password that cannot occur by chance");
            for text in &texts {
                assert!(
                    !text.contains(&password),
                    "the password of {name} stands in: {}",
                    &text[..text.len().min(300)]
                );
            }
        }
        for text in &texts[1..] {
            assert!(!text.contains("not for children"), "the pipeline's annotation is copied: {text}");
        }

        // A drain is never blocked.
        for budget in children::<PodDisruptionBudget>(test).await? {
            let allowed = budget.status.as_ref().map(|status| status.disruptions_allowed);
            assert!(allowed >= Some(1), "{} allows {allowed:?} disruptions", budget.name_any());
        }
        Ok(())
    })
    .await
}

async fn children<K>(test: &Scenario) -> Result<Vec<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let wanted = ListParams::default().labels(PIPELINE_LABEL);
    let children = test.cluster.api::<K>(&test.namespace).list(&wanted).await;
    let children = children.with_whatever_context(|_| format!("failed to list {}", K::plural(&())))?;
    assert!(!children.items.is_empty(), "there is no {}", K::kind(&()));
    Ok(children.items)
}

/// The children of one kind as text, each of which is owned by the pipeline and labelled as its own.
async fn owned<K>(test: &Scenario, owner: &str) -> Result<Vec<String>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let children = children::<K>(test).await?;
    for child in &children {
        let owners: Vec<_> = child.owner_references().iter().map(|reference| reference.uid.clone()).collect();
        assert_eq!(owners, [owner], "the owners of {} {}", K::kind(&()), child.name_any());
        for foreign in ["app.kubernetes.io/instance", "argocd.argoproj.io/instance"] {
            assert!(!child.labels().contains_key(foreign), "{} {}", K::kind(&()), child.name_any());
        }
    }
    Ok(children.iter().map(|child| serde_json::to_string(child).unwrap_or_default()).collect())
}

async fn log(test: &Scenario, pod: &Pod) -> Result<String> {
    let pods = test.cluster.api::<Pod>(&pod.namespace().unwrap_or_default());
    let log = pods.logs(&pod.name_any(), &LogParams::default()).await;
    log.with_whatever_context(|_| format!("failed to read the log of {}", pod.name_any()))
}
