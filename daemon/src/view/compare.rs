//! Whether two views differ in anything but the passing of time.

use jiff::Timestamp;
use ringmaster_shared::api::{
    health::StatusResponse,
    membership::{MemberInfo, MembersResponse},
};

pub fn same_status(a: &StatusResponse, b: &StatusResponse) -> bool {
    let timeless = |s: &StatusResponse| {
        let mut s = s.clone();
        s.timestamp = 0;
        s.node.uptime_seconds = 0;
        s
    };
    timeless(a) == timeless(b)
}

pub fn same_members(a: &MembersResponse, b: &MembersResponse) -> bool {
    let timeless = |m: &MemberInfo| MemberInfo {
        last_seen: Timestamp::UNIX_EPOCH,
        heartbeat_seq: 0,
        ..m.clone()
    };
    a.cluster_id == b.cluster_id
        && a.membership_digest == b.membership_digest
        && a.alive_members == b.alive_members
        && a.cluster_members.len() == b.cluster_members.len()
        && a.cluster_members
            .iter()
            .all(|(id, m)| b.cluster_members.get(id).map(timeless) == Some(timeless(m)))
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::member::{Lifecycle, MemberStatus};

    use super::*;
    use crate::{
        health::{keeper::Keeper, tests::member},
        view::{
            build,
            tests::{facts, look},
        },
    };

    #[test]
    fn time_alone_is_no_change() {
        let members = vec![member("a", MemberStatus::Alive, Lifecycle::Serving)];
        let before = build(&facts(), &look(None, Some(members)), &mut Keeper::default());
        let mut after = before.clone();
        after.status.timestamp += 5;
        after.status.node.uptime_seconds += 5;
        let a = after.members.cluster_members.values_mut().next();
        let a = a.expect("one member");
        a.heartbeat_seq += 9;
        a.last_seen = Timestamp::from_second(9).expect("valid");
        assert!(same_status(&before.status, &after.status));
        assert!(same_members(&before.members, &after.members));

        let a = after.members.cluster_members.values_mut().next();
        a.expect("one member").lifecycle = Lifecycle::Draining;
        after.status.storage.key_count += 1;
        assert!(!same_status(&before.status, &after.status));
        assert!(!same_members(&before.members, &after.members));
    }
}
