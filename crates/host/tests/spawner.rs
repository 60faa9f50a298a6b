//! The spawner as a process of its own, which this test program is when it is started as such.
#![allow(clippy::unwrap_used)] // a helper that fails is the test failing

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use patchcord_host::Error;
use patchcord_host::process::{Process, ProcessId, Signal};
use patchcord_host::spawner::{AllowList, End, MAX_FILE, MAX_OUTPUT, Request, Spawner, spawner_main};
use patchcord_testkit::{require_root, wait_until};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

/// Not a test: the spawner process, started by the tests below.
#[test]
#[ignore = "is the spawner process of the other tests"]
fn spawner_process() {
    let _ = spawner_main();
}

fn start(programs: &[&str]) -> Spawner {
    let allow = AllowList { programs: programs.iter().map(Into::into).collect(), ..AllowList::default() };
    start_with(&allow)
}

fn start_with(allow: &AllowList) -> Spawner {
    let args = ["--ignored", "--exact", "spawner_process", "--nocapture"].map(OsStr::new);
    Spawner::start(&std::env::current_exe().unwrap(), &args, allow).unwrap()
}

fn shell(script: &str) -> Request {
    Request::new("/bin/sh").args(["-c", script])
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_program_gets_what_was_asked_for_and_nothing_else() {
    let spawner = start(&["/bin/sh", "/usr/bin/ls"]);
    let mut request = shell("cat; env; pwd; exit 3");
    request.env = vec![("PATH".into(), "/usr/bin:/bin".into()), ("NAME".into(), "a b".into())];
    request.stdin = b"input\n".to_vec();
    request.directory = "/usr".into();
    let outcome = spawner.run(&request).unwrap();
    assert_eq!(outcome.end, End::Exit(3));
    let lines: Vec<_> = text(&outcome.stdout).lines().collect();
    assert_eq!(lines[0], "input");
    let mut variables: Vec<_> = lines[1..lines.len() - 1].to_vec();
    variables.retain(|line| !line.starts_with("PWD=") && !line.starts_with("_=") && !line.starts_with("OLDPWD="));
    variables.sort_unstable();
    assert_eq!(variables, ["NAME=a b", "PATH=/usr/bin:/bin"]);
    assert_eq!(lines.last(), Some(&"/usr"));
    // The fourth is the list's own.
    let outcome = spawner.run(&Request::new("/usr/bin/ls").args(["/proc/self/fd"])).unwrap();
    assert_eq!(text(&outcome.stdout), "0\n1\n2\n3\n");
    let outcome = spawner.run(&shell("echo wrong >&2; kill -TERM $$")).unwrap();
    assert_eq!((outcome.end, text(&outcome.stderr)), (End::Signal(15), "wrong\n"));
}

#[test]
fn a_program_leads_its_own_session_with_nothing_blocked_or_ignored() {
    let spawner = start(&["/usr/bin/grep"]);
    let args = ["-hE", "^[0-9]|^Sig(Blk|Ign)", "/proc/self/stat", "/proc/self/status"];
    let output = spawner.run(&Request::new("/usr/bin/grep").args(args)).unwrap().stdout;
    let (stat, masks) = text(&output).split_once('\n').unwrap();
    let stat: Vec<_> = stat.split_whitespace().collect();
    assert_eq!((stat[0], stat[0]), (stat[4], stat[5]), "process group and session are its own");
    let masks: Vec<_> = masks.split_whitespace().collect();
    assert_eq!(masks[..2], ["SigBlk:", "0000000000000000"]);
    // The signals above 31 are inherited from whoever ran the tests, and mean nothing to anyone.
    assert_eq!(u64::from_str_radix(masks[3], 16).unwrap() & 0x7fff_ffff, 0, "{masks:?}");
}

#[test]
fn long_input_and_output_pass_and_output_is_cut() {
    let spawner = start(&["/bin/sh", "/bin/cat"]);
    let mut request = shell("wc -c");
    request.stdin = vec![b'x'; 3 << 20];
    request.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    assert_eq!(text(&spawner.run(&request).unwrap().stdout).trim(), (3 << 20).to_string());
    request.program = "/bin/cat".into();
    request.args.clear();
    let outcome = spawner.run(&request).unwrap();
    assert_eq!((outcome.end, outcome.stdout.len()), (End::Exit(0), MAX_OUTPUT));
    request.args = vec!["x".repeat(1 << 20).into()];
    let error = spawner.run(&request).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::MSGSIZE), "{error}");
    assert_eq!(spawner.run(&shell("exit 0")).unwrap().end, End::Exit(0), "it goes on after a refusal");
}

#[test]
fn what_may_not_run_or_is_not_there_is_refused_by_name() {
    let spawner = start(&["/bin/sh", "/nonexistent/dnsmasq"]);
    let error = spawner.run(&Request::new("/bin/ls")).unwrap_err();
    assert_eq!(error.to_string(), "cannot run /bin/ls: it is not among the programs that may be run");
    let error = spawner.run(&Request::new("/nonexistent/dnsmasq")).unwrap_err();
    assert_eq!(error.to_string(), "cannot run /nonexistent/dnsmasq: it can't be started");
    assert_eq!(error.errno(), Some(Errno::NOENT));
}

#[test]
fn programs_of_an_allowed_directory_run() {
    let temporary = tempfile::tempdir().unwrap();
    let hook = temporary.path().join("10-hook");
    fs::write(&hook, "#!/bin/sh\necho \"$0 $1\"\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let allow = AllowList { directories: vec![temporary.path().to_owned()], ..AllowList::default() };
    let outcome = start_with(&allow).run(&Request::new(&hook).args(["started"])).unwrap();
    assert_eq!(text(&outcome.stdout), format!("{} started\n", hook.display()));
}

#[test]
fn a_file_on_the_list_is_read_and_no_other() {
    let temporary = tempfile::tempdir().unwrap();
    let [listed, other] = ["listed", "other"].map(|name| temporary.path().join(name));
    let spawner = start_with(&AllowList { files: vec![listed.clone()], ..AllowList::default() });
    assert_eq!(spawner.read(&listed).unwrap(), None);
    fs::write(&listed, "7\n").unwrap();
    fs::write(&other, "7\n").unwrap();
    assert_eq!(spawner.read(&listed).unwrap().as_deref(), Some(&b"7\n"[..]));
    let around = temporary.path().join("../").join(temporary.path().file_name().unwrap()).join("listed");
    for denied in [other.as_path(), temporary.path(), &around, Path::new("listed")] {
        let error = spawner.read(denied).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ACCESS), "{error}");
    }
    fs::write(&listed, vec![b'x'; 2 * MAX_FILE]).unwrap();
    assert_eq!(spawner.read(&listed).unwrap().unwrap().len(), MAX_FILE);
    // What never ends or begins is not waited for, and a program it is not.
    fs::remove_file(&listed).unwrap();
    assert!(Command::new("mkfifo").arg(&listed).status().unwrap().success());
    assert_eq!(spawner.read(&listed).unwrap().as_deref(), Some(&b""[..]));
    assert!(matches!(spawner.run(&Request::new(&listed)), Err(Error::Program { .. })));
    fs::remove_file(&listed).unwrap();
    fs::create_dir(&listed).unwrap();
    assert_eq!(spawner.read(&listed).unwrap_err().errno(), Some(Errno::ISDIR));
}

#[test]
fn a_program_whose_time_is_up_is_killed_with_its_group() {
    let spawner = start(&["/bin/sh"]);
    let mut request = shell("sleep 600 & echo $!; sleep 600");
    request.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    request.timeout = Duration::from_millis(300);
    let begin = Instant::now();
    let outcome = spawner.run(&request).unwrap();
    assert_eq!(outcome.end, End::TimedOut);
    assert!(begin.elapsed() >= request.timeout && begin.elapsed() < Duration::from_secs(60));
    let helper: u32 = text(&outcome.stdout).trim().parse().unwrap();
    wait_until("the helper's end", Duration::from_secs(5), || match Process::open(helper).unwrap() {
        None => Ok(()),
        Some(process) => Err(format!("{process:?}")),
    });
}

#[test]
fn several_run_at_once_and_a_hung_one_holds_up_nobody() {
    let temporary = tempfile::tempdir().unwrap();
    let fifo = temporary.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let spawner = start(&["/bin/sh"]);
    std::thread::scope(|scope| {
        // Ends only when another program, started later, opens the other end.
        let reader = scope.spawn(|| spawner.run(&shell(&format!("read line < {}; echo $line", fifo.display()))));
        let others: Vec<_> = (0..20)
            .map(|n| {
                scope.spawn({
                    let spawner = spawner.clone();
                    move || spawner.run(&shell(&format!("exit {n}"))).unwrap().end
                })
            })
            .collect();
        for (n, other) in others.into_iter().enumerate() {
            assert_eq!(other.join().unwrap(), End::Exit(i32::try_from(n).unwrap()));
        }
        assert_eq!(spawner.run(&shell(&format!("echo word > {}", fifo.display()))).unwrap().end, End::Exit(0));
        assert_eq!(reader.join().unwrap().unwrap().stdout, b"word\n");
    });
}

#[test]
fn what_a_program_leaves_running_is_not_waited_for_and_outlives_the_spawner() {
    let spawner = start(&["/bin/sh"]);
    let begin = Instant::now();
    let mut request = shell("sleep 600 & echo $!");
    request.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    let outcome = spawner.run(&request).unwrap();
    assert_eq!(outcome.end, End::Exit(0));
    assert!(begin.elapsed() < Duration::from_secs(60));
    let left = Process::open(text(&outcome.stdout).trim().parse().unwrap()).unwrap().unwrap();
    let server = Process::open(spawner.pid()).unwrap().unwrap();
    drop(spawner);
    assert!(server.wait(Duration::from_secs(5)).unwrap(), "the spawner ends with its socket");
    assert!(left.alive().unwrap());
    assert!(left.signal(Signal::Kill).unwrap());
}

#[test]
fn a_dead_spawner_is_an_error_at_once_also_for_those_who_wait() {
    let spawner = start(&["/bin/sh"]);
    spawner.run(&shell("exit 0")).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| spawner.run(&shell("kill -KILL $PPID; sleep 1")));
        assert!(matches!(waiting.join().unwrap(), Err(Error::SpawnerGone)));
    });
    assert!(matches!(spawner.run(&shell("exit 0")), Err(Error::SpawnerGone)));
    assert!(matches!(spawner.inspect(1), Err(Error::SpawnerGone)));
}

#[test]
fn processes_are_inspected_and_only_our_programs_are_signalled() {
    let spawner = start(&["/usr/bin/sleep"]);
    let mut ours = Command::new("/usr/bin/sleep").arg("600").spawn().unwrap();
    let mut foreign = Command::new("/usr/bin/tail").args(["-f", "/dev/null"]).spawn().unwrap();
    // Before and during exec there is another program or none.
    let info = wait_until("exec", Duration::from_secs(5), || {
        let info = spawner.inspect(ours.id()).unwrap().unwrap();
        if info.cmdline == ["/usr/bin/sleep", "600"] { Ok(info) } else { Err(format!("{info:?}")) }
    });
    assert_eq!(info.exe.as_deref(), Some(Path::new("/usr/bin/sleep")));
    assert_eq!(info.id, Process::open(ours.id()).unwrap().unwrap().id());
    let other = ProcessId { start_time: info.id.start_time + 1, ..info.id };
    assert!(!spawner.signal(other, Signal::Kill).unwrap());
    let id = Process::open(foreign.id()).unwrap().unwrap().id();
    assert_eq!(spawner.signal(id, Signal::Kill).unwrap_err().errno(), Some(Errno::ACCESS));
    assert!(spawner.signal(info.id, Signal::Terminate).unwrap());
    ours.wait().unwrap();
    assert!(spawner.inspect(ours.id()).unwrap().is_none());
    assert!(foreign.try_wait().unwrap().is_none());
    foreign.kill().unwrap();
    foreign.wait().unwrap();
}

#[test]
fn capabilities_are_restricted_for_one_program_only() {
    if !require_root() {
        return;
    }
    let spawner = start(&["/bin/sh"]);
    let mut request = shell("grep -E '^Cap(Prm|Bnd)' /proc/$$/status");
    request.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
    let all = spawner.run(&request).unwrap();
    request.capabilities = Some(CapabilitySet::NET_ADMIN | CapabilitySet::CHOWN);
    let outcome = spawner.run(&request).unwrap();
    assert_eq!(text(&outcome.stdout), "CapPrm:\t0000000000001001\nCapBnd:\t0000000000001001\n");
    request.capabilities = None;
    assert_eq!(spawner.run(&request).unwrap(), all);
}
