//! What goes wrong with datagrams. One that is lost is nobody's fault (udp(7)), so nothing here is proven by silence, but
//! that a server is there at all: what proves a bug is a datagram that came, and is not what it should be.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    time::Duration,
};

use arguments::Transport;

use super::{
    Check, Needs,
    exam::{Exam, Examined, Stop},
    explanation,
    peer::{PATIENCE, Peer, hear_any, is_refused},
    words::{Words, words},
};

/// How a datagram goes that shows that the server is there.
const GREETING: &[u8] = b"is anybody there?\n";

/// Datagrams are cut, or joined.
pub static SIZES: Check = Check {
    id: "udp-sizes",
    transport: Transport::Udp,
    needs: Needs::BlackBox,
    points: 5.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(30),
    title: Words::of(
        "a datagram of any size comes back whole, and alone",
        "任意大小的数据报都完整、独立地返回",
    ),
    done: Words::of(
        "sent datagrams of 1 to 65507 bytes of all values, several at once, and an empty one",
        "发送 1 到 65507 字节、包含各种字节值的数据报，一次连发多个，以及一个空数据报",
    ),
    hint: Words::of(
        "recvfrom cuts what its buffer has no room for (MSG_TRUNC): give it 65536 bytes, and send as many as it returned",
        "缓冲区放不下的部分会被 recvfrom 截掉（MSG_TRUNC）：缓冲区应为 65536 字节，返回多少就发送多少",
    ),
    explanation: explanation!("udp-sizes"),
    look: sizes,
};

/// On both sides of what fits into one Ethernet frame (1472 bytes behind the headers), of usual buffers, and the longest.
const LENGTHS: [usize; 8] = [1, 512, 1472, 1473, 2049, 4097, 9000, 65507];

fn sizes(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    exam.peer(&server)?.echo(GREETING)?;
    let (mut lost, mut peers) = (Vec::new(), Vec::new()); // whose clients stay: that one leaves is another check's
    for length in LENGTHS {
        let peer = exam.peer(&server)?;
        if !comes_back(exam, &peer, &exam.noise(length))? {
            lost.push(length.to_string());
        }
        peers.push(peer);
    }
    stay_apart(exam, &exam.peer(&server)?)?;
    // The last one, for a server that takes it for an end: that is another bug, and has its own check.
    server.may_end();
    if !comes_back(exam, &exam.peer(&server)?, &[])? {
        lost.push("0".into());
    }
    if lost.is_empty() {
        return Ok(Words::of("every size came back as it was sent", "每种大小都按原样返回"));
    }
    let lost = lost.join(", ");
    exam.saw("lost_sizes_in_bytes", lost.as_str());
    Ok(words!(
        "none came back cut or joined; of these sizes none came back at all: {lost}",
        "没有被截断或合并的数据报；以下大小（字节）始终没有返回：{lost}"
    ))
}

/// Whether a datagram comes back at all; and if it does, as it was sent.
fn comes_back(exam: &Exam<'_>, peer: &Peer<'_>, said: &[u8]) -> Result<bool, Stop> {
    let Some(heard) = peer.ask(said)? else { return Ok(false) };
    let (sent, back) = (said.len(), heard.bytes.len());
    if heard.bytes == said {
        return Ok(true);
    }
    exam.saw("bytes_sent", sent);
    exam.saw("bytes_received", back);
    Err(Stop::Fault(if back == sent {
        let at = heard.bytes.iter().zip(said).position(|(heard, said)| heard != said).unwrap_or_default();
        words!(
            "a datagram of {sent} bytes came back changed, from its byte {at} on",
            "一个 {sent} 字节的数据报返回时从第 {at} 个字节起内容变了"
        )
    } else {
        words!(
            "a datagram of {sent} bytes came back as one of {back}",
            "一个 {sent} 字节的数据报返回时变成了 {back} 字节"
        )
    }))
}

/// What is sent at once comes back as as many: also what leaves as one piece that the kernel cuts, which a server gets in
/// one piece where it asked for that (UDP_GRO, udp(7)).
fn stay_apart(exam: &Exam<'_>, peer: &Peer<'_>) -> Result<(), Stop> {
    const EACH: usize = 700;
    let text = exam.text(4 * EACH);
    let mut awaited: Vec<&[u8]> = (1..=4).map(|n| &text[..100 * n]).collect();
    awaited.iter().try_for_each(|datagram| peer.say(datagram))?;
    peer.say_in_one_piece(&text, EACH)?;
    awaited.extend(text.chunks(EACH));
    while !awaited.is_empty()
        && let Some(heard) = peer.hear(PATIENCE)?
    {
        let Some(at) = awaited.iter().position(|said| *said == heard.bytes) else {
            let back = heard.bytes.len();
            exam.saw("bytes_received", back);
            return Err(Stop::Fault(words!(
                "of several datagrams that were sent at once one of {back} bytes came back, which none of them was",
                "连发多个数据报，返回了一个 {back} 字节的数据报，与发送的任何一个都不符"
            )));
        };
        awaited.swap_remove(at);
    }
    Ok(())
}

/// An empty datagram is taken for the end of something.
pub static EMPTY: Check = Check {
    id: "udp-empty",
    transport: Transport::Udp,
    needs: Needs::BlackBox,
    points: 5.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of("an empty datagram ends nothing", "空数据报不会让服务器停止服务"),
    done: Words::of("sent empty datagrams, then one that is not", "发送若干空数据报，然后发送一个普通数据报"),
    hint: Words::of(
        "recvfrom returning 0 is a datagram without bytes: there is no end of file without a connection",
        "recvfrom 返回 0 表示收到一个空数据报：无连接的套接字没有“文件结束”",
    ),
    explanation: explanation!("udp-empty"),
    look: empty,
};

/// How many each client sends: all together more than a server has workers, each of which may end of one.
const EMPTIES: usize = 8;
/// Of whom each sends as many.
const OTHERS: usize = 7;

fn empty(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let peer = exam.peer(&server)?;
    peer.echo(GREETING)?;
    let others = (0..OTHERS).map(|_| exam.peer(&server)).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..EMPTIES {
        peer.say(&[])?;
        others.iter().try_for_each(|other| other.say(&[]))?;
    }
    let mut answered = 0;
    while answered < EMPTIES
        && let Some(heard) = peer.hear(PATIENCE / 2)?
    {
        let back = heard.bytes.len();
        if back > 0 {
            return Err(Stop::Fault(words!(
                "an empty datagram came back with {back} bytes",
                "一个空数据报返回时带有 {back} 字节"
            )));
        }
        answered += 1;
    }
    exam.saw("empty_datagrams_sent", (1 + OTHERS) * EMPTIES);
    exam.saw("empty_datagrams_received_by_one", answered);
    peer.echo(GREETING)?;
    others.iter().try_for_each(|other| other.echo(GREETING))?;
    let clients = 1 + OTHERS;
    Ok(words!(
        "{clients} clients sent {EMPTIES} empty datagrams each, and all of them are still answered",
        "{clients} 个客户端各发送 {EMPTIES} 个空数据报之后，都仍得到回应"
    ))
}

/// An answer does not come from where it is awaited.
pub static ADDRESS: Check = Check {
    id: "udp-address",
    transport: Transport::Udp,
    needs: Needs::BlackBox,
    points: 3.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of("an answer comes from the address that was asked", "应答来自被询问的那个地址"),
    done: Words::of(
        "asked a server that is bound to the wildcard address at 127.0.0.2",
        "服务器绑定在通配地址上，向它的 127.0.0.2 发送数据报",
    ),
    hint: Words::of(
        "a socket of all addresses answers from the one that the route has: ask for IP_PKTINFO, and send with it",
        "绑定通配地址的套接字按路由选择源地址：用 IP_PKTINFO 得知对方询问的地址，并用它发送应答",
    ),
    explanation: explanation!("udp-address"),
    look: address,
};

fn address(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let asked = server.address(Transport::Udp)?;
    answers_from(exam, asked)?;
    if !asked.ip().is_loopback() {
        return Err(Stop::Skip(Words::of("it is not asked at a loopback address", "它的地址不是回环地址")));
    }
    let other = SocketAddr::from((beside(asked), asked.port()));
    if !is_bound_to_all(asked.port()) || is_refused(other)? {
        return Err(Stop::Skip(Words::of("it is bound to one address", "它只绑定在一个地址上")));
    }
    answers_from(exam, other)?;
    let (asked, other) = (asked.ip(), other.ip());
    Ok(words!(
        "asked at {asked} and at {other}, it answers from there",
        "在 {asked} 与 {other} 上询问，应答都来自原地址"
    ))
}

/// Holds the server to answer from the address and port that are asked.
fn answers_from(exam: &Exam<'_>, asked: SocketAddr) -> Result<(), Stop> {
    let Some(heard) = Peer::of(exam, asked)?.ask(GREETING)? else {
        return Err(Stop::Late(words!(
            "a datagram to {asked} is not answered",
            "发往 {asked} 的数据报没有回应"
        )));
    };
    let from = heard.from;
    exam.saw(&format!("answer_from_{}", asked.ip()), from.to_string());
    if from == asked {
        return Ok(());
    }
    Err(Stop::Fault(words!(
        "a datagram to {asked} was answered from {from}, so a connected client does not hear it",
        "发往 {asked} 的数据报，应答却来自 {from}，已连接（connect）的客户端收不到它"
    )))
}

/// Another of the loopback addresses that every Linux has: one that is not the server's own, if it has one only.
fn beside(server: SocketAddr) -> IpAddr {
    let [second, third] = [2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
    if server.ip() == second { third.into() } else { second.into() }
}

/// Whether a socket of this port, which has no peer, is bound to the wildcard address (proc_net(5)).
fn is_bound_to_all(port: u16) -> bool {
    let mut sockets = [procfs::net::udp(), procfs::net::udp6()].into_iter().flatten().flatten();
    sockets.any(|it| {
        it.local_address.port() == port
            && it.remote_address.port() == 0
            && it.local_address.ip().is_unspecified()
    })
}

/// One client's misfortune is taken for the server's.
pub static DEAD_CLIENT: Check = Check {
    id: "udp-dead-client",
    transport: Transport::Udp,
    needs: Needs::BlackBox,
    points: 5.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(30),
    title: Words::of("clients that have gone do not end it", "已经离开的客户端不会让服务器停止"),
    done: Words::of(
        "100 clients sent datagrams and closed before the answers came",
        "100 个客户端发送数据报后，不等应答就关闭套接字",
    ),
    hint: Words::of(
        "ECONNREFUSED tells that an earlier datagram found nobody: it is that client's end, not the socket's",
        "ECONNREFUSED 只说明先前某个数据报无人接收：这是那个客户端的事，套接字仍可继续使用",
    ),
    explanation: explanation!("udp-dead-client"),
    look: dead_client,
};

/// How many clients leave, how many of them between two looks at the server, and how much each says before: more than
/// is answered while it says it.
const DEAD: [usize; 3] = [100, 10, 10];

fn dead_client(exam: &Exam<'_>) -> Examined {
    let [dead, between, said] = DEAD;
    let server = exam.server()?;
    exam.peer(&server)?.echo(GREETING)?;
    let last_words = exam.text(64);
    for n in 1..=dead {
        let peer = exam.peer(&server)?;
        (0..said).try_for_each(|_| peer.say(&last_words))?;
        drop(peer);
        if n % between == 0 {
            exam.saw("clients_closed", n);
            exam.peer(&server)?.echo(GREETING)?;
        }
    }
    Ok(words!(
        "after {dead} clients that left at once, others are answered",
        "{dead} 个客户端发完即关闭之后，其他客户端仍得到回应"
    ))
}

/// A client gets what is another's.
pub static CROSSTALK: Check = Check {
    id: "udp-crosstalk",
    transport: Transport::Udp,
    needs: Needs::BlackBox,
    points: 5.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(30),
    title: Words::of(
        "each client gets its own datagrams, in their order",
        "每个客户端只收到自己的数据报，且顺序不变",
    ),
    done: Words::of(
        "16 clients sent numbered datagrams at once, now one each, now four, now twelve while it was stopped",
        "16 个客户端同时发送带编号的数据报，每次一个、四个，或在它暂停时各十二个",
    ),
    hint: Words::of(
        "the address belongs to its datagram: keep both together, and neither in a variable that the next one overwrites",
        "地址属于它的那个数据报：两者要放在一起，不要存进会被下一个数据报覆盖的共享变量",
    ),
    explanation: explanation!("udp-crosstalk"),
    look: crosstalk,
};

const CLIENTS: usize = 16;
/// How often all of them speak: one datagram each, then four each, and so on. Of several on their way at once, one may
/// overtake another (a pool on one socket), and is not blamed; one alone has its order.
const ROUNDS: usize = 320;

fn crosstalk(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let peers = (0..CLIENTS).map(|_| exam.peer(&server)).collect::<Result<Vec<_>, _>>()?;
    peers[0].echo(GREETING)?;
    let may_repeat = !server.address(Transport::Udp)?.ip().is_loopback();
    let mut talk = Talk { exam, may_repeat, said: 0, heard: vec![Vec::new(); CLIENTS], overtaken: 0 };
    let mut lost = 0;
    for round in 0..ROUNDS {
        // All workers of one who stood still find much to do at the same moment.
        let stands = round % 4 == 3 && server.pid().is_ok() && server.freeze().is_ok();
        let burst = match round % 4 {
            _ if stands => 12,
            0 | 2 => 1,
            _ => 4,
        };
        let said = say_all(&peers, talk.said..talk.said + burst);
        if stands {
            server.thaw()?;
        }
        said?;
        talk.said += burst;
        let mut awaited = CLIENTS * burst;
        while awaited > 0
            && let Some((client, heard)) = hear_any(exam, &peers, PATIENCE)?
        {
            talk.takes(client, &heard.bytes)?;
            awaited -= 1;
        }
        lost += awaited;
        if lost > 4 * CLIENTS {
            break; // no fault, but each costs a wait
        }
    }
    let answered: usize = talk.heard.iter().map(Vec::len).sum();
    let sent = CLIENTS * talk.said;
    exam.saw("datagrams_sent", sent);
    exam.saw("datagrams_received", answered);
    exam.saw("datagrams_overtaken", talk.overtaken);
    if answered < sent / 2 {
        return Err(Stop::Doubt(words!(
            "of {sent} datagrams only {answered} came back, none of them another's: does it throw away what waits behind one?",
            "{sent} 个数据报只返回了 {answered} 个，其中没有别人的：排在后面的数据报是不是被丢掉了？"
        )));
    }
    Ok(words!(
        "{CLIENTS} clients got {answered} datagrams, all their own",
        "{CLIENTS} 个客户端共收到 {answered} 个数据报，全部是各自的"
    ))
}

/// Each of them sends its datagrams of these numbers, in turn with the others.
fn say_all(peers: &[Peer<'_>], numbers: Range<usize>) -> Result<(), Stop> {
    for number in numbers {
        for (client, peer) in peers.iter().enumerate() {
            peer.say(&numbered(client, number))?;
        }
    }
    Ok(())
}

/// A datagram that tells whose it is.
fn numbered(client: usize, number: usize) -> Vec<u8> {
    let letter = char::from(b'a' + (client % 26) as u8);
    let filler: String = std::iter::repeat_n(letter, 40 + 8 * client).collect();
    format!("client {client}, datagram {number}: {filler}\n").into_bytes()
}

/// Whose it is, and which; `None` if it is not just as it was sent.
fn owner(bytes: &[u8]) -> Option<(usize, usize)> {
    let text = str::from_utf8(bytes).ok()?;
    let (client, rest) = text.strip_prefix("client ")?.split_once(", datagram ")?;
    let (number, _) = rest.split_once(':')?;
    let (client, number) = (client.parse().ok()?, number.parse().ok()?);
    (numbered(client, number) == bytes).then_some((client, number))
}

/// Several clients that number what they say.
struct Talk<'e> {
    exam: &'e Exam<'e>,
    /// Whether the network between may send a datagram twice.
    may_repeat: bool,
    /// How many each has sent.
    said: usize,
    /// Which of them have come back, to each, in this order.
    heard: Vec<Vec<usize>>,
    /// How many came behind one that was sent after them.
    overtaken: usize,
}

impl Talk<'_> {
    /// Takes what a client hears: something that it has sent itself, and once.
    fn takes(&mut self, client: usize, bytes: &[u8]) -> Result<(), Stop> {
        let sent_by = owner(bytes).filter(|&(client, number)| client < CLIENTS && number < self.said);
        let Some((owner, number)) = sent_by else {
            let text = String::from_utf8_lossy(bytes);
            self.exam.saw("received", text.chars().take(200).collect::<String>());
            let is_in_it = |other: &usize| *other != client && text.contains(&format!("client {other}, "));
            if let Some(other) = (0..CLIENTS).find(is_in_it) {
                return Err(Stop::Fault(words!(
                    "client {client} got what client {other} had sent, in one datagram with something else",
                    "客户端 {client} 收到的数据报里混有客户端 {other} 发送的内容"
                )));
            }
            return Err(Stop::Fault(words!(
                "client {client} got a datagram that nobody sent",
                "客户端 {client} 收到了一个没有人发送过的数据报"
            )));
        };
        if owner != client {
            return Err(Stop::Fault(words!(
                "client {client} got datagram {number} of client {owner}",
                "客户端 {client} 收到了客户端 {owner} 的第 {number} 个数据报"
            )));
        }
        let heard = &mut self.heard[client];
        if heard.contains(&number) {
            if self.may_repeat {
                return Ok(());
            }
            return Err(Stop::Fault(words!(
                "client {client} got its datagram {number} again, in the place of a later one",
                "客户端 {client} 再次收到自己的第 {number} 个数据报，而应收到的是之后的数据报"
            )));
        }
        self.overtaken += usize::from(heard.last().is_some_and(|&last| last > number));
        heard.push(number);
        Ok(())
    }
}

/// An answer that is answered: two that talk for ever.
pub static REFLECT: Check = Check {
    id: "udp-reflect",
    transport: Transport::Udp,
    needs: Needs::BlackBox,
    points: 3.0,
    is_quick: true,
    is_iteratives: false,
    limit: Duration::from_secs(20),
    title: Words::of("it does not play ping-pong with another echo", "不会与另一个回显服务互相应答不止"),
    done: Words::of(
        "sent datagrams from its own port at another address, and from ports 7, 13, 19 and 37, and echoed all that came back",
        "从另一地址上与它相同的端口，以及端口 7、13、19、37 发送数据报，并把收到的一切原样发回",
    ),
    hint: Words::of(
        "who forges a source address makes two servers talk for ever: do not answer ports below 1024, nor your own",
        "伪造源地址就能让两个服务器永远互相应答：不要回应 1024 以下的端口，也不要回应自己的端口",
    ),
    explanation: explanation!("udp-reflect"),
    look: reflect,
};

/// Services that answer whatever they are sent: echo, daytime, chargen, time (RFC 862, 867, 864, 868).
const ANSWERING: [u16; 4] = [7, 13, 19, 37];
/// How many datagrams each sends: one may be lost.
const CHAINS: usize = 3;
/// After how many answers to answers it is called endless.
const ENDLESS: usize = 60;

fn reflect(exam: &Exam<'_>) -> Examined {
    let server = exam.server()?;
    let asked = server.address(Transport::Udp)?;
    let client = exam.peer(&server)?;
    client.echo(GREETING)?;
    let (echoes, refused) = echoes(exam, asked);
    if !refused.is_empty() {
        exam.saw("ports_not_to_be_had", refused.join(", "));
    }
    if echoes.is_empty() {
        let why = refused.join(", ");
        return Err(Stop::Skip(words!(
            "no port is to be had that it should not answer: {why}",
            "无法占用任何不应得到应答的端口：{why}"
        )));
    }
    let ports: Vec<u16> = echoes.iter().map(|(port, _)| *port).collect();
    let peers: Vec<Peer<'_>> = echoes.into_iter().map(|(_, peer)| peer).collect();
    for _ in 0..CHAINS {
        peers.iter().try_for_each(|peer| peer.say(GREETING))?;
    }
    client.echo(GREETING)?; // by now a server with one queue has come to those before it
    let mut answers: BTreeMap<u16, usize> = ports.iter().map(|&port| (port, 0)).collect();
    while let Some((n, heard)) = hear_any(exam, &peers, PATIENCE / 2)? {
        let answers_here = answers.entry(ports[n]).or_default();
        *answers_here += 1;
        if *answers_here >= ENDLESS {
            let (port, times) = (ports[n], *answers_here);
            exam.saw("datagrams_answered", times);
            exam.saw("source_port", port);
            return Err(Stop::Fault(words!(
                "{CHAINS} datagrams from port {port}, which echoes, were answered {times} times, without an end",
                "来自端口 {port} 的 {CHAINS} 个数据报（该端口会回显）引来了 {times} 次应答，没有停下的迹象"
            )));
        }
        peers[n].say(&heard.bytes)?;
    }
    for (port, answers) in answers {
        exam.saw(&format!("answers_to_port_{port}"), answers);
    }
    let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    Ok(words!(
        "with echoes at the ports {ports} every chain ended",
        "与端口 {ports} 上的回显服务之间，应答链都停了下来"
    ))
}

/// Echoes at the ports that a server should not answer, and which of these are not to be had, and why.
fn echoes<'e>(exam: &'e Exam<'e>, server: SocketAddr) -> (Vec<(u16, Peer<'e>)>, Vec<String>) {
    let ip = match server {
        SocketAddr::V4(at) if at.ip().is_loopback() => beside(server),
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(at) if at.ip().is_loopback() => Ipv6Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let (mut echoes, mut refused) = (Vec::new(), Vec::new());
    for port in [server.port()].into_iter().chain(ANSWERING) {
        let here = SocketAddr::from((ip, port));
        if here == server {
            continue; // IPv6 has one loopback address
        }
        let why = match Peer::at(exam, here, server) {
            Ok(peer) => {
                echoes.push((port, peer));
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "only root may have it".to_owned()
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => "somebody has it".to_owned(),
            Err(error) => error.to_string(),
        };
        refused.push(format!("{port} ({why})"));
    }
    (echoes, refused)
}
