//! Which hosts may be called for whom.
//!
//! The local user may call what the local user may call. A call that was submitted over a network is made by this machine for a stranger, who so would
//! speak to what trusts this machine: services on its loopback, and the addresses at which clouds hand out credentials. So these are out of reach
//! unless the list names them; and where there is a list, everything is that it does not name.
//!
//! Invariants: names decide nothing about addresses: what a name stands for is checked when it has been looked up, at every connection. Pure: nothing is
//! looked up here.
//!
//! Leaves out private networks (10.0.0.0/8 and the like): services of one's own live there, and a list keeps them out.

use crate::run::allow::Fault;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hosts that calls which were submitted over a network may reach. Empty: all but loopback, link-local and metadata addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    entries: Vec<Entry>,
}

/// One entry of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    host: Host,
    /// Any where none is named.
    port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Host {
    /// Exactly this name, in lower case; wherever it leads.
    Name(Box<str>),
    /// Every name that ends with this, which begins with a dot.
    Below(Box<str>),
    /// Addresses that begin with so many bits of this one.
    Net(IpAddr, u8),
}

/// What a list has to say of a host before its name is looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Yes,
    No,
    /// It depends on the address.
    Open,
}

impl Reach {
    /// What an entry is to look like.
    pub const EXPECTED: &'static str = "a host, *.domain, an address or a network such as 10.0.0.0/8, with :port at the end at most";

    /// Reads a list.
    ///
    /// # Errors
    /// The first entry that is none, as `calls.hosts`.
    pub fn parse<T: AsRef<str>>(entries: &[T]) -> Result<Reach, Fault> {
        let parsed = entries.iter().map(|text| {
            let text = text.as_ref();
            entry(text).ok_or_else(|| {
                let fault = format!("holds {text:?}, expected {}", Reach::EXPECTED);
                Fault::new("calls.hosts", fault)
            })
        });
        Ok(Reach {
            entries: parsed.collect::<Result<_, _>>()?,
        })
    }

    /// Whether an entry is one.
    #[must_use]
    pub fn is_entry(text: &str) -> bool {
        entry(text).is_some()
    }

    /// Says of the URL of a call whether it may be made, as far as that can be told without looking its host up.
    ///
    /// # Errors
    /// Why not, beginning with a verb: the URL is the subject.
    pub fn check(&self, url: &str) -> Result<(), String> {
        let authority = super::url::authority(url).and_then(|text| split(&text));
        let Some((host, port)) = authority else {
            return Err("has no host".to_owned());
        };
        match self.verdict(&host, port) {
            Verdict::No => Err(self.why_not(&host, port)),
            Verdict::Yes | Verdict::Open => Ok(()),
        }
    }

    /// Whether a host may be called at an address that it stands for. `host` is a name or that address, in lower case.
    pub(crate) fn allows(&self, host: &str, port: u16, address: IpAddr) -> bool {
        match self.named(host, port) {
            Some(Host::Name(_)) => return true,
            Some(_) if !is_guarded(address) => return true,
            _ => {}
        }
        if self.entries.is_empty() {
            return !is_guarded(address);
        }
        self.of_port(port)
            .any(|entry| matches!(entry.host, Host::Net(net, bits) if within(address, net, bits)))
    }

    /// Why a host may not be called.
    pub(crate) fn why_not(&self, host: &str, port: u16) -> String {
        let list = if self.entries.is_empty() {
            "loopback, link-local and metadata addresses are out of reach of calls that come over the network unless calls.hosts names them"
        } else {
            "calls.hosts does not name it"
        };
        format!("calls {host:?} at port {port}: {list}")
    }

    fn verdict(&self, host: &str, port: u16) -> Verdict {
        let said = |yes| if yes { Verdict::Yes } else { Verdict::No };
        if let Some(address) = literal(host) {
            return said(self.allows(host, port, address));
        }
        // RFC 6761, section 6.3: these never mean another machine.
        if host == "localhost" || host.ends_with(".localhost") {
            return said(self.allows(host, port, Ipv4Addr::LOCALHOST.into()));
        }
        match self.named(host, port) {
            Some(Host::Name(_)) => Verdict::Yes,
            Some(_) => Verdict::Open,
            None => {
                let net = |entry: &Entry| matches!(entry.host, Host::Net(..));
                if self.entries.is_empty() || self.of_port(port).any(net) {
                    Verdict::Open
                } else {
                    Verdict::No
                }
            }
        }
    }

    fn of_port(&self, port: u16) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |entry| entry.port.is_none_or(|own| own == port))
    }

    /// The entry that names a host, an exact one before others.
    fn named(&self, host: &str, port: u16) -> Option<&Host> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let exact = |entry: &&Entry| matches!(&entry.host, Host::Name(name) if **name == *host);
        let below =
            |entry: &&Entry| matches!(&entry.host, Host::Below(end) if host.ends_with(&**end));
        let found = self.of_port(port).find(exact);
        found
            .or_else(|| self.of_port(port).find(below))
            .map(|entry| &entry.host)
    }
}

/// The address that a host of a URL is, if it is one; brackets belong to those of IPv6.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}

/// Host and port of an authority whose port is written out.
fn split(authority: &str) -> Option<(Box<str>, u16)> {
    let (host, port) = authority.rsplit_once(':')?;
    Some((host.into(), port.parse().ok()?))
}

fn entry(text: &str) -> Option<Entry> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, rest)) => (address, Some(rest.strip_prefix(':')?)),
        // The colons of an IPv6 address are no port.
        None if text.matches(':').count() == 1 => {
            let (host, port) = text.split_once(':')?;
            (host, Some(port))
        }
        None => (text, None),
    };
    let port = match port {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok()?),
        Some(_) => return None,
        None => None,
    };
    let host = match host.split_once('/') {
        Some((address, bits)) => {
            let (address, bits) = (address.parse().ok()?, bits.parse().ok()?);
            let most = if matches!(address, IpAddr::V4(_)) {
                32
            } else {
                128
            };
            (bits <= most).then_some(Host::Net(address, bits))?
        }
        None => match host.parse() {
            Ok(address) => Host::Net(address, if address.is_ipv4() { 32 } else { 128 }),
            Err(_) => {
                let name = host.to_ascii_lowercase();
                let plain = |name: &str| {
                    let label = |part: &str| {
                        !part.is_empty()
                            && part
                                .bytes()
                                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                    };
                    name.len() <= 253 && name.split('.').all(label)
                };
                match name.strip_prefix('*') {
                    Some(end) if end.strip_prefix('.').is_some_and(plain) => {
                        Host::Below(end.into())
                    }
                    None if plain(&name) => Host::Name(name.into()),
                    _ => return None,
                }
            }
        },
    };
    Some(Entry { host, port })
}

fn within(address: IpAddr, net: IpAddr, bits: u8) -> bool {
    let (address, net, length) = match (plain(address), plain(net)) {
        (IpAddr::V4(address), IpAddr::V4(net)) => {
            (u128::from(address.to_bits()), u128::from(net.to_bits()), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(net)) => (address.to_bits(), net.to_bits(), 128),
        _ => return false,
    };
    let rest = u32::from(length - bits.min(length));
    address.checked_shr(rest).unwrap_or(0) == net.checked_shr(rest).unwrap_or(0)
}

/// The IPv4 address that an IPv6 one stands for, or itself.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else {
        return address;
    };
    let last = || {
        let s = six.segments();
        Ipv4Addr::from_bits(u32::from(s[6]) << 16 | u32::from(s[7]))
    };
    match six.segments() {
        // Mapped (RFC 4291, section 2.5.5.2), and translated on the way (RFC 6052, section 2.1).
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => last().into(),
        _ => address,
    }
}

/// Addresses that mean this machine, its link, or what a cloud tells of it.
fn is_guarded(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(four) => {
            four.octets()[0] == 0
                || four.is_loopback()
                || four.is_link_local()
                || four.is_broadcast()
                || four.is_multicast()
                // The metadata services of Alibaba Cloud, Oracle Cloud and Azure's host, which are not link-local.
                || [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]]
                    .contains(&four.octets())
        }
        IpAddr::V6(six) => {
            six.is_unspecified()
                || six.is_loopback()
                || six.is_multicast()
                || six.is_unicast_link_local()
                // The metadata services of Amazon and Google.
                || [
                    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
                    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
                ]
                .contains(&six)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// TASK-11: without a list calls reach everything but this machine, its link, and the metadata of clouds, however those are written.
    #[test]
    fn without_a_list_this_machine_is_out_of_reach() {
        let reach = Reach::default();
        for url in [
            "http://127.0.0.1/",
            "http://127.1.2.3:8080",
            "http://LocalHost:7070/v1",
            "https://a.localhost",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://0.0.0.0:22",
            "http://[::]/",
            "http://169.254.169.254/latest/meta-data",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://100.100.100.200/",
            "http://u:p@127.0.0.1/",
        ] {
            let why = reach.check(url).unwrap_err();
            assert!(why.contains("calls.hosts"), "{url}: {why}");
        }
        for url in [
            "http://example.com",
            "https://10.0.0.7/",
            "http://[2001:db8::1]:81/",
            "http://192.168.1.1",
        ] {
            reach.check(url).unwrap();
        }
        // What a name stands for counts.
        assert!(reach.allows("example.com", 80, ip("93.184.216.34")));
        for address in [
            "127.0.0.1",
            "169.254.169.254",
            "::1",
            "::ffff:169.254.169.254",
        ] {
            assert!(!reach.allows("evil.example", 80, ip(address)), "{address}");
        }
    }

    /// TASK-11: with a list calls reach what it names; this machine only by its exact name or address.
    #[test]
    fn a_list_names_what_can_be_reached() {
        let list = [
            "api.example.com",
            "*.internal:8443",
            "localhost:3000",
            "10.0.0.0/8",
            "[fd00::]:1",
            "169.254.7.0/24",
        ];
        let reach = Reach::parse(&list).unwrap();
        for (url, fine) in [
            ("https://API.example.com/x", true),
            ("https://api.example.com./x", true),
            ("https://a.internal:8443/", true),
            ("https://a.internal/", true),
            ("http://localhost:3000/", true),
            ("http://localhost:3001/", false),
            ("http://127.0.0.1:3000/", false),
            ("http://10.255.0.1:99/", true),
            ("http://11.0.0.1/", false),
            ("http://[fd00::]:1/", true),
            ("http://[fd00::]:2/", false),
            ("http://169.254.7.9/", true),
            ("http://169.254.169.254/", false),
        ] {
            assert_eq!(reach.check(url).is_ok(), fine, "{url}");
        }
        for (host, port, address, fine) in [
            ("api.example.com", 80, "127.0.0.1", true),
            ("a.internal", 8443, "192.168.0.1", true),
            ("a.internal", 8443, "169.254.169.254", false),
            ("a.internal", 80, "192.168.0.1", false),
            ("internal", 8443, "192.168.0.1", false),
            ("other.example", 80, "10.1.2.3", true),
            ("other.example", 80, "93.184.216.34", false),
        ] {
            assert_eq!(
                reach.allows(host, port, ip(address)),
                fine,
                "{host} {address}"
            );
        }
        let names = Reach::parse(&["api.example.com"]).unwrap();
        assert!(names.check("http://other.example").is_err());
    }

    #[test]
    fn entries_are_checked_themselves() {
        for good in [
            "a",
            "a:80",
            "*.a.b",
            "1.2.3.4",
            "1.2.3.4:5",
            "::1",
            "[::1]:5",
            "0.0.0.0/0",
            "fd00::/8",
            "[fd00::/8]:443",
        ] {
            assert!(Reach::is_entry(good), "{good}");
        }
        for bad in [
            "",
            "*",
            "a b",
            "http://a",
            "a/b",
            "a:x",
            "a:99999",
            "1.2.3.4/33",
            "*a.b",
            "*.",
            ".a",
            "a:",
            "[::1]x",
            "::1/129",
            "a..b",
            "a*",
        ] {
            assert!(!Reach::is_entry(bad), "{bad}");
        }
        let fault = Reach::parse(&["a", "*"]).unwrap_err();
        assert_eq!(&*fault.field, "calls.hosts");
    }
}
