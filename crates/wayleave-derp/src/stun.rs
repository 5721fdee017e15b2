//! STUN: tells clients the address that their packets come from.

use std::io;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use wayleave_wire::stun::{read_request, write_response};

/// Answers until `stop`. Requests that are not a client's get no answer, so nobody can use this to flood a third party: the answer
/// is smaller than the question.
///
/// A socket that is bound to one address answers from it; one that is bound to all answers from the address that the system
/// chooses, which on a host with several may not be the one that was asked.
///
/// # Errors
///
/// The socket broke.
pub async fn serve(socket: &UdpSocket, stop: &CancellationToken) -> io::Result<()> {
    let mut buffer = [0; 1500];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, source) = match received {
            Ok(received) => received,
            // Linux tells a UDP socket of ICMP errors that earlier answers met (udp(7)); they say nothing about the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        if let Some(id) = read_request(&buffer[..length]) {
            // A client whose answer got lost asks again.
            drop(socket.send_to(&write_response(id, source), source).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_learns_its_address_and_others_get_no_answer() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let stop = CancellationToken::new();
        let ends = stop.clone();
        let task = tokio::spawn(async move { serve(&server, &ends).await });
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"no request", address).await.unwrap();
        // protocol.md 12.6
        let request = "000100142112a4420102030405060708090a0b0c802200087461696c6e6f646580280004b32c370f";
        let request: Vec<u8> =
            (0..request.len()).step_by(2).map(|i| u8::from_str_radix(&request[i..i + 2], 16).unwrap()).collect();
        client.send_to(&request, address).await.unwrap();
        let mut answer = [0; 100];
        let (length, from) = client.recv_from(&mut answer).await.unwrap();
        assert_eq!(from, address);
        assert_eq!(answer[8..20], request[8..20], "the first answer is to the request");
        let port = u16::from_be_bytes([answer[26], answer[27]]) ^ 0x2112;
        assert_eq!((length, port), (32, client.local_addr().unwrap().port()));
        stop.cancel();
        task.await.unwrap().unwrap();
    }
}
