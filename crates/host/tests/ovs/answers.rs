//! An ovsdb-server that answers what no real one does, or nothing.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use patchcord_host::Error;
use patchcord_host::ovs::Ovs;
use serde_json::{Value, json};

use crate::bed::{INSTANCE, SOON, name, plain};

/// What the server does with each connection.
pub(crate) type Script = Box<dyn FnOnce(&mut Peer) + Send>;

/// The server's end of a connection.
pub(crate) struct Peer(UnixStream);

impl Peer {
    /// The next message.
    pub(crate) fn receive(&self) -> Value {
        let mut messages = serde_json::Deserializer::from_reader(&self.0).into_iter();
        messages.next().unwrap().unwrap()
    }

    pub(crate) fn send(&mut self, text: &str) {
        // The client may have heard enough.
        let _ = self.0.write_all(text.as_bytes());
    }

    /// Answers a transaction with these results.
    pub(crate) fn answer(&mut self, results: Value) {
        let id = self.receive()["id"].clone();
        self.send(&json!({"result": results, "error": null, "id": id}).to_string());
    }

    /// Waits until the client has gone.
    pub(crate) fn wait(&mut self) {
        let _ = self.0.read_to_end(&mut Vec::new());
    }
}

/// Runs a script for each connection that is made while `test` runs.
pub(crate) fn with_server<const N: usize>(scripts: [Script; N], test: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("db.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for script in scripts {
                script(&mut Peer(listener.accept().unwrap().0));
            }
        });
        test(&socket);
    });
}

pub(crate) fn ovs(socket: impl Into<PathBuf>) -> Ovs {
    Ovs::new(socket, INSTANCE, SOON)
}

/// What `bridges` says to the server with that script, after the text that names the server.
fn refusal(script: impl FnOnce(&mut Peer) + Send + 'static) -> (Error, String) {
    let mut told = None;
    with_server([Box::new(script)], |socket| {
        let error = ovs(socket).bridges().unwrap_err();
        let text = error.to_string();
        let (_, problem) = text.split_once("db.sock").unwrap();
        told = Some((problem.to_owned(), error));
    });
    let (problem, error) = told.unwrap();
    (error, problem)
}

/// The cause of a refusal that ends the connection.
fn cause(error: &Error) -> String {
    assert!(matches!(error, Error::OvsSocket { .. }), "{error}");
    std::error::Error::source(error).unwrap().to_string()
}

fn bridges() -> Value {
    json!([{"rows": [{
        "_uuid": ["uuid", "6cd6ee4f-4e64-4b4e-9e6f-9d2c1a2b3c4d"], "name": "br0", "datapath_id": "0000000000000001"
    }]}])
}

#[test]
fn an_echo_is_answered_and_a_notification_ignored() {
    let script = |peer: &mut Peer| {
        let id = peer.receive()["id"].clone();
        peer.send("{\"method\":\"update\",\"params\":[null,{}],\"id\":null}");
        // In pieces, and the next message begins with it.
        peer.send("{\"method\":\"echo\",\"params\":[\"are ");
        std::thread::sleep(Duration::from_millis(20));
        peer.send("you there\"],\"id\":\"echo\"} \n{\"res");
        assert_eq!(peer.receive(), json!({"result": ["are you there"], "error": null, "id": "echo"}));
        let rest = json!({"result": bridges(), "error": null, "id": id}).to_string();
        let rest = rest.strip_prefix("{\"error\":null,").unwrap().replace("\"result\"", "ult\"");
        let (id, result) = rest.split_once(",ult").unwrap();
        peer.send(&format!("ult{},{id},\"error\":null}}", result.strip_suffix('}').unwrap()));
    };
    with_server([Box::new(script)], |socket| {
        assert_eq!(ovs(socket).bridges().unwrap(), ["br0".to_owned()].into());
    });
}

#[test]
fn answers_that_are_none_are_refused_in_words() {
    let answer = |text: &'static str| {
        let (error, problem) = refusal(move |peer| {
            peer.receive();
            peer.send(text);
        });
        assert!(matches!(error, Error::OvsAnswer { .. }), "{error}");
        problem
    };
    assert_eq!(answer("HTTP/1.1 400\r\n"), ": no JSON: expected value at line 1 column 1");
    assert_eq!(answer("[1,2]"), ": a message that is no JSON object");
    assert_eq!(answer("{\"id\":77,\"result\":[],\"error\":null}"), ": an answer to what was not asked");
    assert_eq!(
        answer("{\"id\":1,\"result\":null,\"error\":\"unknown database\"}"),
        ": a transaction was refused: \"unknown database\""
    );
    assert_eq!(answer("{\"id\":1,\"result\":null,\"error\":null}"), ": the answer to a transaction has no results");
    assert_eq!(
        answer("{\"id\":1,\"result\":[{},{}],\"error\":null}"),
        ": the answer to a transaction has 2 results for 1 operations"
    );
    assert_eq!(
        answer("{\"id\":1,\"result\":[{\"count\":1}],\"error\":null}"),
        ": it was asked for rows of Bridge and gave none"
    );
    assert_eq!(
        answer("{\"id\":1,\"result\":[{\"rows\":[{\"_uuid\":[\"uuid\",\"x\"],\"name\":\"br0\"}]}],\"error\":null}"),
        ": column _uuid of Bridge is missing or of another type"
    );
    assert_eq!(
        answer(
            "{\"id\":1,\"result\":[null,{\"error\":\"resources exhausted\",\"details\":\"no space\"}],\"error\":null}"
        ),
        ": it refuses to be read: resources exhausted: no space"
    );
    let (error, problem) = refusal(|peer| {
        peer.receive();
        peer.send(&"[".repeat(100_000));
    });
    assert!(matches!(error, Error::OvsAnswer { .. }) && problem.contains("recursion limit"), "{error}");
}

#[test]
fn an_answer_ends_in_size_and_time() {
    let (error, _) = refusal(|peer| {
        peer.receive();
        peer.send("{\"id\":1,\"result\":[{\"rows\":[\"");
        let piece = "x".repeat(1 << 20);
        for _ in 0..40 {
            peer.send(&piece);
        }
    });
    assert_eq!(cause(&error), "more than 24 MiB");
    let (error, _) = refusal(|peer| {
        peer.receive();
        peer.send("{\"id\":1,\"result\":[{\"rows\":[");
    });
    assert!(cause(&error).starts_with("EOF while parsing"), "{error:?}");
    let (error, problem) = refusal(|_| {});
    assert!(matches!(error, Error::OvsSocket { .. }), "{error}");
    assert_eq!(problem, "");

    // Silence, and a byte now and then.
    for talks in [false, true] {
        let script = move |peer: &mut Peer| {
            peer.receive();
            let mut byte = [0];
            peer.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            peer.send("{\"id\":1,\"result\":[\"");
            // Until the client goes.
            while !matches!(peer.0.read(&mut byte), Ok(0)) {
                if talks {
                    peer.send("x");
                }
            }
        };
        with_server([Box::new(script)], |socket| {
            let start = Instant::now();
            let error = Ovs::new(socket, INSTANCE, Duration::from_millis(100)).bridges().unwrap_err();
            assert_eq!(cause(&error), "timed out");
            let text = format!("cannot get an answer from Open vSwitch's database at {}", socket.display());
            assert_eq!(error.to_string(), format!("{text}; is ovsdb-server stuck?"));
            assert!(start.elapsed() < Duration::from_secs(20));
        });
    }
}

#[test]
fn a_server_that_is_not_there_or_takes_no_connection_is_an_error_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("db.sock");
    let text = |error: Error| error.to_string().replace(&socket.display().to_string(), "SOCKET");
    let help = "is Open vSwitch (Debian's package openvswitch-switch) installed and running?";
    let expected = format!("cannot connect to Open vSwitch's database at SOCKET; {help}");
    assert_eq!(text(ovs(&socket).ports().unwrap_err()), expected);
    let listener = UnixListener::bind(&socket).unwrap();
    // Nobody accepts: at some time the queue is full.
    let short = Ovs::new(&socket, INSTANCE, Duration::from_millis(100));
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&socket).unwrap();
    let error = short.set_port(&name("br0"), &plain("pct0")).unwrap_err();
    assert_eq!(text(error), "cannot connect to Open vSwitch's database at SOCKET; is ovsdb-server stuck?");
    drop(listener);
    assert_eq!(text(ovs(&socket).remove_port(&name("pct0")).unwrap_err()), expected);
    let long = dir.path().join("x".repeat(200));
    assert!(matches!(ovs(long).bridges(), Err(Error::OvsSocket { .. })));
}

/// The answer to what is read about a port before it is made: there is a bridge, and no port.
fn nothing() -> Value {
    let mut results = vec![json!({"rows": []}); 6];
    results[0] = json!({"rows": [{"next_cfg": 7}]});
    results[1] = bridges()[0].clone();
    Value::Array(results)
}

#[test]
fn a_change_that_others_make_impossible_is_tried_again_and_not_for_ever() {
    let conflict = || {
        // Of the operations before the one that failed, the results; of those after it, nothing.
        json!([{}, null, {"error": "constraint violation", "details": "identical values (pct0) for column \"name\""}])
    };
    let script = move |peer: &mut Peer| {
        for _ in 0..16 {
            peer.answer(nothing());
            peer.answer(conflict());
        }
    };
    with_server([Box::new(script)], |socket| {
        let error = ovs(socket).set_port(&name("br0"), &plain("pct0")).unwrap_err();
        assert!(matches!(&error, Error::OvsPort { port, .. } if port == "pct0"), "{error}");
        let end = "port pct0: constraint violation: identical values (pct0) for column \"name\"";
        assert!(error.to_string().ends_with(end), "{error}");
    });
    let script = move |peer: &mut Peer| {
        peer.answer(nothing());
        peer.answer(json!([{"error": "timed out"}]));
        peer.answer(nothing());
        // Nothing that a second try would change.
        peer.answer(json!([{"error": "permission error", "details": "x".repeat(10_000)}]));
    };
    with_server([Box::new(script)], |socket| {
        let error = ovs(socket).set_port(&name("br0"), &plain("pct0")).unwrap_err().to_string();
        assert!(error.contains("port pct0: permission error: xxx") && error.len() < 1000, "{error}");
    });
    let script = |peer: &mut Peer| {
        let mut results = nothing();
        results[0] = json!({"rows": []});
        peer.answer(results);
    };
    with_server([Box::new(script)], |socket| {
        let error = ovs(socket).remove_port(&name("pct0")).unwrap_err().to_string();
        assert!(error.ends_with(": the database is empty: ovs-vswitchd has never used it"), "{error}");
    });
}
