//! Who is let in where there are keys: only who shows one, and only by somebody who has it too.
//!
//! A joiner seals what it says of itself; the welcome is sealed under the same key and bound to
//! that proof. So a stranger gets no welcome by repeating an old proof, and a joiner takes none
//! from a stranger. Reasons are sentences for the operators of both sides.

use super::{Fingerprint, Nonce, Purpose, Secrecy, nonce_of};
use crate::gossip::MemberState;

/// What a welcome is bound to.
pub type Bond = (Nonce, Fingerprint);

/// Everything sealed that a joiner asks with; empty when it seals nothing.
#[derive(Debug, Default)]
pub struct Proof {
    pub bytes: Vec<u8>,
    nonce: Option<Nonce>,
}

impl Proof {
    /// That this node, which is `member`, holds a key.
    pub fn of(secrecy: Option<&Secrecy>, member: &MemberState) -> Self {
        let Some(secrecy) = secrecy.filter(|s| s.verify().outgoing) else {
            return Self::default();
        };
        // the proof is of the life that it tells of
        secrecy.live_on_as(member.generation);
        let bytes = secrecy.seal(Purpose::Join, &[], None, &content(member));
        Self {
            nonce: nonce_of(&bytes),
            bytes,
        }
    }

    /// The content of a sealed welcome.
    pub fn open(&self, secrecy: Option<&Secrecy>, welcome: &[u8]) -> Result<Vec<u8>, String> {
        let (Some(secrecy), Some(nonce)) = (secrecy, &self.nonce) else {
            return Err("its welcome is sealed, and this node asked without a key".into());
        };
        let opened = secrecy.open(Purpose::Welcome, &[nonce], welcome);
        let mut opened = opened.map_err(|error| format!("its welcome is {error}"))?;
        Ok(std::mem::take(&mut *opened.plain))
    }
}

/// Whether a plain welcome is good enough.
pub fn may_be_plain(secrecy: Option<&Secrecy>) -> bool {
    !secrecy.is_some_and(|s| s.verify().incoming)
}

/// Judges a joiner's proof. Returns what its welcome is to be bound to, if it is to be sealed.
pub fn judge(
    secrecy: Option<&Secrecy>,
    member: &MemberState,
    proof: &[u8],
) -> Result<Option<Bond>, String> {
    let Some(secrecy) = secrecy else {
        // it will not take a plain welcome if it insists on keys, and say so
        return Ok(None);
    };
    if proof.is_empty() {
        if secrecy.verify().incoming {
            return Err(format!(
                "{} at {} has no key, and this cluster lets nobody in without (give it gossip.keyring_file)",
                member.id, member.address
            ));
        }
        return Ok(None);
    }
    let refused = |why: &str| {
        Err(format!(
            "{} at {} shows no key of this cluster: its proof is {why}",
            member.id, member.address
        ))
    };
    let opened = match secrecy.open(Purpose::Join, &[], proof) {
        Ok(opened) => opened,
        Err(error) if secrecy.verify().incoming => return refused(&error.to_string()),
        Err(_) => return Ok(None),
    };
    let honest = *opened.plain == content(member) && opened.generation() == member.generation;
    if !honest {
        return refused("another node's");
    }
    if !secrecy.admit(Purpose::Join, &member.id, &opened) {
        return refused("one that was shown before");
    }
    Ok(secrecy
        .verify()
        .outgoing
        .then_some((opened.nonce, opened.key)))
}

/// Seals a welcome for the one joiner whose proof it answers.
pub fn seal_welcome(secrecy: &Secrecy, (nonce, key): Bond, welcome: &[u8]) -> Vec<u8> {
    secrecy.seal_with(Purpose::Welcome, &[&nonce], Some(key), welcome)
}

fn content(member: &MemberState) -> Vec<u8> {
    // numbers and short texts into memory: cannot fail
    postcard::to_stdvec(member).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::testing::{id, member},
            Verify,
        },
        *,
    };

    fn keys(keys: &[u8], incoming: bool, outgoing: bool) -> Secrecy {
        Secrecy::for_tests(keys, Verify { incoming, outgoing }, 1)
    }

    #[test]
    fn only_who_shows_the_key_is_let_in() {
        let me = member("new");
        let seed = keys(&[1], true, true);
        let proof = |secrecy: Option<&Secrecy>| Proof::of(secrecy, &me);
        let cases = [
            ("nothing", proof(None).bytes, Some("no key")),
            (
                "a wrong key",
                proof(Some(&keys(&[2], true, true))).bytes,
                Some("does not hold"),
            ),
            ("noise", vec![7; 60], Some("does not hold")),
            (
                "plain still",
                proof(Some(&keys(&[1], false, false))).bytes,
                Some("no key"),
            ),
            ("the key", proof(Some(&keys(&[1], true, true))).bytes, None),
        ];
        for (what, proof, refused) in cases {
            match (judge(Some(&seed), &me, &proof), refused) {
                (Ok(Some(_)), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{what}: {why}"),
                (judged, _) => panic!("{what}: {judged:?}"),
            }
        }
    }

    #[test]
    fn a_proof_is_good_for_its_node_and_once() {
        let (me, seed) = (member("new"), keys(&[1], true, true));
        let proof = Proof::of(Some(&keys(&[1], true, true)), &me);
        let mut other = me.clone();
        other.id = id("other");
        assert!(judge(Some(&seed), &other, &proof.bytes).is_err());
        assert!(judge(Some(&seed), &me, &proof.bytes).is_ok());
        let again = judge(Some(&seed), &me, &proof.bytes).expect_err("a replay");
        assert!(again.contains("before"), "{again}");
    }

    /// A process that goes on as a later life of its node has not sealed anything in that yet.
    #[test]
    fn a_proof_is_of_the_life_that_it_tells_of() {
        let (mut me, seed, joiner) = (
            member("new"),
            keys(&[1], true, true),
            keys(&[1], true, true),
        );
        for generation in [1, 2, 3] {
            me.generation = generation;
            let proof = Proof::of(Some(&joiner), &me);
            let judged = judge(Some(&seed), &me, &proof.bytes);
            assert!(judged.is_ok(), "{generation}: {judged:?}");
        }
        me.generation = 2;
        let earlier = Proof::of(Some(&joiner), &me);
        assert!(judge(Some(&seed), &me, &earlier.bytes).is_err());
    }

    #[test]
    fn a_welcome_is_good_for_its_proof() {
        let (me, seed, joiner) = (
            member("new"),
            keys(&[2, 1], true, true),
            keys(&[1], true, true),
        );
        let (first, second) = (Proof::of(Some(&joiner), &me), Proof::of(Some(&joiner), &me));
        let bond = judge(Some(&seed), &me, &first.bytes)
            .expect("let in")
            .expect("sealed");
        let welcome = seal_welcome(&seed, bond, b"come in");
        let opened = first
            .open(Some(&joiner), &welcome)
            .expect("under the key it showed");
        assert_eq!(opened, b"come in");
        assert!(second.open(Some(&joiner), &welcome).is_err());
        assert!(Proof::default().open(Some(&joiner), &welcome).is_err());
    }

    #[test]
    fn while_keys_are_introduced_both_ways_are_taken() {
        let me = member("new");
        for seed in [
            None,
            Some(keys(&[1], false, false)),
            Some(keys(&[1], false, true)),
        ] {
            for joiner in [
                None,
                Some(keys(&[1], false, false)),
                Some(keys(&[1], false, true)),
            ] {
                let proof = Proof::of(joiner.as_ref(), &me);
                assert!(judge(seed.as_ref(), &me, &proof.bytes).is_ok());
                assert!(may_be_plain(joiner.as_ref()));
            }
        }
        assert!(!may_be_plain(Some(&keys(&[1], true, true))));
    }
}
