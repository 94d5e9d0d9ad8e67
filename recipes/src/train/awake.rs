//! Keeps a Mac awake while it trains.

use std::process::{Child, Command, Stdio};

/// As long as this lives, the machine does not fall asleep because nobody uses it. Its display may, and it does when it is closed.
pub(super) struct Awake(Option<Child>);

impl Awake {
    /// Keeps macOS awake, if that is wanted; does nothing on other systems.
    pub fn new(wanted: bool) -> Self {
        Self((wanted && cfg!(target_os = "macos")).then(|| caffeinate("/usr/bin/caffeinate")).flatten())
    }
}

/// Idle sleep, sleep of the disk, and on mains power of the system; until this process ends, even if it is killed.
fn caffeinate(program: &str) -> Option<Child> {
    let own = std::process::id().to_string();
    let mut command = Command::new(program);
    command.args(["-i", "-m", "-s", "-w", &own]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A Mac without it may fall asleep, which is no reason not to train.
    command.spawn().ok()
}

impl Drop for Awake {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It has ended already, or ends with this process.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_assertion_ends_with_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let (program, told) = (folder.path().join("caffeinate"), folder.path().join("told"));
        std::fs::write(
            &program,
            format!("#!/bin/sh\necho \"$@\" > {}.new\nmv {0}.new {0}\nexec sleep 60\n", told.display()),
        )
        .unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let awake = Awake(caffeinate(program.to_str().unwrap()));
        let begun = Instant::now();
        while !told.exists() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
        let told = std::fs::read_to_string(told).unwrap();
        assert_eq!(told.trim(), format!("-i -m -s -w {}", std::process::id()));
        drop(awake);
        assert!(begun.elapsed() < Duration::from_secs(50));
        assert!(caffeinate("/no/such/program").is_none() && Awake::new(false).0.is_none());
    }
}
