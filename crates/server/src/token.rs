//! The admin token: 256 random bits in a file that only its owner can read.
//!
//! The file is made once and used again after a restart. It appears whole or not at all, and with its mode from the beginning.
//! Whoever presents the token is judged by hashes compared in constant time, so neither time nor a copy of the server's memory of the
//! hash helps to guess it. One that others could have read is refused rather than repaired: it may be known already.

use crate::{Error, sys};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;

/// The file's name in the state folder.
pub const TOKEN_FILE: &str = "admin.token";

/// Random bytes of a token.
const BYTES: usize = 32;

/// What is remembered of a token.
pub(crate) struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    fn of(text: &str) -> Self {
        Token(Sha256::digest(text.as_bytes()).into())
    }

    /// Whether `presented` is the token.
    pub(crate) fn matches(&self, presented: &[u8]) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        self.0.ct_eq(&presented).into()
    }

    /// Reads the token of the state folder, and makes it first where there is none.
    pub(crate) fn of_state(state_dir: &Path) -> Result<Self, Error> {
        let path = state_dir.join(TOKEN_FILE);
        match open(&path) {
            Ok(file) => read(&path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(state_dir, &path)
                .map_err(|source| Error::Token {
                    path: path.clone(),
                    reason: "it cannot be written".into(),
                    source: Some(source),
                }),
            Err(source) => Err(Error::Token {
                path,
                reason: "it cannot be read".into(),
                source: Some(source),
            }),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        // Neither a link to somewhere else nor a pipe that blocks.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
}

fn read(path: &Path, mut file: File) -> Result<Token, Error> {
    let refuse = |reason: &str| Error::Token {
        path: path.to_owned(),
        reason: reason.to_owned(),
        source: None,
    };
    let unreadable = |source| Error::Token {
        path: path.to_owned(),
        reason: "it cannot be read".into(),
        source: Some(source),
    };
    let about = file.metadata().map_err(unreadable)?;
    if !about.is_file() {
        return Err(refuse("it is no file"));
    }
    if about.uid() != sys::effective_uid() {
        return Err(refuse("it belongs to another user"));
    }
    if about.mode() & 0o077 != 0 {
        return Err(refuse(
            "others may read or write it, so it may be known; remove it, and a new one is made at the next start",
        ));
    }
    let mut text = String::new();
    (&mut file)
        .take(2 * BYTES as u64 + 2)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    let text = text.trim_end_matches('\n');
    if text.len() != 2 * BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(refuse(
            "it is no token of 64 hexadecimal digits; remove it, and a new one is made at the next start",
        ));
    }
    Ok(Token::of(text))
}

fn make(state_dir: &Path, path: &Path) -> io::Result<Token> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();

    let temporary: PathBuf = state_dir.join(format!(".{TOKEN_FILE}.{}", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        // Unlike a rename, a link does not replace what somebody put there meanwhile.
        fs::hard_link(&temporary, path)
    })();
    let removed = fs::remove_file(&temporary);
    written?;
    removed?;
    File::open(state_dir)?.sync_all()?;
    Ok(Token::of(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("flyball-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// API-6: the admin token has 256 bits, its file mode 0600, survives a restart, and is compared by hash.
    #[test]
    fn a_token_is_made_once_and_only_its_owner_reads_it() {
        let folder = Folder::new("token");
        let made = Token::of_state(&folder.0).unwrap();
        let path = folder.0.join(TOKEN_FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), 65);
        let token = text.trim_end();
        let read = Token::of_state(&folder.0).unwrap();
        for (presented, right) in [
            (token, true),
            (&token[..63], false),
            (text.as_str(), false),
            ("", false),
        ] {
            assert_eq!(made.matches(presented.as_bytes()), right);
            assert_eq!(read.matches(presented.as_bytes()), right);
        }
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
        assert!(!format!("{made:?}").contains(&token[..8]));
    }

    /// API-6: a token file that others can read, that is no file, or that holds something else, is refused.
    #[test]
    fn a_doubtful_token_file_is_refused() {
        let folder = Folder::new("doubtful");
        let path = folder.0.join(TOKEN_FILE);
        Token::of_state(&folder.0).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Token::of_state(&folder.0).unwrap_err().to_string();
            assert!(error.contains("others may read"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for content in ["", "short\n", &"x".repeat(64), &"a".repeat(65)] {
            fs::write(&path, content).unwrap();
            let error = Token::of_state(&folder.0).unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(Token::of_state(&folder.0).is_err());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(Token::of_state(&folder.0).is_err());
    }
}
