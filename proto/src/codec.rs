//! How messages are turned into bytes and back: as prost does, with room for what they are like.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// First size of a call's two buffers, in bytes; they grow. Most messages have less, and each call has both:
/// allocations of the usual 8 KiB cost more than all else that a refused call needs memory for.
const FIRST: usize = 1024;
/// A stream of messages yields after this many bytes; tonic's own value.
const YIELD: usize = 32 * 1024;

/// The codec of all services here.
#[derive(Debug)]
pub struct SmallMessages<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for SmallMessages<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for SmallMessages<E, D>
where
    E: Message + Send + 'static,
    D: Message + Default + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = <ProstCodec<E, D> as Codec>::Encoder;
    type Decoder = <ProstCodec<E, D> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<E, D>::raw_encoder(BufferSettings::new(FIRST, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<E, D>::raw_decoder(BufferSettings::new(FIRST, YIELD))
    }
}
