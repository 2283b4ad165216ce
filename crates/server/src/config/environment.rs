//! Variables that look like settings and are none.

const PREFIX: &str = "MOESAIC_";

/// Those of the variables that look like settings, and are neither `known` nor put there by Kubernetes.
pub fn unknown_variables(names: impl Iterator<Item = String>, known: &[String]) -> Vec<String> {
    let mut unknown: Vec<String> =
        names.filter(|name| name.starts_with(PREFIX) && !known.contains(name) && !is_service_variable(name)).collect();
    unknown.sort_unstable();
    unknown
}

/// Whether Kubernetes sets this in every container beside a Service called moesaic.
fn is_service_variable(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    if rest == "SERVICE_HOST" || rest == "SERVICE_PORT" || rest.starts_with("SERVICE_PORT_") {
        return true;
    }
    let Some((port, rest)) = rest.strip_prefix("PORT_").and_then(|rest| rest.split_once('_')) else { return false };
    let (protocol, field) = rest.split_once('_').unwrap_or((rest, ""));
    port.parse::<u16>().is_ok()
        && matches!(protocol, "TCP" | "UDP" | "SCTP")
        && matches!(field, "" | "PROTO" | "PORT" | "ADDR")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_sets_is_passed_over() {
        let known = ["MOESAIC_PORT".to_owned()];
        let unknown = |names: &[&str]| unknown_variables(names.iter().map(|name| (*name).to_owned()), &known);
        assert!(
            unknown(&[
                "MOESAIC_PORT",
                "MOESAIC_SERVICE_HOST",
                "MOESAIC_SERVICE_PORT",
                "MOESAIC_SERVICE_PORT_HTTP",
                "MOESAIC_PORT_8000_TCP",
                "MOESAIC_PORT_8000_TCP_ADDR",
                "PATH",
            ])
            .is_empty()
        );
        let wrong = ["MOESAIC_MAX_NUM_SEQ", "MOESAIC_PORTS", "MOESAIC_PORT_TCP", "MOESAIC_PORT_99999_TCP", "MOESAIC_"];
        let mut sorted = wrong;
        sorted.sort_unstable();
        assert_eq!(unknown(&wrong), sorted);
    }
}
