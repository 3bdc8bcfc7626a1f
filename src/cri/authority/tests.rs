use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const MAGIC: &[u8; PREFACE] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// The first two requests of grpcio 1.85.1 on one connection to `unix:/tmp/auth/s.sock`: their blocks of fields.
const GRPCIO: [&str; 2] = [
    "40053a70617468222f72756e74696d652e76312e52756e74696d65536572766963652f56657273696f6e400a3a617574686f\
     7269747913746d7025324661757468253246732e736f636b8386400c636f6e74656e742d74797065106170706c6963617469\
     6f6e2f677270634002746508747261696c6572734014677270632d6163636570742d656e636f64696e67176964656e746974\
     792c206465666c6174652c20677a6970400c677270632d74696d656f7574023553400a757365722d6167656e743067727063\
     2d707974686f6e2f312e38352e3120677270632d632f35382e302e3020286c696e75783b2063687474703229",
    "c4c38386c2c1c0400c677270632d74696d656f757405353031306dbf",
];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter_map(|b| char::from(b).to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A connection with one request for each block of fields.
fn connection(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for (stream, block) in (1..).step_by(2).zip(blocks) {
        bytes.extend(frame(HEADERS, END_HEADERS, stream, block));
        // An empty message; its bytes must not be taken for fields.
        bytes.extend(frame(0, END_STREAM, stream, &[0; 5]));
    }
    bytes
}

fn passed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    Authorities::default().pass(&mut bytes);
    bytes
}

fn text(coded: bool, bytes: &[u8]) -> Vec<u8> {
    let mark = if coded { 0x80 } else { 0 };
    let mut text = match bytes.len() {
        short @ 0..0x7f => vec![mark | short as u8],
        long => vec![mark | 0x7f, (long - 0x7f) as u8 & 0x7f | 0x80, ((long - 0x7f) >> 7) as u8],
    };
    text.extend(bytes);
    text
}

#[test]
fn only_the_path_of_a_real_client_is_touched() {
    let blocks = GRPCIO.map(hex);
    let (before, after) = (connection(&blocks), passed(&connection(&blocks)));
    let at = before.windows(19).position(|w| w == b"tmp%2Fauth%2Fs.sock").unwrap();
    assert_eq!(after[at..at + 19], *b"tmp-2Fauth-2Fs.sock");
    assert_eq!((&after[..at], &after[at + 19..]), (&before[..at], &before[at + 19..]));
}

#[test]
fn huffman_coded_paths_become_other_texts_of_the_same_length() {
    for (path, expected) in [
        // "/run/podd/podd.sock" becomes "3run3podd3podd.sock".
        ("62cb6a62b3c923159e491741c9d7", "66cb6a66b3c923359e491741c9d7"),
        // "%2Ftmp%2Fmy-socket.sock" becomes ".2Ftmp.2Fmy-socket.sock".
        ("5458534d6a8b0d3e9641c9d4a95d07275f", "5c58534d6b8b0d3e9641c9d4a95d07275f"),
    ] {
        for start in [hex("41"), hex("01"), hex("11"), [hex("40"), text(true, NAME_CODED)].concat()] {
            let block = |path: &str| vec![[start.clone(), text(true, &hex(path))].concat()];
            assert_eq!(passed(&connection(&block(path))), connection(&block(expected)));
            assert_eq!(passed(&connection(&block(expected))), connection(&block(expected)));
        }
    }
}

#[test]
fn other_fields_may_hold_what_they_like() {
    for start in ["42", "04", "40023a61", "400b3a617574686f7269747978", "400a3a617574686f7269747a"] {
        let block = [hex(start), text(false, b"/a%2Fb")].concat();
        assert_eq!(passed(&connection(std::slice::from_ref(&block))), connection(&[block]));
    }
}

/// A request's HEADERS, padded and with a priority or not, and its CONTINUATION.
fn request(block: &[u8], flags: u8, padding: u8, cut: usize) -> Vec<u8> {
    let (first, second) = block.split_at(cut.min(block.len()));
    let mut payload = Vec::new();
    payload.extend((flags & PADDED != 0).then_some(padding));
    payload.extend((flags & PRIORITY != 0).then_some([0x41; PRIORITY_LEN]).into_iter().flatten());
    payload.extend(first);
    payload.extend(vec![0x41; if flags & PADDED != 0 { padding.into() } else { 0 }]);
    [frame(HEADERS, flags, 1, &payload), frame(CONTINUATION, END_HEADERS, 1, second)].concat()
}

/// Fields of every form, of which `authority` gives the value of the one that counts.
fn fields() -> impl Strategy<Value = (Vec<Vec<u8>>, usize)> {
    let name = prop_oneof![Just(b":path".to_vec()), "[a-z-]{1,200}".prop_map(String::into_bytes)];
    let other = prop_oneof![
        (0x82u8..0xff).prop_map(|index| vec![index]),
        Just(vec![0xff, 0x80, 0x01]),
        Just(vec![0x3f, 0xe1, 0x1f]),
        (name, proptest::collection::vec(any::<u8>(), 0..300), any::<bool>())
            .prop_map(|(name, value, coded)| [vec![0x40], text(false, &name), text(coded, &value)].concat()),
        (proptest::collection::vec(any::<u8>(), 0..9))
            .prop_map(|v| [vec![0x0f, 0x7f], text(false, &v)].concat()),
        (2u8..0x0f).prop_map(|index| [vec![index], text(false, b"/%/")].concat()),
    ];
    (proptest::collection::vec(other, 0..6), 0usize..7)
}

proptest! {
    #[test]
    fn nothing_but_the_authority_changes(
        (fields, place) in fields(),
        authority in proptest::collection::vec(any::<u8>(), 0..300),
        (flags, padding, cut) in (prop_oneof![Just(0), Just(PADDED), Just(PRIORITY), Just(PADDED | PRIORITY)], any::<u8>(), 0usize..400),
        by_index: bool,
        cuts in proptest::collection::vec(1usize..40, 0..60),
    ) {
        let stream = |authority: &[u8]| {
            let start = if by_index { vec![0x41] } else { [vec![0x00], text(false, NAME)].concat() };
            let mut fields = fields.clone();
            fields.insert(place.min(fields.len()), [start, text(false, authority)].concat());
            let request = request(&fields.concat(), flags, padding, cut);
            [MAGIC.to_vec(), frame(4, 0, 0, &[1; 12]), request, frame(0, END_STREAM, 1, authority)].concat()
        };
        let amended: Vec<u8> =
            authority.iter().map(|b| if may_stand_in_an_authority(*b) { *b } else { b'-' }).collect();
        let (mut bytes, whole) = (stream(&authority), passed(&stream(&authority)));
        let mut expected = stream(&amended);
        let data = expected.len() - authority.len();
        expected[data..].copy_from_slice(&authority);
        prop_assert_eq!(&whole, &expected);
        prop_assert_eq!(passed(&whole), expected);
        // Where the stream is cut into reads changes nothing.
        let (mut authorities, mut rest) = (Authorities::default(), &mut bytes[..]);
        for cut in cuts {
            let (piece, left) = rest.split_at_mut(cut.min(rest.len()));
            authorities.pass(piece);
            rest = left;
        }
        authorities.pass(rest);
        prop_assert_eq!(bytes, whole);
    }

    #[test]
    fn any_bytes_pass(bytes: Vec<u8>, blocks: Vec<Vec<u8>>) {
        prop_assert_eq!(passed(&bytes).len(), bytes.len());
        let after_preface = [MAGIC.to_vec(), bytes].concat();
        prop_assert_eq!(passed(&after_preface).len(), after_preface.len());
        prop_assert_eq!(passed(&connection(&blocks)).len(), connection(&blocks).len());
    }
}

/// The kinds of the frames with which a server answers a request on `stream`, up to the one that ends it.
async fn answers(client: &mut UnixStream, stream: u32) -> Vec<u8> {
    let mut kinds = Vec::new();
    loop {
        let mut head = [0; HEAD];
        client.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        client.read_exact(&mut payload).await.unwrap();
        if head[5..] == stream.to_be_bytes() {
            kinds.push(head[3]);
            if head[3] == RST_STREAM || head[3] == HEADERS && head[4] & END_STREAM != 0 {
                return kinds;
            }
        }
    }
}

async fn talk<S>(wrap: impl FnOnce(UnixStream) -> S) -> Vec<Vec<u8>>
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (mut client, server) = UnixStream::pair().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let incoming = tokio_stream::once(io::Result::Ok(wrap(server)));
    let server =
        tokio::spawn(tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming));
    client.write_all(&connection(&GRPCIO.map(hex))).await.unwrap();
    let answers = async { vec![answers(&mut client, 1).await, answers(&mut client, 3).await] };
    let answers = tokio::time::timeout(Duration::from_secs(20), answers).await.unwrap();
    server.abort();
    answers
}

#[tokio::test]
async fn a_client_that_sends_the_path_is_answered_again_and_again() {
    assert_eq!(talk(Tolerant::new).await, [[HEADERS], [HEADERS]]);
    // When this fails, h2 has become tolerant itself, and this module can go.
    assert_eq!(talk(|stream| stream).await, [[RST_STREAM], [RST_STREAM]]);
}
