//! Who is let in where there are keys: only who shows one, and only by somebody who has it too.
//!
//! A joiner seals what it says of itself; the welcome is sealed under the same key and bound to
//! that proof. So a stranger gets no welcome by repeating an old proof, and a joiner takes none
//! from a stranger. Reasons are sentences for the operators of both sides.

use ringmaster_shared::id::Generation;

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

/// What a joiner is.
#[derive(Debug)]
pub enum Judged {
    /// One to let in. The welcome is to be bound to this, if it is to be sealed.
    Welcome(Option<Bond>),
    /// A holder of the key that speaks as an earlier life of its node than the one last heard of:
    /// somebody repeats what it said then, or its clock was ahead and it lost its disk since. What
    /// it says must not count; what is sealed for it is of use to none but the true one.
    Earlier {
        bond: Option<Bond>,
        heard_of: Generation,
    },
}

/// Judges a joiner's proof.
pub fn judge(
    secrecy: Option<&Secrecy>,
    member: &MemberState,
    proof: &[u8],
) -> Result<Judged, String> {
    let Some(secrecy) = secrecy else {
        // who seals what it says would be heard by nobody here
        return if proof.is_empty() {
            Ok(Judged::Welcome(None))
        } else {
            Err(format!(
                "{} at {} seals its gossip, and this cluster has no keys: start it without gossip.keyring_file, or give all nodes the keys (docs/operations.md, \"Encrypting gossip\")",
                member.id, member.address
            ))
        };
    };
    if proof.is_empty() {
        if secrecy.verify().incoming {
            return Err(format!(
                "{} at {} has no key, and this cluster lets nobody in without (give it gossip.keyring_file)",
                member.id, member.address
            ));
        }
        return Ok(Judged::Welcome(None));
    }
    let refused = |why: &str| {
        Err(format!(
            "{} at {} shows no key of this cluster: its proof is {why}",
            member.id, member.address
        ))
    };
    let opened = match secrecy.open(Purpose::Join, &[], proof) {
        Ok(opened) => opened,
        // also by who takes plain messages still: nothing this one seals could be opened here
        Err(error) => return refused(&error.to_string()),
    };
    let honest = *opened.plain == content(member) && opened.generation() == member.generation;
    if !honest {
        return refused("another node's");
    }
    let outgoing = secrecy.verify().outgoing;
    let bond = outgoing.then_some((opened.nonce, opened.key));
    if secrecy.admit(Purpose::Join, &member.id, &opened) {
        return Ok(Judged::Welcome(bond));
    }
    match secrecy.heard_of(Purpose::Join, &member.id) {
        Some(heard_of) if heard_of > member.generation => Ok(Judged::Earlier { bond, heard_of }),
        _ => refused("one that was shown before"),
    }
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

    const ON: Verify = Verify {
        incoming: true,
        outgoing: true,
    };

    /// It would hear nobody and be heard by nobody, and its ring change would be given up.
    #[test]
    fn who_seals_what_nobody_here_can_open_is_not_let_in() {
        let me = member("new");
        let seeds = [
            (None, "has no keys"),
            (Some(keys(&[2], false, false)), "does not hold"),
            (Some(keys(&[2], false, true)), "does not hold"),
            (Some(keys(&[2], true, true)), "does not hold"),
        ];
        for (seed, says) in seeds {
            for joiner in [keys(&[1], false, true), keys(&[1], true, true)] {
                let proof = Proof::of(Some(&joiner), &me);
                let why = judge(seed.as_ref(), &me, &proof.bytes).expect_err(says);
                assert!(why.contains(says) && why.contains("new at "), "{why}");
            }
            let plain = Proof::of(Some(&keys(&[1], false, false)), &me);
            let judged = judge(seed.as_ref(), &me, &plain.bytes);
            assert_eq!(judged.is_ok(), may_be_plain(seed.as_ref()), "{judged:?}");
        }
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
                (Ok(Judged::Welcome(Some(_))), None) => {}
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
        let later = Proof::of(Some(&joiner), &me);
        assert!(
            judge(Some(&seed), &me, &later.bytes).is_err(),
            "of the third, and says it is of the second"
        );
    }

    #[test]
    fn an_earlier_life_of_a_holder_of_the_key_is_told_from_a_repeated_proof() {
        let (mut me, seed) = (member("new"), keys(&[1], true, true));
        let mut shown_by = |generation| {
            me.generation = generation;
            let process = Secrecy::for_tests(&[1], ON, generation);
            let proof = Proof::of(Some(&process), &me);
            judge(Some(&seed), &me, &proof.bytes)
        };
        assert!(matches!(shown_by(9), Ok(Judged::Welcome(Some(_)))));
        for _ in 0..2 {
            let earlier = shown_by(3);
            let Ok(Judged::Earlier { bond, heard_of: 9 }) = earlier else {
                panic!("{earlier:?}");
            };
            assert!(
                bond.is_some(),
                "sealed, as nobody but the true one may read it"
            );
        }
        assert!(matches!(shown_by(10), Ok(Judged::Welcome(Some(_)))));
    }

    #[test]
    fn a_welcome_is_good_for_its_proof() {
        let (me, seed, joiner) = (
            member("new"),
            keys(&[2, 1], true, true),
            keys(&[1], true, true),
        );
        let (first, second) = (Proof::of(Some(&joiner), &me), Proof::of(Some(&joiner), &me));
        let judged = judge(Some(&seed), &me, &first.bytes);
        let Ok(Judged::Welcome(Some(bond))) = judged else {
            panic!("{judged:?} is no sealed welcome");
        };
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
                // sealing comes when all have the keys
                let too_soon = seed.is_none() && !proof.bytes.is_empty();
                let judged = judge(seed.as_ref(), &me, &proof.bytes);
                assert_eq!(judged.is_err(), too_soon, "{judged:?}");
                assert!(may_be_plain(joiner.as_ref()));
            }
        }
        assert!(!may_be_plain(Some(&keys(&[1], true, true))));
    }
}
