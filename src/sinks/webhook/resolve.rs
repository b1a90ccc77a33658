//! Name look-up that hands a connection only addresses the sink's policy allows: what is checked is what is connected
//! to, so a name that resolves differently a moment later gains nothing.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::sinks::address::Policy;

/// Filters the addresses of the receiver's hosts. Any other name is the proxy's, which the operator chose and which may well live
/// in a private network.
pub(super) struct FilteringResolver {
    hosts: Vec<String>,
    policy: Policy,
}

impl FilteringResolver {
    pub(super) fn new(hosts: Vec<String>, policy: Policy) -> Self {
        Self { hosts, policy }
    }
}

impl Resolve for FilteringResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let is_receiver = |host: &String| host.eq_ignore_ascii_case(name.as_str());
        let policy = self.hosts.iter().any(is_receiver);
        let policy = policy.then(|| self.policy.clone());
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let Some(policy) = policy else {
                return Ok(Box::new(found.into_iter()) as Addrs);
            };
            let mut allowed: Vec<SocketAddr> = Vec::new();
            let mut refused = None;
            for address in found {
                match policy.check(address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(reason) => refused = Some(reason),
                }
            }
            match refused {
                Some(reason) if allowed.is_empty() => Err(reason.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::address::Refused;

    #[tokio::test]
    async fn a_receivers_loopback_is_given_and_its_forbidden_addresses_are_not() {
        let resolver = FilteringResolver::new(vec!["localhost".to_owned()], Policy::default());
        let found = resolver.resolve("LocalHost".parse().unwrap()).await;
        assert!(found.unwrap().all(|address| address.ip().is_loopback()));

        let resolver = FilteringResolver::new(
            vec!["ehr.example".to_owned(), "10.0.0.1".to_owned()],
            Policy::default(),
        );
        let refused = resolver.resolve("10.0.0.1".parse().unwrap()).await;
        assert!(refused.err().unwrap().is::<Refused>());
        let disguised =
            FilteringResolver::new(vec!["::ffff:100.100.100.200".to_owned()], Policy::default());
        let refused = disguised
            .resolve("::FFFF:100.100.100.200".parse().unwrap())
            .await;
        assert!(refused.err().unwrap().is::<Refused>());
        let proxy = resolver.resolve("10.0.0.2".parse().unwrap()).await;
        assert_eq!(proxy.unwrap().count(), 1);
    }
}
