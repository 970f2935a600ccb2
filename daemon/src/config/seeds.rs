//! Addresses of other nodes as an operator writes them.

use std::net::IpAddr;

use super::layers::Given;
use crate::cli::Failure;

/// Most seeds worth having.
const SEEDS_MAX: usize = 64;

/// `host:port`; an IPv6 address stands in brackets.
pub fn check_address(text: &str) -> Result<String, String> {
    match judge_address(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(why) => Err(format!(
            "{why}; an address is HOST:PORT, e.g. localhost:8081"
        )),
    }
}

/// The same without a word or a copy, for what is heard.
pub fn is_address(text: &str) -> bool {
    judge_address(text).is_ok()
}

fn judge_address(text: &str) -> Result<(), &'static str> {
    if text.contains('/') {
        return Err("this is a URL");
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("the port is missing");
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.contains(':') && !bracketed {
        return Err("an IPv6 address needs brackets");
    }
    let host_ok = |c: char| c.is_ascii_alphanumeric() || "-_.[]:%".contains(c);
    if host.len() > 253 || !host.chars().all(host_ok) {
        return Err("this is not a host name");
    }
    match port.parse::<u16>() {
        Ok(n) if n > 0 => Ok(()),
        _ => Err("the port must be a number from 1 to 65535"),
    }
}

/// All seeds in the order given, each once.
pub fn collect(given: Vec<Given>) -> Result<Vec<String>, Failure> {
    let mut seeds: Vec<String> = Vec::new();
    for Given { text, origin } in given {
        for part in text.split(',').map(str::trim) {
            let seed = check_address(part)
                .map_err(|why| Failure::Usage(format!("{origin}: {part:?}: {why}")))?;
            if !seeds.contains(&seed) {
                seeds.push(seed);
            }
        }
    }
    if seeds.len() > SEEDS_MAX {
        return Err(Failure::Usage(format!(
            "{} seeds are too many; {SEEDS_MAX} are enough for any cluster",
            seeds.len()
        )));
    }
    Ok(seeds)
}

/// Seeds that are not this node under one of its names.
pub fn without_self(seeds: &[String], advertise: &str, bind: IpAddr, port: u16) -> Vec<String> {
    seeds
        .iter()
        .filter(|s| !is_self(s, advertise, bind, port))
        .cloned()
        .collect()
}

fn is_self(seed: &str, advertise: &str, bind: IpAddr, port: u16) -> bool {
    if seed == advertise {
        return true;
    }
    let Some((host, seed_port)) = seed.rsplit_once(':') else {
        return false;
    };
    if seed_port.parse() != Ok(port) {
        return false;
    }
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|ip| ip.is_loopback() || ip == bind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Origin;

    #[test]
    fn addresses_are_host_and_port() {
        for good in [
            "localhost:8081",
            "10.0.0.1:1",
            "[::1]:8081",
            "a-b.c_d:65535",
        ] {
            assert_eq!(check_address(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "localhost",
            "localhost:",
            ":8081",
            "h:0",
            "h:65536",
            "h:x",
            "::1:8081",
            "http://h:1",
            "h:1/",
            "a b:1",
            "h,:1",
        ] {
            assert!(check_address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists_are_split_and_deduplicated() {
        let given = |text: &str| Given {
            text: text.into(),
            origin: Origin::Flag("seed-nodes".into()),
        };
        let seeds = collect(vec![given("a:1, b:2"), given("a:1")]).expect("valid");
        assert_eq!(seeds, ["a:1", "b:2"]);
        let error = collect(vec![given("a:1,,b:2")]).expect_err("an empty one");
        assert!(error.to_string().starts_with("--seed-nodes"));
    }

    #[test]
    fn the_node_itself_is_no_seed() {
        let bind = "127.0.0.1".parse().expect("ip");
        let seeds: Vec<String> = [
            "localhost:1",
            "127.0.0.1:1",
            "[::1]:1",
            "me:9",
            "localhost:2",
        ]
        .map(String::from)
        .to_vec();
        assert_eq!(without_self(&seeds, "me:9", bind, 1), ["localhost:2"]);
    }
}
