//! Framing: length-delimited postcard, the same on both ends of a connection.
//!
//! Promises that what it hands out is whole (no bytes left over), within [`FRAME_BYTES_MAX`] and
//! holds only well-formed topologies; anything else ends the connection. What the frames mean is
//! left to others.

use ringmaster_shared::topology::Topology;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use super::frames::{FRAME_BYTES_MAX, Request, RequestFrame, Response, ResponseFrame};
use crate::topology::{RegisterReply, RegisterRequest};

/// The length before each frame: u32, big endian.
const LENGTH_BYTES: usize = 4;

/// Why a frame was not accepted or not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    #[error("a frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLarge(usize),
    #[error("a frame is not what this protocol sends: {0}")]
    Malformed(String),
    #[error("a frame has {0} bytes too many")]
    Trailing(usize),
    #[error("a frame carries a topology that contradicts itself")]
    Topology,
}

/// Frames that can check what postcard cannot know.
pub trait Frame: Serialize + DeserializeOwned {
    /// The topologies it carries; each must be well formed.
    fn topologies(&self) -> Vec<&Topology>;
}

impl Frame for RequestFrame {
    fn topologies(&self) -> Vec<&Topology> {
        match &self.request {
            Request::PushTopology { topology } => vec![topology],
            Request::Register(
                RegisterRequest::Prepare { base, .. } | RegisterRequest::Recall { base },
            ) => vec![base],
            Request::Register(RegisterRequest::Accept { value, .. }) => vec![value],
            _ => Vec::new(),
        }
    }
}

impl Frame for ResponseFrame {
    fn topologies(&self) -> Vec<&Topology> {
        match &self.response {
            Response::Welcome { topology, .. } | Response::EpochBehind { topology } => {
                vec![topology]
            }
            Response::Topology { topology } => topology.iter().collect(),
            Response::Register(RegisterReply::Newer(topology)) => vec![topology],
            Response::Register(RegisterReply::Promised {
                accepted: Some((_, value)),
            }) => vec![value],
            _ => Vec::new(),
        }
    }
}

/// Appends a frame with its length. After an error `out` is as it was.
pub fn encode_into<F: Serialize>(frame: &F, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    let body = start + LENGTH_BYTES;
    let appended = postcard::serialize_with_flavor(frame, Tail { out });
    let error = match appended {
        Ok(()) if out.len() - body <= FRAME_BYTES_MAX => None,
        Ok(()) => Some(CodecError::TooLarge(out.len() - body)),
        Err(error) => Some(CodecError::Malformed(error.to_string())),
    };
    if let Some(error) = error {
        out.truncate(start);
        return Err(error);
    }
    // over four bytes it would have been over the limit
    let length = u32::try_from(out.len() - body).unwrap_or(u32::MAX);
    out[start..body].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Lets postcard append to a buffer that is not its own.
struct Tail<'a> {
    out: &'a mut Vec<u8>,
}

impl postcard::ser_flavors::Flavor for Tail<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.out.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// The frame in one body. Never panics, whatever the bytes.
pub fn decode<F: Frame>(body: &[u8]) -> Result<F, CodecError> {
    let (frame, rest): (F, _) =
        postcard::take_from_bytes(body).map_err(|e| CodecError::Malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(CodecError::Trailing(rest.len()));
    }
    if frame.topologies().iter().all(|t| t.is_well_formed()) {
        Ok(frame)
    } else {
        Err(CodecError::Topology)
    }
}

fn lengths() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_type::<u32>()
        .max_frame_length(FRAME_BYTES_MAX)
        .new_codec()
}

/// Bodies as they arrive; a length over the limit is an error before anything is read.
pub fn reader<R: AsyncRead>(io: R) -> FramedRead<R, LengthDelimitedCodec> {
    FramedRead::new(io, lengths())
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use proptest::prelude::*;
    use ringmaster_shared::{
        id::{ClusterId, NodeId},
        key::Key,
        topology::RingMember,
    };
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// The body of a frame, without its length.
    fn encode<F: Frame>(frame: &F) -> Result<Vec<u8>, CodecError> {
        let mut out = b"before".to_vec();
        match encode_into(frame, &mut out) {
            Ok(()) => {
                let body = out.split_off(6 + LENGTH_BYTES);
                let length = u32::try_from(body.len()).expect("small");
                assert_eq!(out[6..], length.to_be_bytes());
                Ok(body)
            }
            Err(error) => {
                assert_eq!(out, b"before", "nothing is left of what failed");
                Err(error)
            }
        }
    }

    fn topology() -> Topology {
        let member = RingMember {
            id: NodeId::new("a").expect("valid"),
            address: "a:1".into(),
            zone: "z".into(),
        };
        let cluster = ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid");
        Topology::founded(cluster, member, 3, 16)
    }

    fn request(id: u64, request: Request) -> RequestFrame {
        RequestFrame {
            id,
            epoch: 7,
            deadline_ms: 1500,
            request,
        }
    }

    #[test]
    fn frames_survive_the_trip() {
        let key = Key::new("user:42").expect("valid");
        let topology = topology();
        for want in [
            request(1, Request::Ping),
            request(u64::MAX, Request::ReadRecord { key }),
            request(3, Request::PushTopology { topology }),
        ] {
            let body = encode(&want).expect("small");
            assert_eq!(decode::<RequestFrame>(&body), Ok(want));
        }
    }

    #[test]
    fn what_is_not_a_whole_sane_frame_is_refused() {
        let good = encode(&request(9, Request::FetchTopology)).expect("small");
        for cut in 0..good.len() {
            assert!(
                decode::<RequestFrame>(&good[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        let mut longer = good.clone();
        longer.extend([0, 0]);
        assert_eq!(
            decode::<RequestFrame>(&longer),
            Err(CodecError::Trailing(2))
        );

        let mut topology = topology();
        topology.table[0] = vec![9];
        let bad = request(1, Request::PushTopology { topology });
        let bad = encode(&bad).expect("small");
        assert_eq!(decode::<RequestFrame>(&bad), Err(CodecError::Topology));
    }

    #[tokio::test]
    async fn a_length_over_the_limit_ends_the_stream() {
        let (mut here, there) = tokio::io::duplex(64);
        let over = u32::try_from(FRAME_BYTES_MAX + 1).expect("fits");
        here.write_all(&over.to_be_bytes()).await.expect("room");
        let mut frames = reader(there);
        assert!(frames.next().await.expect("an answer").is_err());
    }

    #[tokio::test]
    async fn a_batch_arrives_in_order_however_it_is_cut() {
        let mut batch = Vec::new();
        for id in 0..100 {
            let topology = topology();
            let frame = match id % 3 {
                0 => request(id, Request::PushTopology { topology }),
                _ => request(id, Request::Ping),
            };
            encode_into(&frame, &mut batch).expect("small");
        }
        let (mut here, there) = tokio::io::duplex(64);
        let writing = tokio::spawn(async move {
            let mut rest = batch.as_slice();
            for size in (1..=13).cycle() {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                here.write_all(piece).await.expect("read on the other side");
                tokio::task::yield_now().await;
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
        });
        let mut frames = reader(there);
        let mut ids = Vec::new();
        while let Some(body) = frames.next().await {
            let frame: RequestFrame = decode(&body.expect("whole")).expect("a frame");
            let pushes = matches!(frame.request, Request::PushTopology { .. });
            assert_eq!(pushes, frame.id.is_multiple_of(3), "{frame:?}");
            ids.push(frame.id);
        }
        writing.await.expect("all was written");
        assert_eq!(ids, (0..100).collect::<Vec<u64>>());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            // what decodes at all is a frame that can be sent on
            if let Ok(frame) = decode::<RequestFrame>(&bytes) {
                let again = encode(&frame).expect("small");
                prop_assert_eq!(decode::<RequestFrame>(&again), Ok(frame));
            }
            let _ = decode::<ResponseFrame>(&bytes);
        }

        #[test]
        fn one_flipped_byte_never_panics(at in 0_usize..1000, to in any::<u8>()) {
            let frame = request(5, Request::PushTopology { topology: topology() });
            let mut body = encode(&frame).expect("small");
            let at = at % body.len();
            body[at] = to;
            if let Ok(frame) = decode::<RequestFrame>(&body) {
                prop_assert!(frame.topologies().iter().all(|t| t.is_well_formed()));
            }
        }
    }
}
