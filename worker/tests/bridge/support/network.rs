//! A stretch of network between bridge and broker that can be cut.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// Forwards TCP connections.
pub struct Network {
    pub port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Network {
    /// Forwards to `address`.
    pub fn to(address: (String, u16)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::clone(&open);
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let Ok(far) = TcpStream::connect(&address) else { continue };
                connections.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                let (back_from, back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                thread::spawn(move || forward(near, far));
                thread::spawn(move || forward(back_from, back_to));
            }
        });
        Self { port, open }
    }

    /// Ends all connections in the middle of whatever they carry; new ones may be made at once.
    pub fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
