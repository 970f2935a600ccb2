//! A node that holds nobody alive: its verdicts stay with it, and its news wait.

use super::*;

/// "a", which hears nothing any more: it found first "c" dead, then "b", the last.
fn left_alone() -> Core {
    let mut core = core_of("a");
    for name in ["b", "c"] {
        gossip(&mut core, 0, name, vec![]);
    }
    for (now, name) in [(60_000, "c"), (120_000, "b")] {
        core.suspect(at(now), &id(name));
        core.end_suspicions(at(now + 59_000));
        assert_eq!(status_of(&core, name), Some(MemberStatus::Dead));
    }
    core.take_outputs();
    core
}

fn told_of(core: &Core, name: &str) -> Option<(MemberStatus, u32)> {
    let mut rumors = core.rumors().into_iter();
    let rumor = rumors.find(|r| r.about.as_str() == name);
    rumor.map(|r| (r.status, r.transmissions))
}

#[test]
fn who_holds_nobody_alive_keeps_its_verdicts_to_itself() {
    let core = left_alone();
    assert_eq!(
        told_of(&core, "c"),
        Some((MemberStatus::Dead, 0)),
        "of this one it had somebody to tell"
    );
    assert_eq!(told_of(&core, "b"), None);
    let listed = core.states();
    let b = listed.iter().find(|s| s.id.as_str() == "b");
    assert_eq!(
        b.map(|b| b.status),
        Some(MemberStatus::Dead),
        "who exchanges lists with it is told"
    );
}

/// The same, found out by the protocol itself, in clusters of several sizes.
#[test]
fn who_is_cut_off_gives_up_the_last_of_them_in_silence() {
    for n in [3, 5, 10] {
        let mut world = world::World::of(n, &GossipConfig::default());
        world.cut_off = Some(0);
        let gone = |w: &world::World| w.cores[0].members.count(MemberStatus::Dead) == n - 1;
        assert!(world.comes(300_000, gone), "{n}");
        let mut latest_first = world.happened.iter().rev();
        let last = latest_first.find_map(|(_, who, what)| match what {
            Happening::Dead { id, .. } if *who == 0 => Some(id.to_string()),
            _ => None,
        });
        let last = last.expect("all are");
        assert_eq!(told_of(&world.cores[0], &last), None, "{n}: {last}");
    }
}

#[test]
fn news_wait_for_somebody_to_be_told() {
    let mut core = left_alone();
    core.set_local(Lifecycle::Draining, RingStamp::default(), Load::default());
    let incarnation = core.local.incarnation;
    let waiting = [
        ("a", Some((MemberStatus::Alive, 0))),
        ("c", Some((MemberStatus::Dead, 0))),
    ];
    let sent = run_until(&mut core, 3_600_000);
    let sent = sent.iter().map(|(_, output)| output);
    assert!(
        sent.clone().all(|o| matches!(o, Output::Exchange { .. })) && sent.count() > 0,
        "it only looks for somebody"
    );
    for (about, rumor) in waiting {
        assert_eq!(told_of(&core, about), rumor, "{about}: used up for nobody");
    }
    let back = state("b", 1, 1, MemberStatus::Alive);
    core.handle(
        at(3_600_000),
        source(),
        packet(back, "a", Body::Gossip, vec![]),
    );
    let told = run_until(&mut core, 3_601_000);
    let told = told.iter().find_map(|(_, output)| match output {
        Output::Send {
            to: Dest::Address(to),
            packet,
        } if to == "b:1" => Some(packet),
        _ => None,
    });
    let told = told.expect("now there is somebody");
    let intro = told.intro.as_ref().expect("its own news come first");
    assert_eq!(
        (intro.lifecycle, intro.incarnation),
        (Lifecycle::Draining, incarnation)
    );
    let claims = told.claims.iter();
    let mut claims: Vec<_> = claims
        .map(|c| (c.state.id.as_str(), c.state.status))
        .collect();
    claims.sort_unstable_by_key(|(about, _)| *about);
    let expected = [("b", MemberStatus::Alive), ("c", MemberStatus::Dead)];
    assert_eq!(claims, expected);
}
